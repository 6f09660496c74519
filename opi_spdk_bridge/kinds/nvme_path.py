"""NvmePath: one connection of a remote controller."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Record, Reservation, Settled
from opi_spdk_bridge.kinds import keys, rules
from opi_spdk_bridge.kinds.base import SpdkKind, counters
from opi_spdk_bridge.kinds.claims import why_not_removable
from opi_spdk_bridge.kinds.nvme_remote_controller import bdevs_of, behind
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import (
    NVME_MULTIPATH_DISABLE,
    NVME_MULTIPATH_FAILOVER,
    NVME_MULTIPATH_MULTIPATH,
    NvmePath,
    NvmeRemoteController,
)
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import IoStat, PathHost, TransportId
from opi_spdk_bridge.spdk.steps import Local, Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View

_TRTYPES = {
    opi.NVME_TRANSPORT_TYPE_TCP: "TCP",
    opi.NVME_TRANSPORT_TYPE_RDMA: "RDMA",
    opi.NVME_TRANSPORT_TYPE_PCIE: "PCIe",
}
_FAMILIES = {opi.NVME_ADDRESS_FAMILY_IPV4: ("IPv4", 4), opi.NVME_ADDRESS_FAMILY_IPV6: ("IPv6", 6)}
_MODES = {
    NVME_MULTIPATH_DISABLE: "disable",
    NVME_MULTIPATH_FAILOVER: "failover",
    NVME_MULTIPATH_MULTIPATH: "multipath",
}
_BDF = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")

_NO_ANSWER = (
    errno.EIO, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.ENETUNREACH, errno.EADDRNOTAVAIL,
)  # fmt: skip
"""What a target says when it finds nobody: EIO, before 25.05 ENODEV, and what sockets give."""

# A path that breaks is kept and tried again for ever: its bdevs and what stands on them outlive a network fault.
_PERSISTENCE = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}


@dataclass(frozen=True)
class Seen:
    """The path's address, the initiator's side and the state on the target; `standby` for failover's others."""

    trid: TransportId
    host: PathHost
    state: str


