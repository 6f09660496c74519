"""Faults on demand, and what the target was asked: methods that no real target has, so rpc_get_methods omits them."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .registry import INTERNAL_ERROR, NVMF_FAILURE, MethodTable
from .schema import I32, U32

if TYPE_CHECKING:
    from .target import Target

methods = MethodTable(NVMF_FAILURE)

PREFIX = "emulator_"
ANY_METHOD = "*"


@dataclass
class Fault:
    """One fault. It lets `skip` matching calls pass, then strikes `count` of them (0: all)."""

    action: Literal["delay", "hold", "drop", "error", "die"]
    method: str = ANY_METHOD
    when: Literal["before", "after"] = "before"
    count: U32 = 0
    skip: U32 = 0
    delay_ms: U32 = 0
    code: I32 = INTERNAL_ERROR
    message: str = "Injected fault"

    def matches(self, method: str) -> bool:
        if self.method == ANY_METHOD:
            return not method.startswith(PREFIX)
        return self.method == method


class Faults:
    """The faults in force, the oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._cleared = asyncio.Event()

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def hold_up(self, fault: Fault) -> None:
        """Keeps a call that was struck waiting, where that is what the fault does."""
        if fault.action == "delay":
            await asyncio.sleep(fault.delay_ms / 1000)
        elif fault.action == "hold":
            await self._cleared.wait()

    def strike(self, method: str) -> Fault | None:
        """The fault that strikes this call, if one does."""
        for fault in self._faults:
            if not fault.matches(method):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.count == 1:
                self._faults.remove(fault)
            elif fault.count:
                fault.count -= 1
            return fault
        return None


@dataclass
class Traffic:
    """What went over the JSON-RPC sockets. A look is one pass over the sockets that found something to read."""

    looks: int = 0
    answers: int = 0
    answer_bytes: int = 0
    longest_answer_bytes: int = 0

    def count_answer(self, size_bytes: int) -> None:
        self.answers += 1
        self.answer_bytes += size_bytes
        self.longest_answer_bytes = max(self.longest_answer_bytes, size_bytes)


@dataclass
class Activity:
    """Calls by method, and the traffic, since the start or the last reset."""

    calls: dict[str, int] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)

    def count_call(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1


@dataclass(frozen=True)
class CallCounts:
    reset: bool = False


@methods.rpc("emulator_inject_fault", Fault, startup=True)
def inject_fault(target: "Target", params: Fault) -> None:
    """What befalls a call: `action`.

    delay: by `delay_ms`; hold: until emulator_clear_faults; drop: hang up; error: answer `code` and `message`, not
    executed; die: exit at once.
    `when` says whether the call is executed before (after) or not (before).
    """
    target.faults.add(params)


@methods.plain("emulator_clear_faults", startup=True)
def clear_faults(target: "Target") -> None:
    target.faults.clear()


@methods.rpc("emulator_call_counts", CallCounts, startup=True)
def call_counts(target: "Target", params: CallCounts) -> dict[str, Any]:
    """Without the emulator_* calls themselves."""
    activity = target.activity
    calls = {method: count for method, count in activity.calls.items() if not method.startswith(PREFIX)}
    answer = {"calls": calls, **vars(activity.traffic)}
    if params.reset:
        target.activity = Activity()
    return answer
