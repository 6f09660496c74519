"""QosVolume on SPDK: no object of its own, but the limits of the bdev under it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.core.side import Counters, Postponed
from opi_spdk_bridge.kinds.shared.qos import Limited
from opi_spdk_bridge.kinds.shared.underlying import same, volume_of
from opi_spdk_bridge.pb.storage.middleend_qos_volume_pb2 import QosVolume
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk import qos
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.claims import why_absent
from opi_spdk_bridge.targets.spdk.underlying import handle, present

_FIELD = "volume_name_ref"


@dataclass(frozen=True)
class Seen:
    """Whether the limited bdev has other limits that can be changed, and whether owed ones can be taken off."""

    unlike: bool
    payable: bool


class QosVolumeSide(SpdkSide[QosVolume, Limited, Seen]):
    """Limits are set when they can be, else by what opens the volume next."""

    async def look(self, record: Record[QosVolume, Limited], view: View) -> Seen | None:
        volume, limits = volume_of(record), record.own.qos or {}
        if await present(volume, view) is None:
            return None
        unlike = await qos.unlike(view, self.graph, volume, limits)
        return Seen(unlike, await qos.payable(view, self.graph, record))

    def steps(self, record: Record[QosVolume, Limited], seen: Seen | None) -> list[Step]:
        due = seen is None or seen.payable or record.previous is not None
        lift = qos.lift(self.target, self.graph, record, qos.left_behind(record)) if due else []
        return [*lift, self._set(record, record.own.qos or {})] if seen is None or seen.unlike else lift

    def removal(self, record: Record[QosVolume, Limited], present: bool) -> list[Step]:
        return qos.lift_all(self.target, self.graph, record, [volume_of(record), *qos.left_behind(record)])

    async def make(self, record: Record[QosVolume, Limited]) -> Limited:
        return await self._unless_postponed(record, self.steps(record, None))

    async def repair(self, record: Record[QosVolume, Limited], view: Any) -> Limited:
        seen = await self.look(record, self.target.view())  # the volume may have been restored since the sweep's look
        if seen is None:
            raise await why_absent(self.target, self.graph, record, _FIELD) or errors.Aborted(
                f"{record.name}: its volume has just come back"
            )
        return await self._unless_postponed(record, self.steps(record, seen))

    async def amend(self, old: Record[QosVolume, Limited], new: Record[QosVolume, Limited]) -> Limited:
        before, limits = old.own.qos or {}, new.own.qos or {}
        if same(volume_of(old), volume_of(new)):
            return await self._unless_postponed(new, [self._set(new, limits, undo=before)])
        # The old volume first: what cannot be taken back or must wait there is the record's own whatever follows.
        back = qos.set_when_possible(self.target, self.graph, volume_of(old), before)
        lift = [replace(step, undo=back.do) for step in qos.lift(self.target, self.graph, new, [volume_of(old)])]
        return await self._try(new, [*lift, qos.set_when_possible(self.target, self.graph, volume_of(new), limits)])

    async def _unless_postponed(self, record: Record[QosVolume, Limited], steps: list[Step]) -> Limited:
        try:
            return await self._try(record, steps)
        except Postponed:
            return record.own  # the limits stay in the record, and are set by what opens the volume

    async def diagnose(self, record: Record[QosVolume, Limited], failure: StepFailed) -> errors.BridgeError:
        lost = isinstance(failure.error, SpdkError) and failure.error.gone
        if lost or await self.look(record, self.target.view()) is None:
            return await why_absent(self.target, self.graph, record, _FIELD) or failure.undiagnosed()
        return failure.undiagnosed()

    def _set(self, record: Record[QosVolume, Limited], limits: Any, undo: Any = None) -> Step:
        volume = volume_of(record)
        step = qos.set_limits(self.target, self.graph, volume, limits)
        back = qos.set_limits(self.target, self.graph, volume, undo).do if undo else None
        return Step(step.says, step.do, back)

    async def measure(self, record: Record[QosVolume, Limited]) -> Counters:
        return await self.bdev_counters(handle(volume_of(record)))
