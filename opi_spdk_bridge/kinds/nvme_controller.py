"""NvmeController: a listener of a subsystem, over TCP, RDMA or (vfio-user) PCIe."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Graph, Record, Reservation, Settled
from opi_spdk_bridge.core.volumes import Volumes
from opi_spdk_bridge.kinds import rules
from opi_spdk_bridge.kinds.addresses import (
    FABRICS,
    FAMILIES,
    PORT_SPELLING,
    address_reservation,
    in_words,
    is_pcie,
    listen_address,
    place,
    same_address,
    socket_folder,
    why_not_listening,
)
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.kinds.discovery import Discovery
from opi_spdk_bridge.kinds.hotplug import Function, Host
from opi_spdk_bridge.kinds.pci import check_function, function_reservation
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeControllerSpec
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import ListenAddress
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import TRANSPORT_METHODS, Target
from opi_spdk_bridge.spdk.view import View


@dataclass(frozen=True)
class Seen:
    """The controller's listener; where the discovery subsystem listens, if hosts are to discover at the address."""

    listener: ListenAddress
    discovery: Sequence[ListenAddress] | None = None


class NvmeControllerKind(SpdkKind[NvmeController, Seen]):
    """SPDK has no use for nvme_controller_id, max_nsq, max_ncq, sqes, cqes, max_namespaces: kept and returned only."""

    message = NvmeController
    immutable: ClassVar[tuple[str, ...]] = ("spec.trtype", "spec.fabrics_id", "spec.pcie_id")

    def __init__(self, target: Target, graph: Graph, volumes: Volumes, host: Host) -> None:
        super().__init__(target, graph, volumes, host)
        self._discovery = Discovery(target, graph)

    def normalise(self, resource: NvmeController) -> None:
        fabrics = resource.spec.fabrics_id
        if not resource.spec.HasField("fabrics_id"):
            return
        if fabrics.adrfam in FAMILIES:
            fabrics.traddr = rules.address(fabrics.traddr, FAMILIES[fabrics.adrfam][1], "spec.fabrics_id.traddr")
        fabrics.trsvcid = rules.port(fabrics.trsvcid, "spec.fabrics_id.trsvcid")

    def modernise(self, record: Record) -> Record:
        spelt = record.desired.spec.fabrics_id.trsvcid
        record = super().modernise(record)
        if record.desired.spec.fabrics_id.trsvcid == spelt:
            return record
        return replace(record, private={**record.private, PORT_SPELLING: spelt})

    def check(self, resource: NvmeController) -> None:
        spec = resource.spec
        if spec.trtype in FABRICS:
            _check_fabrics(spec)
        elif is_pcie(resource):
            if not spec.HasField("pcie_id"):
                text = "spec.pcie_id is required: trtype is NVME_TRANSPORT_TYPE_PCIE"
                raise errors.InvalidArgument(text, field="spec.pcie_id")
            check_function(spec.pcie_id, "spec.pcie_id")
            self.host.check(spec.pcie_id, "spec.pcie_id")
        else:
            name = opi.NvmeTransportType.Name(spec.trtype)
            raise errors.InvalidArgument(f"spec.trtype {name} is not served: TCP, RDMA or PCIE", field="spec.trtype")
        for limit in ("min_limit", "max_limit"):
            if spec.HasField(limit):
                text = f"spec.{limit}: the target cannot limit a controller; limit its volumes with a QosVolume"
                raise errors.InvalidArgument(text, field=f"spec.{limit}")

    async def settle(self, name: str, resource: NvmeController, before: Record | None) -> Settled:
        parent = self.graph.record(name.rsplit("/", 2)[0])
        if parent is not None and is_pcie(resource) and parent.desired.spec.hostnqn:
            text = f"{parent.name} is for one host only (hostnqn), which a PCIe controller cannot enforce"
            raise errors.FailedPrecondition(text, field="spec.trtype", resource=parent.name)
        private = before.private if before is not None else self._discovery.inherited(name, resource)
        return Settled(private=private, stands_on=(parent.name,) if parent is not None else ())

    def reserves(self, record: Record) -> Iterable[Reservation]:
        controller: NvmeController = record.desired
        if is_pcie(controller):
            return (function_reservation(controller.spec.pcie_id, "spec.pcie_id"),)
        parent = self.parent(record).desired.spec
        at = place(controller.spec)
        own = Reservation(
            f"listener:{parent.nqn} {at}", f"the listener of {parent.nqn} at {at}", field="spec.fabrics_id"
        )
        address = address_reservation(controller, bool(parent.psk))
        return (own, address) if address else (own,)

    # On the target

    async def look(self, record: Record, view: View) -> Seen | None:
        subsystem, discovery = await asyncio.gather(
            view.subsystem(self.parent(record).desired.spec.nqn), self._look_at_discovery(record, view)
        )
        wanted = listen_address(record, self.target.shared)
        for address in subsystem.listen_addresses if subsystem is not None else ():
            if same_address(address, wanted):
                return Seen(address, discovery)
        return None

    async def _look_at_discovery(self, record: Record, view: View) -> Sequence[ListenAddress] | None:
        return await self._discovery.look(view) if self._is_plain(record) else None

    def _is_plain(self, record: Record) -> bool:
        """Whether hosts can discover at its address: it has one, and that demands no TLS."""
        return not is_pcie(record.desired) and not self.parent(record).desired.spec.psk

    def steps(self, record: Record, seen: Seen | None) -> list[Step]:
        function = self._function(record) if is_pcie(record.desired) else None
        if seen is not None:
            plugged = self.host.plug(record, function) if function is not None else []
            return [*self._discovery.restore(record, seen.discovery), *plugged]
        parent, address = self.parent(record).desired.spec, listen_address(record, self.target.shared)
        steps: list[Step] = []
        plug: list[Step] = []
        if function is not None:
            shared, folder = self.target.shared, socket_folder(record.desired)
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

    def removal(self, record: Record, present: bool) -> list[Step]:
        pcie = is_pcie(record.desired)
        steps = self.host.unplug(self._function(record)) if pcie else []
        if present:
            address = listen_address(record, self.target.shared)
            remove = methods.nvmf_subsystem_remove_listener(self.parent(record).desired.spec.nqn, address)
            steps.append(Step(f"the listener at {in_words(address)} is still there", remove))
        if self._is_plain(record):
            steps += self._discovery.drop(record)
        if pcie:
            shared, folder = self.target.shared, socket_folder(record.desired)
            steps.append(Step(f"the folder {folder} is still there", lambda: shared.remove_socket_folder(folder)))
        return steps

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
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

    def foreign(self, record: Record) -> errors.BridgeError:
        at = in_words(listen_address(record, self.target.shared))
        text = f"{record.parent} already listens at {at}, by somebody else's doing"
        return errors.AlreadyExists(text, field="spec.fabrics_id", resource=record.name)

    def shown(self, record: Record, seen: Seen | None) -> Facts:
        return {"status.active": seen is not None}

    def shown_when_ready(self, record: Record) -> Facts:
        return {"status.active": True}

    async def measure(self, record: Record) -> Counters:
        return await self.namespace_counters(record.parent)

    def _function(self, record: Record) -> Function:
        async def socket() -> str:
            return f"{listen_address(record, self.target.shared).traddr}/cntrl"

        return Function(record.desired.spec.pcie_id.physical_function.value, record.id, True, socket)


def _check_fabrics(spec: NvmeControllerSpec) -> None:
    if not spec.HasField("fabrics_id"):
        text = f"spec.fabrics_id is required: trtype is {opi.NvmeTransportType.Name(spec.trtype)}"
        raise errors.InvalidArgument(text, field="spec.fabrics_id")
    if spec.fabrics_id.adrfam not in FAMILIES:
        text = "spec.fabrics_id.adrfam must be IPV4 or IPV6"
        raise errors.InvalidArgument(text, field="spec.fabrics_id.adrfam")
