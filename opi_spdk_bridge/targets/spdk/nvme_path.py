"""NvmePath on SPDK: one of the connections of an NVMe bdev controller."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Own, Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.nvme_path import FAMILIES, TRTYPES, address_of, in_words, paths_of
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import (
    NVME_MULTIPATH_DISABLE,
    NVME_MULTIPATH_FAILOVER,
    NVME_MULTIPATH_MULTIPATH,
    NvmePath,
    NvmeRemoteController,
)
from opi_spdk_bridge.spdk import identify, methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev, IoStat, PathHost, TransportId
from opi_spdk_bridge.spdk.steps import Local, Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk import keys
from opi_spdk_bridge.targets.spdk.base import SpdkSide, counters
from opi_spdk_bridge.targets.spdk.claims import why_not_removable
from opi_spdk_bridge.targets.spdk.nvme_remote_controller import bdevs_of, behind, remote_identities, remote_nsid

_MODES = {
    NVME_MULTIPATH_DISABLE: "disable",
    NVME_MULTIPATH_FAILOVER: "failover",
    NVME_MULTIPATH_MULTIPATH: "multipath",
}

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


class NvmePathSide(SpdkSide[NvmePath, Own, Seen]):
    """The first path makes the controller on the target; the others join it in the controller's multipath mode."""

    async def look(self, record: Record[NvmePath, Own], view: View) -> Seen | None:
        controller = await view.remote_controller(self.parent(record).id)
        wanted = address_of(record.desired)
        for path in controller.ctrlrs if controller is not None else ():
            for trid in path.trids:
                if _place(trid) == wanted:
                    return Seen(trid, path.host, path.state if trid is path.trid else "standby")
        return None

    async def make(self, record: Record[NvmePath, Own]) -> Own:
        parent = self.parent(record)
        alone = all(path.name == record.name for path in paths_of(self.graph, parent.name))
        if alone and await self.target.view().remote_controller(parent.id) is not None:
            text = f"the target already has a controller named {parent.id} that this bridge did not make"
            raise errors.AlreadyExists(text, resource=parent.name)
        return await super().make(record)

    async def remove(self, record: Record[NvmePath, Own], view: Any | None = None) -> None:
        await super().remove(record, view)
        if await self.target.client.answered_late(methods.bdev_nvme_attach_controller(self._attachment(record))):
            await super().remove(record, self.target.view())  # an array that was slow to answer is attached by now

    def steps(self, record: Record[NvmePath, Own], seen: Seen | None) -> list[Step]:
        stale = self._stale(record)
        if seen is not None:
            return stale
        single = self.parent(record).desired.multipath == NVME_MULTIPATH_DISABLE
        return [*stale, *self._attach(record)] if single else [*self._attach(record), *stale]

    def _stale(self, record: Record[NvmePath, Own]) -> list[Step]:
        """After an update that was broken off: the path at the other address, if it is there."""
        other = record.previous
        if other is None or address_of(other.desired) == address_of(record.desired):
            return []
        says = f"the path to {in_words(other)} is still attached"
        return [Step(says, self._detach_unused(other), already=gone)]

    def removal(self, record: Record[NvmePath, Own], present: bool) -> list[Step]:
        if not present:
            return self._stale(record)
        users = [user.name for user in self.graph.dependents(record.parent) if user.parent != record.parent]
        if users and len(paths_of(self.graph, record.parent)) == 1:
            text = f"{record.name} is the last path to volumes in use by {', '.join(users[:5])}: delete those first"
            raise errors.FailedPrecondition(text, resource=users[0])
        detach = Step(f"the path to {in_words(record)} is still attached", self._detach_unused(record), already=gone)
        return [*self._stale(record), detach]

    def amendment(self, old: Record[NvmePath, Own], new: Record[NvmePath, Own]) -> list[Step]:
        attach = self._attach(new)
        detach = Step(
            f"the path to {in_words(old)} is still attached",
            self._detach_unused(old),
            methods.bdev_nvme_attach_controller(self._attachment(old)),
            already=gone,
        )
        if self.parent(new).desired.multipath != NVME_MULTIPATH_DISABLE and address_of(old.desired) != address_of(
            new.desired
        ):
            return [*attach, detach]  # the volumes stay up
        self.removal(old, present=True)  # refuses the last path of volumes in use
        return [detach, *attach]

    async def diagnose(self, record: Record[NvmePath, Own], failure: StepFailed) -> errors.BridgeError:
        error, fabrics = failure.error, record.desired.fabrics
        if not isinstance(error, SpdkError) or error.method != "bdev_nvme_attach_controller":
            return failure.undiagnosed()
        to = in_words(record) + (f", subsystem {fabrics.subnqn}" if fabrics.subnqn else "")
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

    async def measure(self, record: Record[NvmePath, Own]) -> Counters:
        """The path's own counters where the target keeps them, else those of the volumes behind it."""
        found = await bdevs_of(self.parent(record).id, self.target.view())
        try:
            stats = await asyncio.gather(
                *(self.target.client.call(methods.bdev_nvme_get_path_iostat(bdev.name)) for bdev in found)
            )
        except SpdkError:
            return sum(await asyncio.gather(*(self.bdev_counters(bdev.name) for bdev in found)), Counters())
        wanted = address_of(record.desired)
        own = [
            counters(IoStat.model_validate(path["stat"]))
            for stat in stats
            for path in stat.get("stats", ())
            if _place(TransportId.model_validate(path["trid"])) == wanted
        ]
        return sum(own, Counters())

    async def connection_state(self, record: Record[NvmePath, Own], view: View) -> str | None:
        seen = await self.look(record, view)
        return seen.state if seen is not None else "absent"

    def _attachment(self, record: Record[NvmePath, Own]) -> dict[str, Any]:
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

    def _attach(self, record: Record[NvmePath, Own]) -> list[Step]:
        """Connects, and sees to it that volumes come of it: the target connects all the same where their names or UUIDs
        are taken."""
        bdevs: list[str] = []

        def learn(names: list[str]) -> Callable[[Own], Own]:
            bdevs.extend(names)
            return lambda own: own

        async def check() -> None:
            if not bdevs:
                await self._require_bdevs(record)

        call = methods.bdev_nvme_attach_controller(self._attachment(record))
        attach = Step(
            f"the path to {in_words(record)} is not attached", call, self._detach(record), learn=learn, guarded=True
        )
        return [attach, Step(f"no volume came of the path to {in_words(record)}", check)]

    async def _require_bdevs(self, record: Record[NvmePath, Own]) -> None:
        """Raises AlreadyExists where the array shows namespaces and none of them could become a bdev."""
        controller, view = self.parent(record), self.target.view()
        try:
            nsids = await self.target.client.call(identify.active_namespaces(controller.id))
        except SpdkError:
            return  # what the array does not tell is no cause to refuse it
        reasons = []
        for nsid in nsids:
            bdev = await view.bdev(f"{controller.id}n{nsid}")
            if bdev is not None and remote_nsid(controller.id, bdev) == nsid:
                return
            if bdev is not None:
                reasons.append(f"the name {bdev.name} is taken by a bdev of another sort ({bdev.product_name})")
            elif (other := await self._namesake(controller, nsid)) is not None:
                reasons.append(f"the UUID of namespace {nsid}, {other.uuid}, is that of bdev {other.name}")
        if reasons:
            text = f"no volume came of the path to {in_words(record)}: {'; '.join(reasons[:5])}"
            raise errors.AlreadyExists(text, field="traddr", resource=record.name)

    async def _namesake(self, controller: Record[NvmePath, Own], nsid: int) -> Bdev | None:
        """The bdev that has the UUID which the namespace's would get: its NGUID, or where it has none its UUID."""
        data, uuid = await remote_identities(self.target, controller.id, nsid)
        identity = str(UUID(data.nguid)) if data.nguid else uuid
        return await self.target.view().bdev(identity) if identity else None

    def _detach(self, record: Record[NvmePath, Own]) -> Any:
        return methods.bdev_nvme_detach_controller(self._trid(record))

    def _detach_unused(self, record: Record[NvmePath, Own]) -> Local:
        """The work of a step that detaches the path: refused where the target would lose bdevs that are in use."""

        async def do() -> None:
            await self._require_dispensable(record)
            await self.target.client.call(self._detach(record))

        return do

    async def _require_dispensable(self, record: Record[NvmePath, Own]) -> None:
        """Raises FailedPrecondition where the path is the target's last to bdevs that something has open."""
        name, view, blocked = self.parent(record).id, self.target.view(), None
        single = len(paths_of(self.graph, record.parent)) == 1
        if single:
            controller, blocked = await asyncio.gather(view.remote_controller(name), self._use_behind(name))
        else:
            controller = await view.remote_controller(name)
        trids = [trid for path in controller.ctrlrs for trid in path.trids] if controller is not None else []
        if any(_place(trid) != address_of(record.desired) for trid in trids):
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

    def _trid(self, record: Record[NvmePath, Own]) -> dict[str, Any]:
        path: NvmePath = record.desired
        fabrics = path.fabrics
        trid: dict[str, Any] = {
            "name": self.parent(record).id,
            "trtype": TRTYPES[path.trtype],
            "traddr": path.traddr,
        }
        if path.HasField("fabrics"):
            trid |= {
                "adrfam": FAMILIES[fabrics.adrfam][0],
                "trsvcid": str(fabrics.trsvcid),
                "subnqn": fabrics.subnqn,
                "hostaddr": fabrics.source_traddr,
                "hostsvcid": str(fabrics.source_trsvcid) if fabrics.source_trsvcid else "",
            }
        return trid


def _place(trid: TransportId) -> str:
    return f"{trid.trtype} {trid.traddr} {trid.trsvcid}".lower().strip()
