"""NvmeController on SPDK: a listener of its subsystem."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph
from opi_spdk_bridge.core.record import Facts, Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.nvme_controller import ControllerOwn
from opi_spdk_bridge.kinds.shared.addresses import is_pcie, socket_folder
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import ListenAddress
from opi_spdk_bridge.spdk.shared import VFIO_USER_SOCKET
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import TRANSPORT_METHODS, Target
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.discovery import Discovery
from opi_spdk_bridge.targets.spdk.hotplug import Function, Host
from opi_spdk_bridge.targets.spdk.listening import in_words, listen_address, same_address, why_not_listening


@dataclass(frozen=True)
class Seen:
    """The controller's listener; where the discovery subsystem listens, if hosts are to discover at the address."""

    listener: ListenAddress
    discovery: Sequence[ListenAddress] | None = None


class NvmeControllerSide(SpdkSide[NvmeController, ControllerOwn, Seen]):
    """Over vfio-user where hosts are to see a PCIe function."""

    def __init__(self, target: Target, graph: Graph, host: Host) -> None:
        super().__init__(target, graph, host)
        self._discovery = Discovery(target, graph)

    async def look(self, record: Record[NvmeController, ControllerOwn], view: View) -> Seen | None:
        subsystem, discovery = await asyncio.gather(
            view.subsystem(self.parent(record).desired.spec.nqn), self._look_at_discovery(record, view)
        )
        wanted = listen_address(record, self.target.shared)
        for address in subsystem.listen_addresses if subsystem is not None else ():
            if same_address(address, wanted):
                return Seen(address, discovery)
        return None

    async def _look_at_discovery(
        self, record: Record[NvmeController, ControllerOwn], view: View
    ) -> Sequence[ListenAddress] | None:
        return await self._discovery.look(view) if self._is_plain(record) else None

    def _is_plain(self, record: Record[NvmeController, ControllerOwn]) -> bool:
        """Whether hosts can discover at its address: it has one, and that demands no TLS."""
        return not is_pcie(record.desired) and not self.parent(record).desired.spec.psk

    def steps(self, record: Record[NvmeController, ControllerOwn], seen: Seen | None) -> list[Step]:
        function = self._function(record) if is_pcie(record.desired) else None
        if seen is not None:
            plugged = self.host.plug(record, function) if function is not None else []
            return [*self._discovery.restore(record, seen.discovery), *plugged]
        parent, address = self.parent(record).desired.spec, listen_address(record, self.target.shared)
        steps: list[Step] = []
        plug: list[Step] = []
        if function is not None:
            shared, folder = self.target.shared, socket_folder(record.desired)
            shared.require_socket_fits(folder)
            plug = [*self.host.bereaved(function), *self.host.plug(record, function)]
            steps.append(
                Step(
                    f"the folder {folder} is missing",
                    lambda: shared.make_socket_folder(folder),
                    lambda: shared.remove_socket_folder(folder),
                )
            )
        make = functools.partial(self.target.make_transport, address.trtype)
        steps.append(Step(f"transport {address.trtype} is missing", make))
        listen = Step(
            f"{parent.nqn} does not listen at {in_words(address)}",
            methods.nvmf_subsystem_add_listener(parent.nqn, address, bool(parent.psk)),
            methods.nvmf_subsystem_remove_listener(parent.nqn, address),
        )
        return [*steps, listen, *(self._discovery.add(record) if self._is_plain(record) else []), *plug]

    def removal(self, record: Record[NvmeController, ControllerOwn], present: bool) -> list[Step]:
        pcie = is_pcie(record.desired)
        steps = self.host.unplug(self._function(record)) if pcie else []
        if present:
            address = listen_address(record, self.target.shared)
            remove = methods.nvmf_subsystem_remove_listener(self.parent(record).desired.spec.nqn, address)
            steps.append(Step(f"the listener at {in_words(address)} is still there", remove))
        if not pcie and any(not state.desired.spec.psk for state in self.parent(record).states):
            steps += self._discovery.drop(record)  # plain, or not known to be secure by now
        if pcie:
            shared, folder = self.target.shared, socket_folder(record.desired)
            steps.append(Step(f"the folder {folder} is still there", lambda: shared.remove_socket_folder(folder)))
        return steps

    async def diagnose(self, record: Record[NvmeController, ControllerOwn], failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, errors.BridgeError):
            return error
        address, nqn = listen_address(record, self.target.shared), self.parent(record).desired.spec.nqn
        if error.method in TRANSPORT_METHODS:
            text = f"the target cannot make the {address.trtype} transport: {error.message}"
            return errors.FailedPrecondition(text, field="spec.trtype")
        subsystem = await self.target.view().subsystem(nqn)
        if subsystem is None:
            text = f"subsystem {nqn} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.parent)
        cause = self._discovery.why_not(record, failure) if not is_pcie(record.desired) else None
        if cause is None and error.method == "nvmf_subsystem_add_listener":
            cause = why_not_listening(error, address, subsystem)
        return cause or failure.undiagnosed()

    def foreign(self, record: Record[NvmeController, ControllerOwn]) -> errors.BridgeError:
        at = in_words(listen_address(record, self.target.shared))
        text = f"{record.parent} already listens at {at}, by somebody else's doing"
        return errors.AlreadyExists(text, field="spec.fabrics_id", resource=record.name)

    def shown(self, record: Record[NvmeController, ControllerOwn], seen: Seen | None) -> Facts:
        return {"status.active": seen is not None}

    def shown_when_ready(self, record: Record[NvmeController, ControllerOwn]) -> Facts:
        return {"status.active": True}

    async def measure(self, record: Record[NvmeController, ControllerOwn]) -> Counters:
        return await self.namespace_counters(record.parent)

    def _function(self, record: Record[NvmeController, ControllerOwn]) -> Function:
        async def socket() -> str:
            return f"{listen_address(record, self.target.shared).traddr}/{VFIO_USER_SOCKET}"

        return Function(record.desired.spec.pcie_id.physical_function.value, record.id, True, socket)