class NvmePathKind(SpdkKind[NvmePath, Seen]):
    """The first path makes the controller on the target; the others join it in the controller's multipath mode."""

    message = NvmePath

    def normalise(self, resource: NvmePath) -> None:
        if resource.trtype == opi.NVME_TRANSPORT_TYPE_PCIE:
            found = _BDF.fullmatch(resource.traddr)
            if found:
                domain, bus, device, function = found.groups()
                resource.traddr = f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}".lower()
        elif resource.HasField("fabrics") and resource.fabrics.adrfam in _FAMILIES:
            version = _FAMILIES[resource.fabrics.adrfam][1]
            resource.traddr = rules.address(resource.traddr, version, "traddr")
            if resource.fabrics.source_traddr:
                source = rules.address(resource.fabrics.source_traddr, version, "fabrics.source_traddr")
                resource.fabrics.source_traddr = source

    def check(self, resource: NvmePath) -> None:
        if resource.trtype not in _TRTYPES:
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
        if fabrics.adrfam not in _FAMILIES:
            raise errors.InvalidArgument("fabrics.adrfam must be IPV4 or IPV6", field="fabrics.adrfam")
        rules.within(fabrics.trsvcid, 1, 65535, "fabrics.trsvcid")
        rules.within(fabrics.source_trsvcid, 0, 65535, "fabrics.source_trsvcid")
        if fabrics.source_trsvcid and resource.trtype == opi.NVME_TRANSPORT_TYPE_TCP:
            text = (
                "a TCP path cannot come from one source port: the target opens a connection for each of its queues, and"
                " all but the first find the port taken, so no I/O would pass. Leave source_trsvcid 0"
            )
            raise errors.InvalidArgument(text, field="fabrics.source_trsvcid")
        rules.nqn(fabrics.subnqn, "fabrics.subnqn")
        if fabrics.hostnqn:
            rules.nqn(fabrics.hostnqn, "fabrics.hostnqn")

    async def settle(self, name: str, resource: NvmePath, before: Record | None) -> Settled:
        parent = self.graph.record(name.rsplit("/", 2)[0])
        if parent is None:
            return Settled()
        for sibling in self._paths(parent.name):
            if sibling.name != name:
                _require_same_subsystem(resource, sibling)
        return Settled(stands_on=(parent.name,))

    def reserves(self, record: Record) -> Iterable[Reservation]:
        trid = _address(record.desired)
        yield Reservation(
            f"path:{record.parent} {trid}", f"the path of {record.parent} to {_at(record)}", field="traddr"
        )
        single = self.parent(record).desired.multipath == NVME_MULTIPATH_DISABLE
        what = f"the only path of {record.parent} (multipath is disabled)"
        tag = record.name if single else "shared"
        yield Reservation(f"paths:{record.parent}", what, tag, errors.FailedPrecondition, "multipath")

    # On the target

    async def look(self, record: Record, view: View) -> Seen | None:
        controller = await view.remote_controller(self.parent(record).id)
        wanted = _address(record.desired)
        for path in controller.ctrlrs if controller is not None else ():
            for trid in path.trids:
                if _place(trid) == wanted:
                    return Seen(trid, path.host, path.state if trid is path.trid else "standby")
        return None

    async def realize(self, record: Record) -> Facts:
        parent = self.parent(record)
        alone = all(path.name == record.name for path in self._paths(parent.name))
        if alone and await self.target.view().remote_controller(parent.id) is not None:
            text = f"the target already has a controller named {parent.id} that this bridge did not make"
            raise errors.AlreadyExists(text, resource=parent.name)
        return await super().realize(record)

    async def unrealize(self, record: Record, view: Any | None = None) -> None:
        await super().unrealize(record, view)
        if await self.target.client.answered_late(methods.bdev_nvme_attach_controller(self._attachment(record))):
            await super().unrealize(record, self.target.view())  # an array that was slow to answer is attached by now

    def steps(self, record: Record, seen: Seen | None) -> list[Step]:
        stale = self._stale(record)
        if seen is not None:
            return stale
        call = methods.bdev_nvme_attach_controller(self._attachment(record))
        attach = Step(f"the path to {_at(record)} is not attached", call, self._detach(record), guarded=True)
        single = self.parent(record).desired.multipath == NVME_MULTIPATH_DISABLE
        return [*stale, attach] if single else [attach, *stale]

    def _stale(self, record: Record) -> list[Step]:
        """After an update that was broken off: the path at the other address, if it is there."""
        other = record.previous
        if other is None or _address(other.desired) == _address(record.desired):
            return []
        says = f"the path to {_at(other)} is still attached"
        return [Step(says, self._detach_unused(other), already=gone)]

    def removal(self, record: Record, present: bool) -> list[Step]:
        if not present:
            return self._stale(record)
        users = [user.name for user in self.graph.dependents(record.parent) if user.parent != record.parent]
        if users and len(self._paths(record.parent)) == 1:
            text = f"{record.name} is the last path to volumes in use by {', '.join(users[:5])}: delete those first"
            raise errors.FailedPrecondition(text, resource=users[0])
        detach = Step(f"the path to {_at(record)} is still attached", self._detach_unused(record), already=gone)
        return [*self._stale(record), detach]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        attach = Step(
            f"the path to {_at(new)} is not attached",
            methods.bdev_nvme_attach_controller(self._attachment(new)),
            self._detach(new),
            guarded=True,
        )
        detach = Step(
            f"the path to {_at(old)} is still attached",
            self._detach_unused(old),
            methods.bdev_nvme_attach_controller(self._attachment(old)),
            already=gone,
        )
        if self.parent(new).desired.multipath != NVME_MULTIPATH_DISABLE and _address(old.desired) != _address(
            new.desired
        ):
            return [attach, detach]  # the volumes stay up
        self.removal(old, present=True)  # refuses the last path of volumes in use
        return [detach, attach]

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        error, fabrics = failure.error, record.desired.fabrics
        if not isinstance(error, SpdkError) or error.method != "bdev_nvme_attach_controller":
            return failure.undiagnosed()
        to = _at(record) + (f", subsystem {fabrics.subnqn}" if fabrics.subnqn else "")
        if error.errno in _NO_ANSWER or (error.is_invalid_parameters and self.target.release.number < (24, 5)):
            source = f", or {fabrics.source_traddr} is no address of the target's" if fabrics.source_traddr else ""
            text = f"the target cannot connect to {to}: nothing answers there, or not for this host{source}"
            return errors.PeerUnreachable(text, field="traddr")
        if error.is_errno(errno.EALREADY) and "multipath is disabled" not in error.message:
            return errors.AlreadyExists(f"the target is connected to {to} already", field="traddr")
        best = failure.undiagnosed()
        if isinstance(best, errors.ResourceExhausted | errors.Aborted):
            return best
        return errors.FailedPrecondition(f"the target would not connect to {to}: {error.message}", field="traddr")

    async def measure(self, record: Record) -> Counters:
        """The path's own counters where the target keeps them, else those of the volumes behind it."""
        found = await bdevs_of(self.parent(record).id, self.target.view())
        try:
            stats = await asyncio.gather(
                *(self.target.client.call(methods.bdev_nvme_get_path_iostat(bdev.name)) for bdev in found)
            )
        except SpdkError:
            return sum(await asyncio.gather(*(self.bdev_counters(bdev.name) for bdev in found)), Counters())
        wanted = _address(record.desired)
        own = [
            counters(IoStat.model_validate(path["stat"]))
            for stat in stats
            for path in stat.get("stats", ())
            if _place(TransportId.model_validate(path["trid"])) == wanted
        ]
        return sum(own, Counters())

    def _paths(self, controller: str) -> list[Record]:
        return [child for child in self.graph.dependents(controller) if child.parent == controller]

    def _attachment(self, record: Record) -> dict[str, Any]:
        parent = self.parent(record)
        controller: NvmeRemoteController = parent.desired
        fabrics = record.desired.fabrics
        return {
            **self._trid(record),
            "hostnqn": fabrics.hostnqn,
            "multipath": _MODES[controller.multipath],
            "num_io_queues": controller.io_queues_count or None,
            "hdgst": controller.tcp.hdgst or None,
            "ddgst": controller.tcp.ddgst or None,
            "psk": keys.reference(parent, self.target),
            **_PERSISTENCE,
        }

    def _detach(self, record: Record) -> Any:
        return methods.bdev_nvme_detach_controller(self._trid(record))

    def _detach_unused(self, record: Record) -> Local:
        """The work of a step that detaches the path: refused where the target would lose bdevs that are in use."""

        async def do() -> None:
            await self._require_dispensable(record)
            await self.target.client.call(self._detach(record))

        return do

    async def _require_dispensable(self, record: Record) -> None:
        """Raises FailedPrecondition where the path is the target's last to bdevs that something has open."""
        name, view, blocked = self.parent(record).id, self.target.view(), None
        single = len(self._paths(record.parent)) == 1
        if single:
            controller, blocked = await asyncio.gather(view.remote_controller(name), self._use_behind(name))
        else:
            controller = await view.remote_controller(name)
        trids = [trid for path in controller.ctrlrs for trid in path.trids] if controller is not None else []
        if any(_place(trid) != _address(record.desired) for trid in trids):
            return
        if not single:
            blocked = await self._use_behind(name)
        if blocked is not None:
            text = f"{record.name} is the last path to volumes in use: {blocked.message}"
            raise type(blocked)(text, resource=blocked.resource)

    async def _use_behind(self, controller: str) -> errors.BridgeError | None:
        """Why the bdevs behind a controller of the target must stay; None if they need not."""
        view = self.target.view()
        bdevs, devices = await asyncio.gather(view.bdevs(), view.vhosts())
        return why_not_removable(self.graph, behind(controller, bdevs), devices)

    def _trid(self, record: Record) -> dict[str, Any]:
        path: NvmePath = record.desired
        fabrics = path.fabrics
        trid: dict[str, Any] = {
            "name": self.parent(record).id,
            "trtype": _TRTYPES[path.trtype],
            "traddr": path.traddr,
        }
        if path.HasField("fabrics"):
            trid |= {
                "adrfam": _FAMILIES[fabrics.adrfam][0],
                "trsvcid": str(fabrics.trsvcid),
                "subnqn": fabrics.subnqn,
                "hostaddr": fabrics.source_traddr,
                "hostsvcid": str(fabrics.source_trsvcid) if fabrics.source_trsvcid else "",
            }
        return trid


def _require_same_subsystem(path: NvmePath, sibling: Record) -> None:
    """All paths of a controller lead to one subsystem, for one host."""
    for name in ("subnqn", "hostnqn"):
        if getattr(path.fabrics, name) != getattr(sibling.desired.fabrics, name):
            text = f"fabrics.{name} differs from that of {sibling.name}: all paths of a controller have the same"
            raise errors.InvalidArgument(text, field=f"fabrics.{name}")


def _address(path: NvmePath) -> str:
    port = str(path.fabrics.trsvcid) if path.HasField("fabrics") else ""
    return f"{_TRTYPES[path.trtype]} {path.traddr} {port}".lower().strip()


def _place(trid: TransportId) -> str:
    return f"{trid.trtype} {trid.traddr} {trid.trsvcid}".lower().strip()


def _at(record: Record) -> str:
    return f"{_TRTYPES[record.desired.trtype]} {record.desired.traddr} {record.desired.fabrics.trsvcid or ''}".rstrip()
