"""QosVolume: limits on the I/O of another volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Facts, Postponed, Record, Reservation, Settled, Volume
from opi_spdk_bridge.core.volumes import numbered_reservation
from opi_spdk_bridge.kinds.shared import qos
from opi_spdk_bridge.kinds.shared.base import SpdkKind
from opi_spdk_bridge.kinds.shared.claims import why_absent
from opi_spdk_bridge.kinds.shared.underlying import BDEV, handle, kept, present, same, volume_of
from opi_spdk_bridge.pb.storage.middleend_qos_volume_pb2 import QosVolume
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.view import View

_FIELD = "volume_name_ref"


@dataclass(frozen=True)
class Seen:
    """Whether the limited bdev has other limits that can be changed, and whether owed ones can be taken off."""

    unlike: bool
    payable: bool


class QosVolumeKind(SpdkKind[QosVolume, Seen]):
    """No object of its own on the target: it stands for the volume under it, whose limits it holds."""

    message = QosVolume
    legacy_collection = "volumes"

    def check(self, resource: QosVolume) -> None:
        if resource.limits.HasField("min") and resource.limits.min.ListFields():
            text = "limits.min: the target guarantees nothing, it only limits; use limits.max"
            raise errors.InvalidArgument(text, field="limits.min")
        qos.check_limits(resource.limits.max, "limits.max")

    async def settle(self, name: str, resource: QosVolume, before: Record | None) -> Settled:
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        private = {**kept(volume), qos.LIMITS: qos.target_limits(resource.limits.max)}
        if before is not None and qos.OWED in before.private:
            private[qos.OWED] = before.private[qos.OWED]
        return Settled({}, private, (volume.resource,) if volume.resource else ())

    def reserves(self, record: Record) -> Iterable[Reservation]:
        identity = Reservation(f"volume-id:{record.id}", f"the volume ID {record.id}")
        own = qos.qos_reservation(record.private[BDEV], record.name, _FIELD)
        return (own, identity, *numbered_reservation(record.id), *qos.owed_reservations(record))

    def volume(self, record: Record) -> Volume | None:
        return volume_of(record)

    async def look(self, record: Record, view: View) -> Seen | None:
        volume, limits = volume_of(record), record.private[qos.LIMITS]
        if await present(volume, view) is None:
            return None
        unlike = await qos.unlike(view, self.graph, volume, limits)
        return Seen(unlike, await qos.payable(view, self.graph, record))

    def steps(self, record: Record, seen: Seen | None) -> list[Step]:
        due = seen is None or seen.payable or record.previous is not None
        lift = qos.lift(self.target, self.graph, record, qos.left_behind(record)) if due else []
        return [*lift, self._set(record, record.private[qos.LIMITS])] if seen is None or seen.unlike else lift

    def removal(self, record: Record, present: bool) -> list[Step]:
        return qos.lift_all(self.target, self.graph, record, [volume_of(record), *qos.left_behind(record)])

    async def realize(self, record: Record) -> Facts:
        return await self._unless_postponed(record, self.steps(record, None))

    async def repair(self, record: Record, view: Any) -> Facts:
        seen = await self.look(record, self.target.view())  # the volume may have been restored since the sweep's look
        if seen is None:
            raise await why_absent(self, record, _FIELD) or errors.Aborted(
                f"{record.name}: its volume has just come back"
            )
        return await self._unless_postponed(record, self.steps(record, seen))

    async def amend(self, old: Record, new: Record) -> Facts:
        before, limits = old.private[qos.LIMITS], new.private[qos.LIMITS]
        if same(volume_of(old), volume_of(new)):
            return await self._unless_postponed(new, [self._set(new, limits, undo=before)])
        # The old volume first: what cannot be taken back or must wait there is the record's own whatever follows.
        back = qos.set_when_possible(self.target, self.graph, volume_of(old), before)
        lift = [replace(step, undo=back.do) for step in qos.lift(self.target, self.graph, new, [volume_of(old)])]
        return await self._try(new, [*lift, qos.set_when_possible(self.target, self.graph, volume_of(new), limits)])

    async def _unless_postponed(self, record: Record, steps: list[Step]) -> Facts:
        try:
            return await self._try(record, steps)
        except Postponed:
            return {}  # the limits stay in the record, and are set by what opens the volume

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        lost = isinstance(failure.error, SpdkError) and failure.error.gone
        if lost or await self.look(record, self.target.view()) is None:
            return await why_absent(self, record, _FIELD) or failure.undiagnosed()
        return failure.undiagnosed()

    def _set(self, record: Record, limits: Any, undo: Any = None) -> Step:
        volume = volume_of(record)
        step = qos.set_limits(self.target, self.graph, volume, limits)
        back = qos.set_limits(self.target, self.graph, volume, undo).do if undo else None
        return Step(step.says, step.do, back)

    async def measure(self, record: Record) -> Counters:
        return await self.bdev_counters(handle(volume_of(record)))
