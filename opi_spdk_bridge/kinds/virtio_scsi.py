"""The virtio-scsi kinds.

On SPDK a vhost-scsi controller is a virtio-scsi device with up to eight SCSI targets, each with the one LUN 0. So a
VirtioScsiController is a vhost-scsi controller with a PCI function, a VirtioScsiTarget one without, and a VirtioScsiLun
takes one SCSI target number of the controller or target that it names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Counters, Record, Reservation, Settled, Taken
from opi_spdk_bridge.kinds import qos, rules
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.kinds.claims import shared_claim_reservation, why_not_claimable
from opi_spdk_bridge.kinds.pci import function_reservation
from opi_spdk_bridge.kinds.shape import VIRTIO, require_usable
from opi_spdk_bridge.kinds.vhost import VhostKind, vhost_reservation
from opi_spdk_bridge.pb.storage.frontend_virtio_scsi_pb2 import VirtioScsiController, VirtioScsiLun, VirtioScsiTarget
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import ScsiTarget, VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View

M = TypeVar("M", bound=Message)

MOST_LUNS = 8

_CTRLR = "ctrlr"  # in Record.private of a LUN: the vhost controller,
_NUMBER = "number"  # the SCSI target number there,
_BDEV = "bdev"  # and the bdev


class _ScsiDeviceKind(VhostKind[M]):
    def reserves(self, record: Record) -> Iterable[Reservation]:
        return (vhost_reservation(record.id),)

    async def settle(self, name: str, resource: M, before: Record | None) -> Settled:
        return Settled()

    def steps(self, record: Record, seen: VhostController | None) -> list[Step]:
        if seen is not None:
            return []
        return [self.creation(record, methods.vhost_create_scsi_controller(record.id))]

    def removal(self, record: Record, present: bool) -> list[Step]:
        return [self.deletion(record)] if present else []

    async def measure(self, record: Record) -> Counters:
        bdevs = [lun.private[_BDEV] for lun in self.graph.dependents(record.name)]
        return sum(await asyncio.gather(*map(self.bdev_counters, bdevs)), Counters())


class VirtioScsiTargetKind(_ScsiDeviceKind[VirtioScsiTarget]):
    """`max_luns` is kept by the bridge: LUNs beyond it are refused."""

    message = VirtioScsiTarget

    def check(self, resource: VirtioScsiTarget) -> None:
        rules.within(resource.max_luns, 0, MOST_LUNS, "max_luns")

    def amendment(self, old: Record, new: Record) -> list[Step]:
        numbers = [lun.private[_NUMBER] for lun in self.graph.dependents(new.name)]
        if numbers and max(numbers) >= (new.desired.max_luns or MOST_LUNS):
            text = f"{new.name} has a LUN under SCSI target {max(numbers)}: delete it before lowering max_luns"
            raise errors.FailedPrecondition(text, field="max_luns")
        return []


class VirtioScsiControllerKind(_ScsiDeviceKind[VirtioScsiController]):
    """The PCI function is for whoever plugs the device: vhost-user itself knows none."""

    message = VirtioScsiController

    def check(self, resource: VirtioScsiController) -> None:
        for part in ("port_id", "physical_function", "virtual_function"):
            rules.within(getattr(resource.pcie_id, part).value, 0, 65535, f"pcie_id.{part}")
        for limit in ("min_limit", "max_limit"):
            if resource.HasField(limit):
                text = f"{limit}: the target cannot limit a controller; limit its volumes with a QosVolume"
                raise errors.InvalidArgument(text, field=limit)

    def reserves(self, record: Record) -> Iterable[Reservation]:
        return (*super().reserves(record), function_reservation(record.desired.pcie_id, "pcie_id"))


class VirtioScsiLunKind(SpdkKind[VirtioScsiLun, ScsiTarget]):
    """Its SCSI target number is chosen, and stored, before the first call."""

    message = VirtioScsiLun
    legacy_collection: ClassVar[str | None] = "volumes"

    async def settle(self, name: str, resource: VirtioScsiLun, before: Record | None) -> Settled:
        device = self._device(resource.target_name_ref)
        volume = await self.volumes.resolve(resource.volume_name_ref, "volume_name_ref")
        await require_usable(self, volume, before, VIRTIO, "volume_name_ref")
        if before is not None and before.private[_CTRLR] == device.id:
            number = before.private[_NUMBER]
        else:
            number = await self._free_number(device)
        stands_on = (device.name, *((volume.resource,) if volume.resource else ()))
        return Settled({}, {_CTRLR: device.id, _NUMBER: number, _BDEV: volume.bdev}, stands_on)

    def _device(self, reference: str) -> Record:
        """The controller or target of that name, in either style, or bare ID."""
        bare = reference.rpartition("/")[2]
        if reference.count("/") > 1 or reference.partition("/")[0] not in (
            bare, "volumes", "virtioScsiTargets", "virtioScsiControllers",
        ):  # fmt: skip
            bare = ""
        for holder in self.graph.holders(f"vhost:{bare}"):
            named = "/" not in reference or reference in (holder.name, f"volumes/{bare}")
            if named and isinstance(holder.desired, VirtioScsiController | VirtioScsiTarget):
                return holder
        text = f"target_name_ref {reference[:200]!r} names neither a VirtioScsiController nor a VirtioScsiTarget"
        raise errors.NotFound(text, field="target_name_ref", resource=reference)

    async def _free_number(self, device: Record) -> int:
        seen = await self.target.view().vhost(device.id)
        taken = {target.scsi_dev_num for target in seen.scsi} if seen is not None else set()
        most = getattr(device.desired, "max_luns", 0) or MOST_LUNS
        for number in range(most):
            if number not in taken and not any(True for _ in self.graph.holders(f"scsi:{device.id} {number}")):
                return number
        text = f"{device.name} has {most} LUNs, as many as it may have"
        raise errors.ResourceExhausted(text, field="target_name_ref", resource=device.name)

    def reserves(self, record: Record) -> Iterable[Reservation]:
        ctrlr, number = record.private[_CTRLR], record.private[_NUMBER]
        yield Reservation(f"scsi:{ctrlr} {number}", f"SCSI target {number} of {ctrlr}", conflict=Taken)
        yield shared_claim_reservation(record.private[_BDEV], "vhost", "volume_name_ref")

    # On the target

    async def look(self, record: Record, view: View) -> ScsiTarget | None:
        controller = await view.vhost(record.private[_CTRLR])
        targets = controller.scsi if controller is not None else ()
        return next((target for target in targets if target.scsi_dev_num == record.private[_NUMBER]), None)

    def ours(self, record: Record, seen: ScsiTarget) -> bool:
        previous = record.previous.private[_BDEV] if record.previous is not None else None
        return not seen.luns or seen.luns[0].bdev_name in (record.private[_BDEV], previous, None)

    def steps(self, record: Record, seen: ScsiTarget | None) -> list[Step]:
        bdev = record.private[_BDEV]
        if seen is not None and seen.luns and seen.luns[0].bdev_name == bdev:
            return self._stale(record)
        old = self.removal(record, present=True) if seen is not None else self._stale(record)
        return [*old, self._add(record), *qos.on_open(self.target, self.graph, bdev)]

    def removal(self, record: Record, present: bool) -> list[Step]:
        own = [Step(f"{self._at(record)} is still there", self._remove(record))] if present else []
        return [*self._stale(record), *own]

    def _stale(self, record: Record) -> list[Step]:
        """After an update that was broken off: the LUN at the other place, if it is there."""
        other = record.previous
        if other is None or (other.private[_CTRLR], other.private[_NUMBER]) == (
            record.private[_CTRLR],
            record.private[_NUMBER],
        ):
            return []

        async def remove() -> None:
            """Looks first: the target says of an absent one that it is busy."""
            seen = await self.look(other, self.target.view())
            if seen is not None and self.ours(other, seen):
                await self.target.client.call(self._remove(other))

        return [Step(f"{self._at(other)} is still there", remove, already=gone)]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        if old.private == new.private:
            return []
        add_old = methods.vhost_scsi_controller_add_target(
            old.private[_CTRLR], old.private[_NUMBER], old.private[_BDEV]
        )
        remove = Step(f"{self._at(old)} is the old one", self._remove(old), add_old)
        return [remove, self._add(new), *qos.on_open(self.target, self.graph, new.private[_BDEV])]

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        adding = isinstance(failure.error, SpdkError) and failure.error.method == "vhost_scsi_controller_add_target"
        blocked = await why_not_claimable(self, record, record.private[_BDEV], "volume_name_ref") if adding else None
        if blocked is not None:
            return blocked
        lost = isinstance(failure.error, SpdkError) and failure.error.gone  # it may have been restored by now
        if lost or await self.target.view().vhost(record.private[_CTRLR]) is None:
            text = f"vhost device {record.private[_CTRLR]} is not on the target any more: the bridge will restore it"
            return errors.Aborted(text, field="target_name_ref")
        return failure.undiagnosed()

    async def measure(self, record: Record) -> Counters:
        return await self.bdev_counters(record.private[_BDEV])

    def _add(self, record: Record) -> Step:
        ctrlr, number, bdev = (record.private[key] for key in (_CTRLR, _NUMBER, _BDEV))
        add = methods.vhost_scsi_controller_add_target(ctrlr, number, bdev)
        return Step(f"{self._at(record)} is missing", add, self._remove(record), guarded=True)  # removing takes a while

    def _remove(self, record: Record) -> Call[bool]:
        return methods.vhost_scsi_controller_remove_target(record.private[_CTRLR], record.private[_NUMBER])

    @staticmethod
    def _at(record: Record) -> str:
        return f"SCSI target {record.private[_NUMBER]} of {record.private[_CTRLR]}"
