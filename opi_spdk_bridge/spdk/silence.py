"""Notices that a target has stopped answering: one that hangs, or was stopped, keeps its connections.

One slow call is no silence as long as others are answered. So where nothing has come for half the time that a target
is given, a call is sent that every target answers at once, and only when that is not answered, either, it is silent.
While everything is answered nothing is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

_LAST_CHANCE_S = 0.1  # for what came while this process itself was held up: it is read first


class Line(Protocol):
    """A connection to the target."""

    heard: asyncio.Event
    """Set whenever something comes."""

    def silent_s(self) -> float:
        """For how many seconds nothing has come although a call is waiting; 0 where none is."""

    def probe(self) -> None:
        """Sends a call that costs the target nothing."""


async def watch(line: Line, limit_s: float, fell_silent: Callable[[], None], answers_again: Callable[[], None]) -> None:
    """Runs until it is cancelled, and tells of a silence of `limit_s` and of its end."""
    while True:
        await asyncio.sleep(limit_s / 4)
        if line.silent_s() < limit_s / 2:
            continue
        line.heard.clear()
        line.probe()
        left_s = max(limit_s / 4, limit_s - line.silent_s())
        if await _heard(line, left_s) or await _heard(line, min(_LAST_CHANCE_S, limit_s)):
            continue
        fell_silent()
        await line.heard.wait()
        answers_again()


async def _heard(line: Line, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await line.heard.wait()
    except TimeoutError:
        return False
    return True
