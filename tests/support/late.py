"""Requests whose deadline passes while the target, an emulated one, has a call of theirs."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.bridge import CallError
from tests.support.target import Target


def time_out(target: Target, method: str, request: Callable[[float], Any], when: str = "before") -> CallError:
    """Makes a request, which is given its deadline in seconds, while the target holds `method`; the error it ends in.

    The target has not begun (before) or not answered (after) until its faults are cleared. The deadline grows until the
    target was asked before it passed; a request that did not get so far has changed nothing.
    """
    for attempt in itertools.count():
        target.rpc("emulator_clear_faults")
        target.rpc("emulator_call_counts", reset=True)
        target.rpc("emulator_inject_fault", action="hold", method=method, when=when, count=1)
        try:
            answer = request(0.2 * 2**attempt)
        except CallError as problem:
            if problem.code != "DEADLINE_EXCEEDED":
                raise
            if method in target.rpc("emulator_call_counts")["calls"]:
                return problem
        else:
            raise AssertionError(f"answered {answer} instead of timing out")
    raise AssertionError


@contextlib.contextmanager
def let_go_later(target: Target, after_s: float = 0.4) -> Iterator[None]:
    """What the target holds goes on a while later, during what is done inside; in any case before the end."""
    late = threading.Timer(after_s, target.rpc, ["emulator_clear_faults"])
    late.start()
    try:
        yield
    finally:
        late.join()
