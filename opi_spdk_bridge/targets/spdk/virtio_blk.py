"""VirtioBlk on SPDK: a vhost-blk controller over the volume's bdev."""

from __future__ import annotations

import asyncio

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.shared.qos import Limited, limited
from opi_spdk_bridge.kinds.shared.underlying import same, volume_of
from opi_spdk_bridge.pb.storage.frontend_virtio_blk_pb2 import VirtioBlk
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk import qos
from opi_spdk_bridge.targets.spdk.claims import why_not_claimable
from opi_spdk_bridge.targets.spdk.hotplug import Function
from opi_spdk_bridge.targets.spdk.underlying import handle, has_identity, required
from opi_spdk_bridge.targets.spdk.vhost import VhostSide

_FIELD = "volume_name_ref"
_ON_THE_BDEV = ("vhost_create_blk_controller", "bdev_set_qos_limit")
"""Calls that the bdev decides on."""


class VirtioBlkSide(VhostSide[VirtioBlk, Limited]):
    """The target keeps no identity but the name; whose bdev it is tells whether it is as asked."""

    def fits(self, record: Record[VirtioBlk, Limited], seen: VhostController) -> bool:
        return seen.is_block

    async def look(self, record: Record[VirtioBlk, Limited], view: View) -> VhostController | None:
        seen, has_its_identity = await asyncio.gather(super().look(record, view), has_identity(record, view))
        if seen is None:
            return None
        limits = record.own.qos
        unlike = limits is not None and await qos.unlike(view, self.graph, volume_of(record), limits)
        payable = await qos.payable(view, self.graph, record)
        on_volume = seen.bdev == record.own.bdev and has_its_identity
        return seen.model_copy(update={"on_volume": on_volume, "limits_unlike": unlike, "limits_owed": payable})

    def steps(self, record: Record[VirtioBlk, Limited], seen: VhostController | None) -> list[Step]:
        due = seen is None or seen.limits_owed or record.previous is not None
        lift = qos.lift(self.target, self.graph, record, qos.left_behind(record)) if due else []
        function, moved = self._function(record), self._moved(record)
        if seen is not None and seen.on_volume:
            limits = self._limit(record) if seen.limits_unlike else []
            return [*lift, *limits, *moved, *self.host.plug(record, function)]
        old = [] if seen is None else [*self.host.unplug(function), self.deletion(record)]
        if seen is not None and seen.bdev is None:  # the guest's disk is dead; it stays until there is one to put there
            old.insert(0, required(record, _FIELD))
        limits = self._limit(record) or qos.on_open(self.target, self.graph, volume_of(record))
        plug = self.host.plug(record, function, again=bool(old))
        return [*lift, *moved, *old, self._create(record), *limits, *plug]

    def _moved(self, record: Record[VirtioBlk, Limited]) -> list[Step]:
        """After an update that was broken off: the function at the other place, if it is there."""
        if record.previous is None or self._function(record.previous) == self._function(record):
            return []
        return self.host.unplug(self._function(record.previous))

    def _limit(self, record: Record[VirtioBlk, Limited]) -> list[Step]:
        limits = record.own.qos
        return [qos.set_when_possible(self.target, self.graph, volume_of(record), limits)] if limits else []

    def removal(self, record: Record[VirtioBlk, Limited], present: bool) -> list[Step]:
        delete = [self.deletion(record)] if present else []
        return [
            *self.host.unplug(self._function(record)),
            *delete,
            *qos.lift_all(self.target, self.graph, record, [*limited(record), *qos.left_behind(record)]),
        ]

    def amendment(self, old: Record[VirtioBlk, Limited], new: Record[VirtioBlk, Limited]) -> list[Step]:
        was, now, steps = self._function(old), self._function(new), list[Step]()
        moves = was != now or not same(volume_of(old), volume_of(new))
        if moves:
            steps += self.host.unplug(was, undo=True)
        if not same(volume_of(old), volume_of(new)):
            delete, create = self.deletion(old), self._create(old)
            steps += [Step(delete.says, delete.do, create.do), self._create(new)]
        if old.own != new.own:
            steps += [*self._limit(new), *qos.lift(self.target, self.graph, new, limited(old))]
        return [*steps, *(self.host.plug(new, now, again=True) if moves else [])]

    async def diagnose(self, record: Record[VirtioBlk, Limited], failure: StepFailed) -> errors.BridgeError:
        on_bdev = isinstance(failure.error, SpdkError) and failure.error.method in _ON_THE_BDEV
        blocked = await why_not_claimable(self.target, self.graph, record, _FIELD) if on_bdev else None
        return blocked or await super().diagnose(record, failure)

    async def measure(self, record: Record[VirtioBlk, Limited]) -> Counters:
        return await self.bdev_counters(handle(volume_of(record)))

    def _function(self, record: Record[VirtioBlk, Limited]) -> Function:
        async def socket() -> str:
            found = await self.target.view().vhost(record.id)
            if found is None:
                raise errors.Aborted(f"vhost device {record.id} is not on the target any more: try again")
            return found.socket

        return Function(record.desired.pcie_id.physical_function.value, record.id, False, socket)

    def _create(self, record: Record[VirtioBlk, Limited]) -> Step:
        create = methods.vhost_create_blk_controller(record.id, handle(volume_of(record)))
        return self.creation(record, create)
