"""NvmeNamespace: a volume under an NSID of a subsystem."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from itertools import count
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Graph, Phase, Record, Reservation, Settled, Taken
from opi_spdk_bridge.core.volumes import Volumes
from opi_spdk_bridge.kinds import qos, rules
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.kinds.claims import claim_reservation, why_not_claimable
from opi_spdk_bridge.kinds.hotplug import Host
from opi_spdk_bridge.kinds.shape import NAMESPACE, require_usable
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeNamespaceSpec, NvmeNamespaceStatus
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Namespace, Subsystem
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View

_NSID = "spec.host_nsid"
_BDEV = "bdev"  # in Record.private: the bdev under the namespace
_DEFAULT_MAX_NAMESPACES = 32


class NvmeNamespaceKind(SpdkKind[NvmeNamespace, Namespace]):
    """Recognised by its NGUID: the client's, or one chosen before the first call."""

    message = NvmeNamespace
    immutable: ClassVar[tuple[str, ...]] = (_NSID, "spec.nguid", "spec.uuid", "spec.eui64")
    assigned: ClassVar[tuple[str, ...]] = (_NSID, "spec.nguid", "spec.uuid")
    hints: ClassVar[tuple[str, ...]] = (_NSID,)

    def __init__(self, target: Target, graph: Graph, volumes: Volumes, host: Host) -> None:
        super().__init__(target, graph, volumes, host)
        self._foreign: dict[str, Collection[int]] = {}
        """By the name of a namespace whose NSID the target refused: those that others have there."""

    def normalise(self, resource: NvmeNamespace) -> None:
        spec = resource.spec
        if spec.nguid:
            spec.nguid = rules.nguid(spec.nguid, "spec.nguid")
        if spec.uuid:
            spec.uuid = rules.uuid(spec.uuid, "spec.uuid")

    def check(self, resource: NvmeNamespace) -> None:
        rules.within(resource.spec.host_nsid, 0, 2**31 - 1, _NSID)

    async def settle(self, name: str, resource: NvmeNamespace, before: Record | None) -> Settled:
        volume = await self.volumes.resolve(resource.spec.volume_name_ref, "spec.volume_name_ref")
        await require_usable(self, volume, before, NAMESPACE, "spec.volume_name_ref")
        assigned: dict[str, str | int] = dict(before.assigned) if before else {}
        if not before:
            if not resource.spec.host_nsid:
                assigned[_NSID] = self._free_nsid(name.rsplit("/", 2)[0], self._foreign.pop(name, ()))
            if not resource.spec.nguid:
                assigned["spec.nguid"] = uuid.uuid4().hex.upper()
            if not resource.spec.uuid and volume.uuid:
                assigned["spec.uuid"] = volume.uuid
        stands_on = (name.rsplit("/", 2)[0], *((volume.resource,) if volume.resource else ()))
        return Settled(assigned, {_BDEV: volume.bdev}, stands_on)

    def _free_nsid(self, subsystem: str, foreign: Collection[int]) -> int:
        """The first NSID that no namespace has: chosen here, since the target knows only of those that it has now."""
        return next(
            nsid
            for nsid in count(1)
            if nsid not in foreign and not any(True for _ in self.graph.holders(_nsid_key(subsystem, nsid)))
        )

    def reserves(self, record: Record) -> Iterable[Reservation]:
        nsid = self._nsid(record)
        yield claim_reservation(record.private[_BDEV], record.name, "spec.volume_name_ref")
        if nsid:
            what = f"NSID {nsid} of {record.parent}"
            conflict = errors.AlreadyExists if record.desired.spec.host_nsid else Taken
            yield Reservation(_nsid_key(record.parent, nsid), what, conflict=conflict, field=_NSID)

    # On the target

    async def look(self, record: Record, view: View) -> Namespace | None:
        subsystem = await view.subsystem(self.parent(record).desired.spec.nqn)
        if subsystem is None:
            return None
        nguid = self._nguid(record)
        return next((ns for ns in subsystem.namespaces if ns.nguid.upper() == nguid), None)

    def recognise(self, record: Record, seen: Namespace) -> Facts:
        return {_NSID: self._nsid(record) or seen.nsid}

    def steps(self, record: Record, seen: Namespace | None) -> list[Step]:
        nqn, bdev, nsid = self.parent(record).desired.spec.nqn, record.private[_BDEV], self._nsid(record)
        steps: list[Step] = []
        if seen is not None:
            if seen.bdev_name == bdev and seen.nsid == (nsid or seen.nsid):
                return []
            says = f"NSID {seen.nsid} of {nqn} is bdev {seen.bdev_name}"
            steps.append(Step(says, methods.nvmf_subsystem_remove_ns(nqn, seen.nsid)))
        undo = methods.nvmf_subsystem_remove_ns(nqn, nsid) if nsid else None
        says = f"bdev {bdev} is not a namespace of {nqn}"
        add = Step(says, self._add(record), undo, learn=lambda given: {_NSID: given})
        return [*steps, add, *qos.on_open(self.target, self.graph, bdev)]

    def removal(self, record: Record, present: bool) -> list[Step]:
        nqn, nsid = self.parent(record).desired.spec.nqn, self._nsid(record)
        if not present or not nsid:
            return []
        return [Step(f"NSID {nsid} of {nqn} is still there", methods.nvmf_subsystem_remove_ns(nqn, nsid))]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        if old.private[_BDEV] == new.private[_BDEV]:
            return []
        nqn, nsid = self.parent(old).desired.spec.nqn, self._nsid(old) or 0
        remove = methods.nvmf_subsystem_remove_ns(nqn, nsid)
        return [
            Step(f"NSID {nsid} of {nqn} is the old volume", remove, self._add(old)),
            Step(f"NSID {nsid} of {nqn} is not the new volume", self._add(new), remove, guarded=True),
            *qos.on_open(self.target, self.graph, new.private[_BDEV]),
        ]

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        parent, bdev = self.parent(record).desired.spec, record.private[_BDEV]
        subsystem = await self.target.view().subsystem(parent.nqn)
        if subsystem is None:
            text = f"subsystem {parent.nqn} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.parent)
        blocked = await why_not_claimable(self, record, bdev, "spec.volume_name_ref")
        if blocked is not None:
            return blocked
        return self._why_no_nsid(record, subsystem) or failure.undiagnosed()

    def _why_no_nsid(self, record: Record, subsystem: Subsystem) -> errors.BridgeError | None:
        nsid, chosen_here = self._nsid(record) or 0, not record.desired.spec.host_nsid
        others = {ns.nsid: ns.bdev_name for ns in subsystem.namespaces if ns.nguid.upper() != self._nguid(record)}
        most = subsystem.max_namespaces or _DEFAULT_MAX_NAMESPACES
        if nsid in others:
            text = f"NSID {nsid} of {subsystem.nqn} is taken by bdev {others[nsid]}"
            if not chosen_here:
                return errors.AlreadyExists(text, field=_NSID)
            self._foreign[record.name] = others.keys()
            return Taken(text, field=_NSID)
        if len(others) >= most or (chosen_here and nsid > most):
            return errors.ResourceExhausted(f"{subsystem.nqn} has {most} namespaces, as many as it may have")
        if nsid > most:
            return errors.InvalidArgument(f"NSID {nsid} is above the subsystem's max_namespaces, {most}", field=_NSID)
        return None

    def shown(self, record: Record, seen: Namespace | None) -> Facts:
        state = NvmeNamespaceStatus.STATE_ENABLED if seen is not None else NvmeNamespaceStatus.STATE_DISABLED
        if record.phase is Phase.DELETING:
            state = NvmeNamespaceStatus.STATE_DELETING
        online = seen is not None and seen.bdev_name
        oper_state = NvmeNamespaceStatus.OPER_STATE_ONLINE if online else NvmeNamespaceStatus.OPER_STATE_OFFLINE
        return {"status.state": state, "status.oper_state": oper_state}

    def shown_when_ready(self, record: Record) -> Facts:
        return self.shown(record, Namespace(nsid=1, bdev_name=record.private[_BDEV]))

    async def measure(self, record: Record) -> Counters:
        return await self.bdev_counters(record.private[_BDEV])

    def _nsid(self, record: Record) -> int | None:
        return record.desired.spec.host_nsid or record.assigned.get(_NSID)

    def _nguid(self, record: Record) -> str:
        return str(record.desired.spec.nguid or record.assigned["spec.nguid"])

    def _add(self, record: Record) -> Call[int]:
        spec: NvmeNamespaceSpec = record.desired.spec
        return methods.nvmf_subsystem_add_ns(
            self.parent(record).desired.spec.nqn,
            record.private[_BDEV],
            self._nsid(record),
            self._nguid(record),
            f"{spec.eui64 % 2**64:016X}" if spec.eui64 else "",
            spec.uuid or record.assigned.get("spec.uuid", ""),
        )


def _nsid_key(subsystem: str, nsid: int) -> str:
    return f"nsid:{subsystem} {nsid}"
