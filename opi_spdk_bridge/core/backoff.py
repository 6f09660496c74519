"""Who is to be looked at again, and when: exponential backoff with jitter, a record at a time."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 60.0
_FAILURES_MAX = 10
"""So many and more make no difference."""


@dataclass(slots=True)
class _Due:
    at: float
    failures: int


class Backoff:
    """Names with the time (monotonic) at which each is due."""

    def __init__(self) -> None:
        self._due: dict[str, _Due] = {}

    def soon(self, name: str) -> None:
        """Makes a name due now; one that keeps failing keeps its place."""
        if name not in self._due:
            self._due[name] = _Due(time.monotonic(), 0)

    def hurry(self, name: str) -> None:
        """Makes a name that keeps failing due now: what it lacked may have come."""
        if name in self._due:
            self._due[name].at = time.monotonic()

    def failed(self, name: str, *, for_long: bool = False) -> None:
        """Makes a name due later than the last time, up to a minute, or that late at once: for what no try can help."""
        failures = self._due[name].failures + 1 if name in self._due else 1
        if for_long:
            failures = max(failures, _FAILURES_MAX)
        delay_s = min(_FIRST_DELAY_S * 2 ** min(failures, _FAILURES_MAX), _LONGEST_DELAY_S)
        self._due[name] = _Due(time.monotonic() + delay_s * random.uniform(0.5, 1.0), failures)

    def done(self, name: str) -> None:
        """Forgets a name: it is as it should be, or gone."""
        self._due.pop(name, None)

    def waits(self, name: str) -> bool:
        """Whether the name has failed and is not due yet."""
        due = self._due.get(name)
        return due is not None and due.at > time.monotonic()

    def reset(self) -> None:
        """Makes everything due now: the world has changed."""
        now = time.monotonic()
        for due in self._due.values():
            due.at = now

    def take(self) -> list[str]:
        """The names that are due."""
        now = time.monotonic()
        return [name for name, due in self._due.items() if due.at <= now]

    def next_in_s(self, longest_s: float) -> float:
        """Seconds until the next name is due, at most `longest_s`."""
        first = min((due.at for due in self._due.values()), default=float("inf"))
        return max(0.0, min(longest_s, first - time.monotonic()))
