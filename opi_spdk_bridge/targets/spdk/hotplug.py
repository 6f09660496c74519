"""PCI functions of a virtual machine: devices that QEMU plugs in when a resource is made and out when it goes.

Without QEMU (`Host`) functions are there by other means: a DPU's hardware, an operator.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import AnyRecord, Phase
from opi_spdk_bridge.pb.storage.opicommon_pb2 import PciEndpoint
from opi_spdk_bridge.qemu.device import Device
from opi_spdk_bridge.sockets import too_long
from opi_spdk_bridge.spdk.steps import Step

if TYPE_CHECKING:
    from opi_spdk_bridge.qemu.machine import Machine

log = logging.getLogger(__name__)

_SLOTS = 32  # of a PCI bus
_VFIO_USER_SINCE = (10, 1)


@dataclass(frozen=True, slots=True)
class Function:
    """What is behind a PCI function: `socket` tells the path of its server's socket, as the target sees it."""

    number: int
    name: str
    vfio_user: bool
    socket: Callable[[], Awaitable[str]] = field(compare=False)

    @property
    def device(self) -> Device:
        """The device by its identity: the function has one holder, the name tells whose it is."""
        driver = "vfio-user-pci" if self.vfio_user else "vhost-user-blk-pci"
        return Device(f"opi-pf{self.number}-{self.name}", driver)


class Host:
    """Sees the functions without anybody's help: there is nothing to do."""

    async def start(self, on_connected: Callable[[], None]) -> None:
        """Starts connecting; `on_connected` runs whenever what is plugged in may be other than it was."""

    async def close(self) -> None:
        """Ends the connection."""

    def check(self, endpoint: PciEndpoint, field: str) -> None:
        """Raises InvalidArgument for a function that the host has no place for; `field` is the endpoint's."""

    def plug(self, record: AnyRecord, function: Function, *, again: bool = False) -> list[Step]:
        """What is left to have the record's function plugged in; `again` after it is unplugged."""
        return []

    def unplug(self, function: Function, *, undo: bool = False) -> list[Step]:
        """Takes it out; absent is success. `undo` where it comes back when a later step fails."""
        return []

    def bereaved(self, function: Function) -> list[Step]:
        """Says so where a vfio-user function is plugged in whose server has gone: it will not find the next one."""
        return []


class QemuHost(Host):
    """A virtual machine. Functions follow each other over the `buses`, 32 on each; without buses QEMU chooses.

    `folders` are pairs of a folder as the target sees it and the same as QEMU does, where that differs.
    """

    def __init__(self, machine: Machine, buses: Sequence[str], folders: Sequence[tuple[str, str]]) -> None:
        self._machine = machine
        self._buses = buses
        self._folders = folders

    async def start(self, on_connected: Callable[[], None]) -> None:
        self._machine.on_connected.append(on_connected)
        await self._machine.start()

    async def close(self) -> None:
        await self._machine.close()

    def check(self, endpoint: PciEndpoint, field: str) -> None:
        number = endpoint.physical_function.value
        if self._buses and number >= _SLOTS * len(self._buses):
            places = f"{', '.join(self._buses)}: 0 to {_SLOTS * len(self._buses) - 1}"
            text = f"{field}.physical_function {number} has no place on the buses {places}"
            raise errors.InvalidArgument(text, field=f"{field}.physical_function")

    def plug(self, record: AnyRecord, function: Function, *, again: bool = False) -> list[Step]:
        there = self._machine.has(function.device)
        if there is None and record.phase is Phase.READY:
            return []  # nothing can be done about it, and it is looked at again when QEMU is back
        if there and not again:
            return []
        says = f"{function.device.id} is not plugged into QEMU"
        return [Step(says, lambda: self._plug(function), lambda: self._machine.unplug(function.device))]

    def unplug(self, function: Function, *, undo: bool = False) -> list[Step]:
        says = f"{function.device.id} is still plugged into QEMU"
        back = functools.partial(self._plug_back, function) if undo else None
        return [Step(says, lambda: self._machine.unplug(function.device), back)]

    def bereaved(self, function: Function) -> list[Step]:
        device = function.device

        async def tell() -> None:  # and do no more: QEMU 11.1 aborts, with all of the guest, when it is unplugged
            log.error("%s: its target was restarted, the guest's controller is dead until it is made anew", device.id)

        return [Step(f"{device.id} has lost its target", tell)] if self._machine.has(device) else []

    async def _plug_back(self, function: Function) -> None:
        with contextlib.suppress(errors.Unavailable):  # then it is plugged in when QEMU is back
            await self._plug(function)

    async def _plug(self, function: Function) -> None:
        identity, path = function.device, self._as_qemu_sees(await function.socket())
        if problem := too_long(path):
            text = f"QEMU cannot connect to {identity.id}: {problem}: let it see a shorter one (--qmp-folders)"
            raise errors.FailedPrecondition(text)
        place = self._place(function.number)
        if function.vfio_user:
            properties = {"socket": {"type": "unix", "path": path}, **place}
            device = Device(identity.id, identity.driver, properties, since=_VFIO_USER_SINCE)
        else:
            device = Device(identity.id, identity.driver, place, chardev=path)
        await self._machine.plug(device)

    def _place(self, number: int) -> dict[str, str]:
        if not self._buses:
            return {}
        bus, slot = divmod(number, _SLOTS)
        if bus >= len(self._buses):
            text = f"PCI function {number} has no place on the buses {', '.join(self._buses)} (--qmp-buses)"
            raise errors.FailedPrecondition(text)
        return {"bus": self._buses[bus], "addr": f"{slot:#x}"}

    def _as_qemu_sees(self, path: str) -> str:
        for here, there in self._folders:
            if PurePosixPath(path).is_relative_to(here):
                return str(PurePosixPath(there) / PurePosixPath(path).relative_to(here))
        return path
