"""The deadline of the call being served, carried by the task: whatever waits for the target or a lock obeys it.

Deadlines are points on the monotonic clock in seconds (`time.monotonic()`), never wall-clock times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def limit(timeout_s: float) -> Iterator[None]:
    """Sets the deadline of everything awaited or started inside to `timeout_s` from now, replacing an outer one."""
    token = _deadline.set(time.monotonic() + timeout_s)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_s(default_s: float) -> float:
    """Seconds left, at most `default_s`; `default_s` where no deadline is set; never below 0."""
    deadline = _deadline.get()
    return default_s if deadline is None else max(0.0, min(default_s, deadline - time.monotonic()))
