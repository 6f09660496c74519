"""One connection to QEMU's monitor, from the greeting to the hang-up, and what the virtual machine has plugged in.

A command that was sent and not answered has an unknown outcome (ConnectionLost, AnswerTimeout); what QEMU refuses is a
Refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate, StateError

from opi_spdk_bridge import deadline, errors

_PERIPHERAL = "/machine/peripheral"  # where QEMU has all devices that were given an ID
_CLOSE_S = 1.0

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it reports every attempt to connect as an error


class Refused(errors.FailedPrecondition):
    """QEMU's error, in its own words."""

    def __init__(self, command: str, refusal: ExecuteError) -> None:
        super().__init__(f"QEMU refused {command}: {refusal}")
        self.absent = refusal.error_class == "DeviceNotFound"


class Session:
    """`devices` has the drivers of what is plugged in by device ID, kept up to date by QEMU's events."""

    def __init__(self, answer_timeout_s: float) -> None:
        self._answer_timeout_s = answer_timeout_s
        self._client = QMPClient()
        self._client.events.names = {"DEVICE_DELETED"}  # the library keeps for good what it lets in
        self._change = asyncio.Event()
        self._hung = False
        self.version = (0, 0)
        self.devices: dict[str, str] = {}

    async def open(self, address: str | tuple[str, int]) -> None:
        """Connects and looks around; raises QMPError, OSError, TimeoutError, and ValueError for what is no QEMU."""
        async with asyncio.timeout(self._answer_timeout_s):
            await self._client.connect(address)
            found: Any = await self._client.execute("qom-list", {"path": _PERIPHERAL})
        greeting = self._client.greeting
        try:
            release: Any = greeting.QMP.version["qemu"] if greeting is not None else None
            self.version = (int(release["major"]), int(release["minor"]))
            types = {str(item["name"]): str(item["type"]) for item in found}
        except (KeyError, TypeError) as problem:
            raise ValueError(f"it does not tell its version and devices: {problem!r}") from None
        children = {name: of.removeprefix("child<") for name, of in types.items() if of.startswith("child<")}
        self.devices = {name: driver.removesuffix(">") for name, driver in children.items()}

    async def lasts(self) -> None:
        """Returns when the connection is over."""
        watching = [asyncio.create_task(watch()) for watch in (self._keep_devices, self._wait_for_hangup)]
        try:
            while self._alive:
                await self._change.wait()
        finally:
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)

    async def close(self) -> None:
        """Ends the connection, whatever state it is in."""
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._client.disconnect()
        self._changed()

    async def execute(self, command: str, **arguments: Any) -> Any:
        """QEMU's answer to the command."""
        timeout_s = deadline.remaining_s(self._answer_timeout_s)
        if timeout_s <= 0:
            raise errors.DeadlineExceeded(f"the deadline passed before {command} was sent to QEMU")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.execute(command, arguments)
        except ExecuteError as refusal:
            raise Refused(command, refusal) from None
        except (ExecInterruptedError, StateError):  # the latter: just before, and others may have been carried out
            raise _lost(command) from None
        except TimeoutError:
            self._hung = timeout_s == self._answer_timeout_s
            self._changed()
            text = f"QEMU did not answer {command} within {timeout_s:.3g} s; it may still carry it out"
            raise errors.AnswerTimeout(text) from None
        except QMPError as problem:
            raise errors.AnswerUnreadable(f"QEMU's answer to {command} cannot be read: {problem}") from None

    async def left(self, device_id: str, within_s: float) -> bool:
        """Whether the device goes within so many seconds; raises ConnectionLost when QEMU hangs up before it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while device_id in self.devices and self._alive:
                    await self._change.wait()
        if device_id in self.devices and not self._alive:
            raise _lost("device_del")
        return device_id not in self.devices

    @property
    def _alive(self) -> bool:
        return self._client.runstate is Runstate.RUNNING and not self._hung

    async def _keep_devices(self) -> None:
        async for event in self._client.events:
            gone: Any = event.get("data")
            if isinstance(gone, dict) and self.devices.pop(gone.get("device", ""), None) is not None:
                self._changed()

    async def _wait_for_hangup(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        self._changed()

    def _changed(self) -> None:
        """Wakes whoever waits for a device to go or for the end."""
        self._change.set()
        self._change = asyncio.Event()


def _lost(command: str) -> errors.ConnectionLost:
    return errors.ConnectionLost(f"QEMU hung up during {command}")
