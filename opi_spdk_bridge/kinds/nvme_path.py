"""NvmePath: one connection of a remote controller."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Reservation, Settled
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import AnyRecord, Own, Record
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.kinds.shared.base import ContractKind, parent_of
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import NVME_MULTIPATH_DISABLE, NvmePath

TRTYPES = {
    opi.NVME_TRANSPORT_TYPE_TCP: "TCP",
    opi.NVME_TRANSPORT_TYPE_RDMA: "RDMA",
    opi.NVME_TRANSPORT_TYPE_PCIE: "PCIe",
}
FAMILIES = {opi.NVME_ADDRESS_FAMILY_IPV4: ("IPv4", 4), opi.NVME_ADDRESS_FAMILY_IPV6: ("IPv6", 6)}
_BDF = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")


class NvmePathKind(ContractKind[NvmePath, Own]):
    """All paths of a controller lead to one subsystem, for one host."""

    message = NvmePath
    title = "Paths"

    def line(self, resource: NvmePath) -> Line:
        transport = opi.NvmeTransportType.Name(resource.trtype).removeprefix("NVME_TRANSPORT_TYPE_")
        if not resource.HasField("fabrics"):
            return Line((f"{transport} {resource.traddr}",))
        return Line((f"{transport} {resource.traddr} {resource.fabrics.trsvcid}", resource.fabrics.subnqn))

    def normalise(self, resource: NvmePath) -> None:
        if resource.trtype == opi.NVME_TRANSPORT_TYPE_PCIE:
            found = _BDF.fullmatch(resource.traddr)
            if found:
                domain, bus, device, function = found.groups()
                resource.traddr = f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}".lower()
        elif resource.HasField("fabrics") and resource.fabrics.adrfam in FAMILIES:
            version = FAMILIES[resource.fabrics.adrfam][1]
            resource.traddr = rules.address(resource.traddr, version, "traddr")
            if resource.fabrics.source_traddr:
                source = rules.address(resource.fabrics.source_traddr, version, "fabrics.source_traddr")
                resource.fabrics.source_traddr = source

    def check(self, resource: NvmePath) -> None:
        if resource.trtype not in TRTYPES:
            name = opi.NvmeTransportType.Name(resource.trtype)
            raise errors.InvalidArgument(f"trtype {name} is not supported: TCP, RDMA or PCIE", field="trtype")
        if resource.trtype == opi.NVME_TRANSPORT_TYPE_PCIE:
            if resource.HasField("fabrics"):
                raise errors.InvalidArgument("fabrics has no meaning for a PCIe controller", field="fabrics")
            if not _BDF.fullmatch(resource.traddr):
                text = f"traddr {resource.traddr[:80]!r} is not a PCI address such as 0000:01:00.0"
                raise errors.InvalidArgument(text, field="traddr")
            return
        if not resource.HasField("fabrics"):
            name = opi.NvmeTransportType.Name(resource.trtype)
            raise errors.InvalidArgument(f"fabrics is required: trtype is {name}", field="fabrics")
        fabrics = resource.fabrics
        if fabrics.adrfam not in FAMILIES:
            raise errors.InvalidArgument("fabrics.adrfam must be IPV4 or IPV6", field="fabrics.adrfam")
        rules.within(fabrics.trsvcid, 1, 65535, "fabrics.trsvcid")
        rules.within(fabrics.source_trsvcid, 0, 65535, "fabrics.source_trsvcid")
        if fabrics.source_trsvcid and resource.trtype == opi.NVME_TRANSPORT_TYPE_TCP:
            text = (
                "a TCP path cannot come from one source port: the target opens a connection for each of its queues, and"
                " all but the first find the port taken, so no I/O would pass. Leave source_trsvcid 0"
            )
            raise errors.InvalidArgument(text, field="fabrics.source_trsvcid")
        rules.remote_nqn(fabrics.subnqn, "fabrics.subnqn")
        if fabrics.hostnqn:
            rules.sent_nqn(fabrics.hostnqn, "fabrics.hostnqn")

    async def settle(
        self, name: str, resource: NvmePath, before: Record[NvmePath, Own] | None, taken: Collection[Any] = ()
    ) -> Settled[Own]:
        parent = self.graph.record(name.rsplit("/", 2)[0])
        if parent is None:
            return Settled(Own())
        for sibling in paths_of(self.graph, parent.name):
            if sibling.name != name:
                _require_same_subsystem(resource, sibling)
        return Settled(Own(), (parent.name,))

    def reserves(self, record: Record[NvmePath, Own]) -> Iterable[Reservation]:
        trid = address_of(record.desired)
        yield Reservation(
            f"path:{record.parent} {trid}", f"the path of {record.parent} to {in_words(record)}", field="traddr"
        )
        single = parent_of(self.graph, record).desired.multipath == NVME_MULTIPATH_DISABLE
        what = f"the only path of {record.parent} (multipath is disabled)"
        tag = record.name if single else "shared"
        yield Reservation(f"paths:{record.parent}", what, tag, errors.FailedPrecondition, "multipath")


def paths_of(graph: Graph, controller: str) -> list[AnyRecord]:
    """The paths of a remote controller (its resource name)."""
    return [child for child in graph.dependents(controller) if child.parent == controller]


def _require_same_subsystem(path: NvmePath, sibling: Record[NvmePath, Own]) -> None:
    """All paths of a controller lead to one subsystem, for one host."""
    for name in ("subnqn", "hostnqn"):
        if getattr(path.fabrics, name) != getattr(sibling.desired.fabrics, name):
            text = f"fabrics.{name} differs from that of {sibling.name}: all paths of a controller have the same"
            raise errors.InvalidArgument(text, field=f"fabrics.{name}")


def address_of(path: NvmePath) -> str:
    """The place that a path leads to: what tells it from the controller's others."""
    port = str(path.fabrics.trsvcid) if path.HasField("fabrics") else ""
    return f"{TRTYPES[path.trtype]} {path.traddr} {port}".lower().strip()


def in_words(record: Record[NvmePath, Own]) -> str:
    """The place that a path leads to, in words."""
    return f"{TRTYPES[record.desired.trtype]} {record.desired.traddr} {record.desired.fabrics.trsvcid or ''}".rstrip()
