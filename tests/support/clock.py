"""The monotonic clock of the tests' own process, which a test can move on."""

from __future__ import annotations

import time

import pytest


class Clock:
    """Deadlines, pauses and timers of the event loop pass because a test says so, not because a machine was slow.

    It goes on with the machine's; what has to pass in a test is set so long that only `advance` brings it about.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = time.monotonic
        self._ahead_s = 0.0
        monkeypatch.setattr(time, "monotonic", self._now)

    def advance(self, seconds: float) -> None:
        """Lets that much time have passed; what is due then happens in the next turn of the event loop."""
        self._ahead_s += seconds

    def _now(self) -> float:
        return self._real() + self._ahead_s
