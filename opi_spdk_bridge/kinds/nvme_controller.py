"""NvmeController: what hosts reach a subsystem through, over TCP, RDMA or PCIe."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Reservation, Settled
from opi_spdk_bridge.core.line import Line, Said
from opi_spdk_bridge.core.record import Own, Record
from opi_spdk_bridge.kinds.shared import pci, rules
from opi_spdk_bridge.kinds.shared.addresses import FABRICS, FAMILIES, address_reservation, is_pcie, place
from opi_spdk_bridge.kinds.shared.base import ContractKind, parent_of
from opi_spdk_bridge.kinds.shared.pci import check_function, function_reservation
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeControllerSpec

OURS, THEIRS = "ours", "theirs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOwn(Own):
    """How its address is known on the target.

    trsvcid     the port as the target was given it, where an earlier version kept zeros before it; else ""
    discovery   OURS where hosts discover there by the bridge's doing, THEIRS by somebody else's before; "" not known
    """

    trsvcid: str = ""
    discovery: str = ""


class NvmeControllerKind(ContractKind[NvmeController, ControllerOwn]):
    """SPDK has no use for nvme_controller_id, max_nsq, max_ncq, sqes, cqes, max_namespaces: kept and returned only."""

    message = NvmeController
    title = "Controllers"
    own = ControllerOwn
    immutable: ClassVar[tuple[str, ...]] = ("spec.trtype", "spec.fabrics_id", "spec.pcie_id")

    def line(self, resource: NvmeController) -> Line:
        spec, active = resource.spec, resource.status.active
        transport = opi.NvmeTransportType.Name(spec.trtype).removeprefix("NVME_TRANSPORT_TYPE_")
        place = Said(f"{transport} {pci.in_words(spec.pcie_id)}")
        if spec.HasField("fabrics_id"):
            address, port = spec.fabrics_id.traddr, spec.fabrics_id.trsvcid
            place = Said(f"{transport} {address} port {port}", f"{transport} {address}:{port}")
        return Line((place,), "active" if active else "not active", active)

    def normalise(self, resource: NvmeController) -> None:
        fabrics = resource.spec.fabrics_id
        if not resource.spec.HasField("fabrics_id"):
            return
        if fabrics.adrfam in FAMILIES:
            fabrics.traddr = rules.address(fabrics.traddr, FAMILIES[fabrics.adrfam][1], "spec.fabrics_id.traddr")
        fabrics.trsvcid = rules.port(fabrics.trsvcid, "spec.fabrics_id.trsvcid")

    def modernise(self, record: Record[NvmeController, ControllerOwn]) -> Record[NvmeController, ControllerOwn]:
        spelt = record.desired.spec.fabrics_id.trsvcid
        record = super().modernise(record)
        if record.desired.spec.fabrics_id.trsvcid == spelt:
            return record
        return replace(record, own=replace(record.own, trsvcid=spelt))

    def check(self, resource: NvmeController) -> None:
        spec = resource.spec
        if spec.trtype in FABRICS:
            _check_fabrics(spec)
        elif is_pcie(resource):
            if not spec.HasField("pcie_id"):
                text = "spec.pcie_id is required: trtype is NVME_TRANSPORT_TYPE_PCIE"
                raise errors.InvalidArgument(text, field="spec.pcie_id")
            check_function(spec.pcie_id, "spec.pcie_id")
            self.functions.check(spec.pcie_id, "spec.pcie_id")
        else:
            name = opi.NvmeTransportType.Name(spec.trtype)
            raise errors.InvalidArgument(f"spec.trtype {name} is not served: TCP, RDMA or PCIE", field="spec.trtype")
        for limit in ("min_limit", "max_limit"):
            if spec.HasField(limit):
                text = f"spec.{limit}: the target cannot limit a controller; limit its volumes with a QosVolume"
                raise errors.InvalidArgument(text, field=f"spec.{limit}")

    async def settle(
        self,
        name: str,
        resource: NvmeController,
        before: Record[NvmeController, ControllerOwn] | None,
        taken: Collection[Any] = (),
    ) -> Settled[ControllerOwn]:
        parent = self.graph.record(name.rsplit("/", 2)[0])
        if parent is not None and is_pcie(resource) and parent.desired.spec.hostnqn:
            text = f"{parent.name} is for one host only (hostnqn), which a PCIe controller cannot enforce"
            raise errors.FailedPrecondition(text, field="spec.trtype", resource=parent.name)
        own = before.own if before is not None else ControllerOwn(discovery=self._discovery_at(name, resource))
        return Settled(own, (parent.name,) if parent is not None else ())

    def _discovery_at(self, name: str, resource: NvmeController) -> str:
        """Whose it is, where others have the address already."""
        known = {other.own.discovery for other in others_at(self.graph, name, resource)}
        return "" if not known else THEIRS if THEIRS in known else OURS

    def reserves(self, record: Record[NvmeController, ControllerOwn]) -> Iterable[Reservation]:
        controller: NvmeController = record.desired
        if is_pcie(controller):
            return (function_reservation(controller.spec.pcie_id, "spec.pcie_id"),)
        parent = parent_of(self.graph, record).desired.spec
        at = place(controller.spec)
        own = Reservation(
            f"listener:{parent.nqn} {at}", f"the listener of {parent.nqn} at {at}", field="spec.fabrics_id"
        )
        address = address_reservation(controller, bool(parent.psk))
        return (own, address) if address else (own,)


def others_at(graph: Graph, name: str, controller: NvmeController) -> list[Record[NvmeController, ControllerOwn]]:
    """The other controllers at the address."""
    at = address_reservation(controller, secure=False)
    return [holder for holder in (graph.holders(at.key) if at is not None else ()) if holder.name != name]


def _check_fabrics(spec: NvmeControllerSpec) -> None:
    if not spec.HasField("fabrics_id"):
        text = f"spec.fabrics_id is required: trtype is {opi.NvmeTransportType.Name(spec.trtype)}"
        raise errors.InvalidArgument(text, field="spec.fabrics_id")
    if spec.fabrics_id.adrfam not in FAMILIES:
        text = "spec.fabrics_id.adrfam must be IPV4 or IPV6"
        raise errors.InvalidArgument(text, field="spec.fabrics_id.adrfam")
