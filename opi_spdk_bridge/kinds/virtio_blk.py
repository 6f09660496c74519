"""VirtioBlk: a vhost-user-blk device on a PCI function, over a volume."""

from __future__ import annotations

from collections.abc import Iterable

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Record, Reservation, Settled
from opi_spdk_bridge.kinds import qos
from opi_spdk_bridge.kinds.claims import shared_claim_reservation, why_not_claimable
from opi_spdk_bridge.kinds.hotplug import Function
from opi_spdk_bridge.kinds.pci import check_function, function_reservation
from opi_spdk_bridge.kinds.shape import VIRTIO, require_usable
from opi_spdk_bridge.kinds.vhost import VhostKind, vhost_reservation
from opi_spdk_bridge.pb.storage.frontend_virtio_blk_pb2 import VirtioBlk
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.view import View

_BDEV = "bdev"  # in Record.private: the bdev under the device
_FIELD = "volume_name_ref"
_ON_THE_BDEV = ("vhost_create_blk_controller", "bdev_set_qos_limit")
"""Calls that the bdev decides on."""


class VirtioBlkKind(VhostKind[VirtioBlk]):
    """`max_limit` is the QoS of the volume; `max_io_qps` is kept and returned only: the guest's driver sets it."""

    message = VirtioBlk

    def check(self, resource: VirtioBlk) -> None:
        check_function(resource.pcie_id, "pcie_id")
        self.host.check(resource.pcie_id, "pcie_id")
        if resource.HasField("min_limit"):
            raise errors.InvalidArgument("min_limit: the target guarantees nothing, it only limits", field="min_limit")
        if resource.HasField("max_limit"):
            qos.check_limits(resource.max_limit, "max_limit")

    async def settle(self, name: str, resource: VirtioBlk, before: Record | None) -> Settled:
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        await require_usable(self, volume, before, VIRTIO, _FIELD)
        limits = qos.target_limits(resource.max_limit) if resource.HasField("max_limit") else None
        if limits is None and before is not None and qos.LIMITS in before.private:
            limits = qos.NO_LIMITS  # taken off now or, where that must wait, when the volume is open
        private = {_BDEV: volume.bdev, **({qos.LIMITS: limits} if limits else {})}
        if before is not None and qos.OWED in before.private:
            private[qos.OWED] = before.private[qos.OWED]
        return Settled({}, private, (volume.resource,) if volume.resource else ())

    def reserves(self, record: Record) -> Iterable[Reservation]:
        bdev = record.private[_BDEV]
        yield vhost_reservation(record.id)
        yield function_reservation(record.desired.pcie_id, "pcie_id")
        yield shared_claim_reservation(bdev, "vhost", _FIELD)
        if record.desired.HasField("max_limit"):
            yield qos.qos_reservation(bdev, record.name, "max_limit")
        yield from qos.owed_reservations(record)

    def fits(self, record: Record, seen: VhostController) -> bool:
        return seen.is_block

    async def look(self, record: Record, view: View) -> VhostController | None:
        seen = await super().look(record, view)
        if seen is None:
            return None
        limits = record.private.get(qos.LIMITS)
        unlike = limits is not None and await qos.unlike(view, self.graph, record.private[_BDEV], limits)
        payable = await qos.payable(view, self.graph, record)
        return seen.model_copy(update={"limits_unlike": unlike, "limits_owed": payable})

    def steps(self, record: Record, seen: VhostController | None) -> list[Step]:
        bdev = record.private[_BDEV]
        due = seen is None or seen.limits_owed or record.previous is not None
        lift = qos.lift(self.target, self.graph, record, qos.left_behind(record)) if due else []
        function, moved = self._function(record), self._moved(record)
        if seen is not None and seen.bdev == bdev:
            limits = self._limit(record) if seen.limits_unlike else []
            return [*lift, *limits, *moved, *self.host.plug(record, function)]
        old = [] if seen is None else [*self.host.unplug(function), self.deletion(record)]
        limits = self._limit(record) or qos.on_open(self.target, self.graph, bdev)
        plug = self.host.plug(record, function, again=bool(old))
        return [*lift, *moved, *old, self._create(record), *limits, *plug]

    def _moved(self, record: Record) -> list[Step]:
        """After an update that was broken off: the function at the other place, if it is there."""
        if record.previous is None or self._function(record.previous) == self._function(record):
            return []
        return self.host.unplug(self._function(record.previous))

    def _limit(self, record: Record) -> list[Step]:
        limits = record.private.get(qos.LIMITS)
        return [qos.set_when_possible(self.target, self.graph, record.private[_BDEV], limits)] if limits else []

    def removal(self, record: Record, present: bool) -> list[Step]:
        delete = [self.deletion(record)] if present else []
        own = [record.private[_BDEV]] if record.private.get(qos.LIMITS) else []
        return [
            *self.host.unplug(self._function(record)),
            *delete,
            *qos.lift_all(self.target, self.graph, record, [*own, *qos.left_behind(record)]),
        ]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        was, now, steps = self._function(old), self._function(new), list[Step]()
        moves = was != now or old.private[_BDEV] != new.private[_BDEV]
        if moves:
            steps += self.host.unplug(was, undo=True)
        if old.private[_BDEV] != new.private[_BDEV]:
            delete, create = self.deletion(old), self._create(old)
            steps += [Step(delete.says, delete.do, create.do), self._create(new)]
        if old.private != new.private:
            left = [old.private[_BDEV]] if old.private.get(qos.LIMITS) else []
            steps += [*self._limit(new), *qos.lift(self.target, self.graph, new, left)]
        return [*steps, *(self.host.plug(new, now, again=True) if moves else [])]

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        on_bdev = isinstance(failure.error, SpdkError) and failure.error.method in _ON_THE_BDEV
        blocked = await why_not_claimable(self, record, record.private[_BDEV], _FIELD) if on_bdev else None
        return blocked or await super().diagnose(record, failure)

    async def measure(self, record: Record) -> Counters:
        return await self.bdev_counters(record.private[_BDEV])

    def _function(self, record: Record) -> Function:
        async def socket() -> str:
            found = await self.target.view().vhost(record.id)
            if found is None:
                raise errors.Aborted(f"vhost device {record.id} is not on the target any more: try again")
            return found.socket

        return Function(record.desired.pcie_id.physical_function.value, record.id, False, socket)

    def _create(self, record: Record) -> Step:
        return self.creation(record, methods.vhost_create_blk_controller(record.id, record.private[_BDEV]))
