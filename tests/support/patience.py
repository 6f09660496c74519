"""How long tests wait for what should come."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

PATIENCE_S = 120.0
"""The limit of every wait that only a failure outlasts: far above what the slowest machine needs, so that no test says
how fast a machine is."""
HOUR_S = 3600.0
"""A time that does not pass during a test; a `Clock` can be moved on by it."""


async def until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
    """Waits until it holds; what it returns may have to be awaited."""
    async with asyncio.timeout(timeout_s):
        while not await _outcome(condition()):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


async def _outcome(told: Any) -> Any:
    return await told if inspect.isawaitable(told) else told


async def spin(turns: int = 50) -> None:
    """Lets everything else run that is ready in this event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
