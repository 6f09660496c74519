"""NvmeNamespace on SPDK: a namespace of a subsystem on the volume's bdev."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Taken
from opi_spdk_bridge.core.record import Facts, Phase, Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.nvme_namespace import NSID, VOLUME, NamespaceOwn, eui64_of, nguid_of, nsid_of, uuid_of
from opi_spdk_bridge.kinds.shared.underlying import same, volume_of
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeNamespaceStatus
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Namespace, Subsystem
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk import qos
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.claims import why_not_claimable
from opi_spdk_bridge.targets.spdk.underlying import handle, has_identity

_DEFAULT_MAX_NAMESPACES = 32


@dataclass(frozen=True)
class Seen:
    """The namespace of that NGUID, and whether the bdev under it is the volume that it should be."""

    namespace: Namespace
    on_volume: bool


class NvmeNamespaceSide(SpdkSide[NvmeNamespace, NamespaceOwn, Seen]):
    """Recognised by its NGUID."""

    async def look(self, record: Record[NvmeNamespace, NamespaceOwn], view: View) -> Seen | None:
        asked = view.subsystem(self.parent(record).desired.spec.nqn), has_identity(record, view)
        subsystem, has_its_identity = await asyncio.gather(*asked)
        namespaces, nguid = subsystem.namespaces if subsystem is not None else (), nguid_of(record)
        found = next((ns for ns in namespaces if ns.nguid.upper() == nguid), None)
        if found is None:
            return None
        return Seen(found, found.bdev_name == record.own.bdev and has_its_identity)

    def recognise(self, record: Record[NvmeNamespace, NamespaceOwn], seen: Seen) -> NamespaceOwn:
        return record.own if nsid_of(record) else _learn_nsid(seen.namespace.nsid)(record.own)

    def steps(self, record: Record[NvmeNamespace, NamespaceOwn], seen: Seen | None) -> list[Step]:
        nqn, bdev, nsid = self.parent(record).desired.spec.nqn, record.own.bdev, nsid_of(record)
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
        add = Step(says, self._add(record), undo, learn=_learn_nsid)
        return [*steps, add, *qos.on_open(self.target, self.graph, volume_of(record))]

    def removal(self, record: Record[NvmeNamespace, NamespaceOwn], present: bool) -> list[Step]:
        nqn, nsid = self.parent(record).desired.spec.nqn, nsid_of(record)
        if not present or not nsid:
            return []
        return [Step(f"NSID {nsid} of {nqn} is still there", methods.nvmf_subsystem_remove_ns(nqn, nsid))]

    def amendment(
        self, old: Record[NvmeNamespace, NamespaceOwn], new: Record[NvmeNamespace, NamespaceOwn]
    ) -> list[Step]:
        if same(volume_of(old), volume_of(new)):
            return []
        nqn, nsid = self.parent(old).desired.spec.nqn, nsid_of(old) or 0
        remove = methods.nvmf_subsystem_remove_ns(nqn, nsid)
        return [
            Step(f"NSID {nsid} of {nqn} is the old volume", remove, self._add(old)),
            Step(f"NSID {nsid} of {nqn} is not the new volume", self._add(new), remove, guarded=True),
            *qos.on_open(self.target, self.graph, volume_of(new)),
        ]

    async def diagnose(self, record: Record[NvmeNamespace, NamespaceOwn], failure: StepFailed) -> errors.BridgeError:
        parent = self.parent(record).desired.spec
        subsystem = await self.target.view().subsystem(parent.nqn)
        if subsystem is None:
            text = f"subsystem {parent.nqn} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.parent)
        blocked = await why_not_claimable(self.target, self.graph, record, VOLUME)
        if blocked is not None:
            return blocked
        return self._why_no_nsid(record, subsystem) or failure.undiagnosed()

    def _why_no_nsid(
        self, record: Record[NvmeNamespace, NamespaceOwn], subsystem: Subsystem
    ) -> errors.BridgeError | None:
        nsid, chosen_here = nsid_of(record) or 0, not record.desired.spec.host_nsid
        others = {ns.nsid: ns.bdev_name for ns in subsystem.namespaces if ns.nguid.upper() != nguid_of(record)}
        most = subsystem.max_namespaces or _DEFAULT_MAX_NAMESPACES
        if nsid in others:
            text = f"NSID {nsid} of {subsystem.nqn} is taken by bdev {others[nsid]}"
            if not chosen_here:
                return errors.AlreadyExists(text, field=NSID)
            return Taken(text, field=NSID, values=others.keys())
        if len(others) >= most or (chosen_here and nsid > most):
            return errors.ResourceExhausted(f"{subsystem.nqn} has {most} namespaces, as many as it may have")
        if nsid > most:
            return errors.InvalidArgument(f"NSID {nsid} is above the subsystem's max_namespaces, {most}", field=NSID)
        return None

    def shown(self, record: Record[NvmeNamespace, NamespaceOwn], seen: Seen | None) -> Facts:
        state = NvmeNamespaceStatus.STATE_ENABLED if seen is not None else NvmeNamespaceStatus.STATE_DISABLED
        if record.phase is Phase.DELETING:
            state = NvmeNamespaceStatus.STATE_DELETING
        online = seen is not None and seen.on_volume
        oper_state = NvmeNamespaceStatus.OPER_STATE_ONLINE if online else NvmeNamespaceStatus.OPER_STATE_OFFLINE
        return {"status.state": state, "status.oper_state": oper_state}

    def shown_when_ready(self, record: Record[NvmeNamespace, NamespaceOwn]) -> Facts:
        return self.shown(record, Seen(Namespace(nsid=1), on_volume=True))

    async def measure(self, record: Record[NvmeNamespace, NamespaceOwn]) -> Counters:
        return await self.bdev_counters(handle(volume_of(record)))

    def _add(self, record: Record[NvmeNamespace, NamespaceOwn]) -> Call[int]:
        return methods.nvmf_subsystem_add_ns(
            self.parent(record).desired.spec.nqn,
            handle(volume_of(record)),
            nsid_of(record),
            nguid_of(record),
            eui64_of(record),
            uuid_of(record),
        )


def _learn_nsid(nsid: int) -> Callable[[NamespaceOwn], NamespaceOwn]:
    return lambda own: replace(own, nsid=nsid)
