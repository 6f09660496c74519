"""NvmeNamespace: a volume under an NSID of a subsystem."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Graph, Phase, Record, Reservation, Settled, Taken
from opi_spdk_bridge.core.volumes import Volumes
from opi_spdk_bridge.kinds.shared import qos, rules
from opi_spdk_bridge.kinds.shared.base import SpdkKind
from opi_spdk_bridge.kinds.shared.claims import claim_reservation, why_not_claimable
from opi_spdk_bridge.kinds.shared.hotplug import Host
from opi_spdk_bridge.kinds.shared.underlying import BDEV, handle, has_identity, kept, same, volume_of
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeNamespaceSpec, NvmeNamespaceStatus
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Namespace, Subsystem
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View

_NSID = "spec.host_nsid"
_NGUID, _EUI64, _UUID = "spec.nguid", "spec.eui64", "spec.uuid"
_FIELD = "spec.volume_name_ref"
_DEFAULT_MAX_NAMESPACES = 32


@dataclass(frozen=True)
class Seen:
    """The namespace of that NGUID, and whether the bdev under it is the volume that it should be."""

    namespace: Namespace
    on_volume: bool


class NvmeNamespaceKind(SpdkKind[NvmeNamespace, Seen]):
    """Recognised by its NGUID: the client's, or one chosen before the first call."""

    message = NvmeNamespace
    immutable: ClassVar[tuple[str, ...]] = (_NSID, _NGUID, _UUID, _EUI64)
    assigned: ClassVar[tuple[str, ...]] = (_NSID, _NGUID, _UUID)
    hints: ClassVar[tuple[str, ...]] = (_NSID,)

    def __init__(self, target: Target, graph: Graph, volumes: Volumes, host: Host) -> None:
        super().__init__(target, graph, volumes, host)
        self._foreign: dict[str, Collection[int]] = {}
        """By the name of a namespace whose NSID the target refused: those that others have there."""

    def normalise(self, resource: NvmeNamespace) -> None:
        spec = resource.spec
        if spec.nguid:
            spec.nguid = rules.nguid(spec.nguid, _NGUID)
        if spec.uuid:
            spec.uuid = rules.uuid(spec.uuid, _UUID)

    def check(self, resource: NvmeNamespace) -> None:
        rules.within(resource.spec.host_nsid, 0, 2**31 - 1, _NSID)

    async def settle(self, name: str, resource: NvmeNamespace, before: Record | None) -> Settled:
        volume = await self.volumes.resolve(resource.spec.volume_name_ref, _FIELD)
        assigned: dict[str, str | int] = dict(before.assigned) if before else {}
        if not before:
            if not resource.spec.host_nsid:
                assigned[_NSID] = self._free_nsid(name.rsplit("/", 2)[0], self._foreign.pop(name, ()))
            if not resource.spec.nguid:
                assigned[_NGUID] = uuid.uuid4().hex.upper()
            if not resource.spec.uuid and volume.uuid:
                taken = any(True for _ in self.graph.holders(f"namespace-uuid:{volume.uuid}"))
                assigned[_UUID] = str(uuid.uuid4()) if taken else volume.uuid
        stands_on = (name.rsplit("/", 2)[0], *((volume.resource,) if volume.resource else ()))
        return Settled(assigned, kept(volume), stands_on)

    def _free_nsid(self, subsystem: str, foreign: Collection[int]) -> int:
        """The first NSID that no namespace has: chosen here, since the target knows only of those that it has now."""
        return next(
            nsid
            for nsid in count(1)
            if nsid not in foreign and not any(True for _ in self.graph.holders(_nsid_key(subsystem, nsid)))
        )

    def reserves(self, record: Record) -> Iterable[Reservation]:
        nsid, nguid, own_uuid = self._nsid(record), self._nguid(record), self._uuid(record)
        yield claim_reservation(record.private[BDEV], record.name, _FIELD)
        yield Reservation(f"nguid:{nguid}", f"the NGUID {nguid}", field=_NGUID)
        if record.desired.spec.eui64:
            eui64 = self._eui64(record)
            yield Reservation(f"eui64:{eui64}", f"the EUI64 {eui64}", field=_EUI64)
        if own_uuid:
            conflict = errors.AlreadyExists if record.desired.spec.uuid else Taken
            yield Reservation(
                f"namespace-uuid:{own_uuid}", f"the namespace UUID {own_uuid}", conflict=conflict, field=_UUID
            )
        if nsid:
            what = f"NSID {nsid} of {record.parent}"
            conflict = errors.AlreadyExists if record.desired.spec.host_nsid else Taken
            yield Reservation(_nsid_key(record.parent, nsid), what, conflict=conflict, field=_NSID)

    # On the target

    async def look(self, record: Record, view: View) -> Seen | None:
        asked = view.subsystem(self.parent(record).desired.spec.nqn), has_identity(record, view)
        subsystem, has_its_identity = await asyncio.gather(*asked)
        namespaces, nguid = subsystem.namespaces if subsystem is not None else (), self._nguid(record)
        found = next((ns for ns in namespaces if ns.nguid.upper() == nguid), None)
        if found is None:
            return None
        return Seen(found, found.bdev_name == record.private[BDEV] and has_its_identity)

    def recognise(self, record: Record, seen: Seen) -> Facts:
        return {_NSID: self._nsid(record) or seen.namespace.nsid}

    def steps(self, record: Record, seen: Seen | None) -> list[Step]:
        nqn, bdev, nsid = self.parent(record).desired.spec.nqn, record.private[BDEV], self._nsid(record)
        steps: list[Step] = []
        if seen is not None:
            there = seen.namespace
            if seen.on_volume and there.nsid == (nsid or there.nsid):
                return []
            other = "another volume's " if there.bdev_name == bdev and not seen.on_volume else ""
            says = f"NSID {there.nsid} of {nqn} is {other}bdev {there.bdev_name}"
            steps.append(Step(says, methods.nvmf_subsystem_remove_ns(nqn, there.nsid)))
        undo = methods.nvmf_subsystem_remove_ns(nqn, nsid) if nsid else None
        says = f"bdev {bdev} is not a namespace of {nqn}"
        add = Step(says, self._add(record), undo, learn=lambda given: {_NSID: given})
        return [*steps, add, *qos.on_open(self.target, self.graph, volume_of(record))]

    def removal(self, record: Record, present: bool) -> list[Step]:
        nqn, nsid = self.parent(record).desired.spec.nqn, self._nsid(record)
        if not present or not nsid:
            return []
        return [Step(f"NSID {nsid} of {nqn} is still there", methods.nvmf_subsystem_remove_ns(nqn, nsid))]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        if same(volume_of(old), volume_of(new)):
            return []
        nqn, nsid = self.parent(old).desired.spec.nqn, self._nsid(old) or 0
        remove = methods.nvmf_subsystem_remove_ns(nqn, nsid)
        return [
            Step(f"NSID {nsid} of {nqn} is the old volume", remove, self._add(old)),
            Step(f"NSID {nsid} of {nqn} is not the new volume", self._add(new), remove, guarded=True),
            *qos.on_open(self.target, self.graph, volume_of(new)),
        ]

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        parent = self.parent(record).desired.spec
        subsystem = await self.target.view().subsystem(parent.nqn)
        if subsystem is None:
            text = f"subsystem {parent.nqn} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.parent)
        blocked = await why_not_claimable(self, record, _FIELD)
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

    def shown(self, record: Record, seen: Seen | None) -> Facts:
        state = NvmeNamespaceStatus.STATE_ENABLED if seen is not None else NvmeNamespaceStatus.STATE_DISABLED
        if record.phase is Phase.DELETING:
            state = NvmeNamespaceStatus.STATE_DELETING
        online = seen is not None and seen.on_volume
        oper_state = NvmeNamespaceStatus.OPER_STATE_ONLINE if online else NvmeNamespaceStatus.OPER_STATE_OFFLINE
        return {"status.state": state, "status.oper_state": oper_state}

    def shown_when_ready(self, record: Record) -> Facts:
        return self.shown(record, Seen(Namespace(nsid=1), on_volume=True))

    async def measure(self, record: Record) -> Counters:
        return await self.bdev_counters(handle(volume_of(record)))

    def _nsid(self, record: Record) -> int | None:
        return record.desired.spec.host_nsid or record.assigned.get(_NSID)

    def _nguid(self, record: Record) -> str:
        return str(record.desired.spec.nguid or record.assigned[_NGUID])

    def _uuid(self, record: Record) -> str:
        return str(record.desired.spec.uuid or record.assigned.get(_UUID, ""))

    def _eui64(self, record: Record) -> str:
        return f"{record.desired.spec.eui64 % 2**64:016X}"

    def _add(self, record: Record) -> Call[int]:
        spec: NvmeNamespaceSpec = record.desired.spec
        return methods.nvmf_subsystem_add_ns(
            self.parent(record).desired.spec.nqn,
            handle(volume_of(record)),
            self._nsid(record),
            self._nguid(record),
            self._eui64(record) if spec.eui64 else "",
            self._uuid(record),
        )


def _nsid_key(subsystem: str, nsid: int) -> str:
    return f"nsid:{subsystem} {nsid}"
