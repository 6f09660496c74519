"""The virtio-scsi kinds on SPDK.

A vhost-scsi controller is a virtio-scsi device with up to eight SCSI targets, each with the one LUN 0. So a
VirtioScsiController is a vhost-scsi controller with a PCI function, a VirtioScsiTarget one without, and a VirtioScsiLun
takes one SCSI target number of the controller or target that it names.
"""

from __future__ import annotations

import asyncio
from typing import Generic

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Taken
from opi_spdk_bridge.core.record import M, Own, Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.shared.underlying import volume_of
from opi_spdk_bridge.kinds.shared.vhost import OnDevice
from opi_spdk_bridge.kinds.virtio_scsi import MOST_LUNS
from opi_spdk_bridge.pb.storage.frontend_virtio_scsi_pb2 import VirtioScsiController, VirtioScsiLun, VirtioScsiTarget
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import ScsiTarget, VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk import qos
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.claims import why_not_claimable
from opi_spdk_bridge.targets.spdk.underlying import handle, has_identity, required
from opi_spdk_bridge.targets.spdk.vhost import VhostSide

_FIELD = "volume_name_ref"


class _DeviceSide(VhostSide[M, Own], Generic[M]):
    def steps(self, record: Record[M, Own], seen: VhostController | None) -> list[Step]:
        if seen is not None:
            return []
        return [self.creation(record, methods.vhost_create_scsi_controller(record.id))]

    def removal(self, record: Record[M, Own], present: bool) -> list[Step]:
        return [self.deletion(record)] if present else []

    async def measure(self, record: Record[M, Own]) -> Counters:
        bdevs = [handle(volume_of(lun)) for lun in self.graph.dependents(record.name)]
        return sum(await asyncio.gather(*map(self.bdev_counters, bdevs)), Counters())


class VirtioScsiControllerSide(_DeviceSide[VirtioScsiController]):
    """A vhost-scsi controller."""


class VirtioScsiTargetSide(_DeviceSide[VirtioScsiTarget]):
    """The same."""

    def amendment(self, old: Record[VirtioScsiTarget, Own], new: Record[VirtioScsiTarget, Own]) -> list[Step]:
        numbers = [lun.own.number for lun in self.graph.dependents(new.name)]
        if numbers and max(numbers) >= (new.desired.max_luns or MOST_LUNS):
            text = f"{new.name} has a LUN under SCSI target {max(numbers)}: delete it before lowering max_luns"
            raise errors.FailedPrecondition(text, field="max_luns")
        return []


class VirtioScsiLunSide(SpdkSide[VirtioScsiLun, OnDevice, ScsiTarget]):
    """Known by its place and by whose bdev is there."""

    async def look(self, record: Record[VirtioScsiLun, OnDevice], view: View) -> ScsiTarget | None:
        asked = view.vhost(record.own.ctrlr), has_identity(record, view)
        controller, has_its_identity = await asyncio.gather(*asked)
        targets = controller.scsi if controller is not None else ()
        seen = next((target for target in targets if target.scsi_dev_num == record.own.number), None)
        if seen is None:
            return None
        on_volume = seen.bdev == record.own.bdev and has_its_identity
        return seen.model_copy(update={"on_volume": on_volume})

    def ours(self, record: Record[VirtioScsiLun, OnDevice], seen: ScsiTarget) -> bool:
        previous = record.previous.own.bdev if record.previous is not None else None
        return seen.bdev in (record.own.bdev, previous, None)

    def steps(self, record: Record[VirtioScsiLun, OnDevice], seen: ScsiTarget | None) -> list[Step]:
        if seen is not None and seen.on_volume:
            return self._stale(record)
        old = self.removal(record, present=True) if seen is not None else self._stale(record)
        if seen is not None and seen.bdev is None:  # the guest's disk is dead; it stays until there is one to put there
            old.insert(0, required(record, _FIELD))
        return [*old, self._add(record), *qos.on_open(self.target, self.graph, volume_of(record))]

    def removal(self, record: Record[VirtioScsiLun, OnDevice], present: bool) -> list[Step]:
        own = [Step(f"{self._at(record)} is still there", self._remove(record))] if present else []
        return [*self._stale(record), *own]

    def _stale(self, record: Record[VirtioScsiLun, OnDevice]) -> list[Step]:
        """After an update that was broken off: the LUN at the other place, if it is there."""
        other = record.previous
        if other is None or (other.own.ctrlr, other.own.number) == (
            record.own.ctrlr,
            record.own.number,
        ):
            return []

        async def remove() -> None:
            """Looks first: the target says of an absent one that it is busy."""
            seen = await self.look(other, self.target.view())
            if seen is not None and self.ours(other, seen):
                await self.target.client.call(self._remove(other))

        return [Step(f"{self._at(other)} is still there", remove, already=gone)]

    def amendment(self, old: Record[VirtioScsiLun, OnDevice], new: Record[VirtioScsiLun, OnDevice]) -> list[Step]:
        if old.own == new.own:
            return []
        remove = Step(f"{self._at(old)} is the old one", self._remove(old), self._add(old).do)
        return [remove, self._add(new), *qos.on_open(self.target, self.graph, volume_of(new))]

    async def diagnose(self, record: Record[VirtioScsiLun, OnDevice], failure: StepFailed) -> errors.BridgeError:
        adding = isinstance(failure.error, SpdkError) and failure.error.method == "vhost_scsi_controller_add_target"
        blocked = await why_not_claimable(self.target, self.graph, record, _FIELD) if adding else None
        if blocked is not None:
            return blocked
        device = await self.target.view().vhost(record.own.ctrlr)
        numbers = [target.scsi_dev_num for target in device.scsi] if device is not None else []
        if record.previous is None and record.own.number in numbers:
            return Taken(f"{self._at(record)} is somebody else's", field="target_name_ref", values=numbers)
        gone = isinstance(failure.error, SpdkError) and failure.error.gone  # it may have been restored by now
        if gone or device is None:
            text = f"vhost device {record.own.ctrlr} is not on the target any more: the bridge will restore it"
            return errors.Aborted(text, field="target_name_ref")
        return failure.undiagnosed()

    async def measure(self, record: Record[VirtioScsiLun, OnDevice]) -> Counters:
        return await self.bdev_counters(handle(volume_of(record)))

    def _add(self, record: Record[VirtioScsiLun, OnDevice]) -> Step:
        ctrlr, number = record.own.ctrlr, record.own.number
        add = methods.vhost_scsi_controller_add_target(ctrlr, number, handle(volume_of(record)))
        return Step(f"{self._at(record)} is missing", add, self._remove(record), guarded=True)  # removing takes a while

    def _remove(self, record: Record[VirtioScsiLun, OnDevice]) -> Call[bool]:
        return methods.vhost_scsi_controller_remove_target(record.own.ctrlr, record.own.number)

    @staticmethod
    def _at(record: Record[VirtioScsiLun, OnDevice]) -> str:
        return f"SCSI target {record.own.number} of {record.own.ctrlr}"
