"""Faults on demand, a layer: methods that no real target has, and calls that go wrong as they ask."""

import asyncio
import os
from dataclasses import dataclass
from typing import Any, Literal

from .dispatch import Handler, HangUpError, outcome
from .registry import EMULATOR_PREFIX, INTERNAL_ERROR, NVMF_FAILURE, MethodTable, RpcError
from .schema import I32, U32

methods = MethodTable["Faults"](NVMF_FAILURE)

ANY_METHOD = "*"
CRASH_STATUS = 134
"""What a shell reports for a process that aborted."""


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
            return not method.startswith(EMULATOR_PREFIX)
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

    def layer(self, name: str, params: Any, below: Handler) -> Any:
        fault = self._next(name)
        if fault is None:
            return below(name, params)
        if fault.when == "before":
            self._end(fault)  # at once, as a target reads no call behind one at which it, or its connection, ends
        return self._struck(fault, name, params, below)

    async def _struck(self, fault: Fault, name: str, params: Any, below: Handler) -> Any:
        if fault.when == "before":
            await self._strike(fault)
        answer = await outcome(below(name, params))
        if fault.when == "after":
            await self._strike(fault)
        return answer

    async def _strike(self, fault: Fault) -> None:
        self._end(fault)
        if fault.action == "delay":
            await asyncio.sleep(fault.delay_ms / 1000)
        elif fault.action == "hold":
            await self._cleared.wait()
        else:
            raise RpcError(fault.code, fault.message)

    @staticmethod
    def _end(fault: Fault) -> None:
        """The faults that end the target or the connection."""
        if fault.action == "die":
            os._exit(CRASH_STATUS)
        if fault.action == "drop":
            raise HangUpError

    def _next(self, method: str) -> Fault | None:
        """The fault that strikes this call, if one does; it counts."""
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


@methods.rpc("emulator_inject_fault", Fault)
def inject_fault(faults: Faults, params: Fault) -> None:
    """What befalls a call: `action`.

    delay: by `delay_ms`; hold: until emulator_clear_faults; drop: hang up; error: answer `code` and `message`, not
    executed; die: exit at once.
    `when` says whether the call is executed before (after) or not (before).
    """
    faults.add(params)


@methods.plain("emulator_clear_faults")
def clear_faults(faults: Faults) -> None:
    faults.clear()
