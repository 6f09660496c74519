"""The virtio-scsi kinds: a device with a PCI function (controller) or without (target), and LUNs of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Generic

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation, Settled, Taken
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import AnyRecord, M, Own, Record
from opi_spdk_bridge.kinds.shared import pci, rules
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.shared.claims import shared_claim_reservation
from opi_spdk_bridge.kinds.shared.pci import function_reservation
from opi_spdk_bridge.kinds.shared.shape import VIRTIO, require_usable
from opi_spdk_bridge.kinds.shared.underlying import stands_on
from opi_spdk_bridge.kinds.shared.vhost import OnDevice, vhost_reservation
from opi_spdk_bridge.pb.storage.frontend_virtio_scsi_pb2 import VirtioScsiController, VirtioScsiLun, VirtioScsiTarget

MOST_LUNS = 8
_FIELD = "volume_name_ref"


class _DeviceKind(ContractKind[M, Own], Generic[M]):
    """What a controller and a target are alike in."""

    legacy_collection: ClassVar[str | None] = "volumes"

    async def settle(
        self, name: str, resource: M, before: Record[M, Own] | None, taken: Collection[Any] = ()
    ) -> Settled[Own]:
        return Settled(Own())

    def reserves(self, record: Record[M, Own]) -> Iterable[Reservation]:
        return (vhost_reservation(record.id),)


class VirtioScsiTargetKind(_DeviceKind[VirtioScsiTarget]):
    """`max_luns` is kept by the bridge: LUNs beyond it are refused."""

    message = VirtioScsiTarget
    title = "Virtio-SCSI targets"
    front_end = True

    def check(self, resource: VirtioScsiTarget) -> None:
        rules.within(resource.max_luns, 0, MOST_LUNS, "max_luns")


class VirtioScsiControllerKind(_DeviceKind[VirtioScsiController]):
    """The PCI function is for whoever plugs the device: vhost-user itself knows none."""

    message = VirtioScsiController
    title = "Virtio-SCSI controllers"
    front_end = True

    def line(self, resource: VirtioScsiController) -> Line:
        return Line((pci.in_words(resource.pcie_id),))

    def check(self, resource: VirtioScsiController) -> None:
        for part in ("port_id", "physical_function", "virtual_function"):
            rules.within(getattr(resource.pcie_id, part).value, 0, 65535, f"pcie_id.{part}")
        for limit in ("min_limit", "max_limit"):
            if resource.HasField(limit):
                text = f"{limit}: the target cannot limit a controller; limit its volumes with a QosVolume"
                raise errors.InvalidArgument(text, field=limit)

    def reserves(self, record: Record[VirtioScsiController, Own]) -> Iterable[Reservation]:
        return (*super().reserves(record), function_reservation(record.desired.pcie_id, "pcie_id"))


class VirtioScsiLunKind(ContractKind[VirtioScsiLun, OnDevice]):
    """Its SCSI target number is chosen, and stored, before the first call."""

    message = VirtioScsiLun
    title = "Virtio-SCSI LUNs"
    front_end = True
    own = OnDevice
    legacy_collection: ClassVar[str | None] = "volumes"

    def line(self, resource: VirtioScsiLun) -> Line:
        return Line((f"of {resource.target_name_ref}",))

    async def settle(
        self,
        name: str,
        resource: VirtioScsiLun,
        before: Record[VirtioScsiLun, OnDevice] | None,
        taken: Collection[Any] = (),
    ) -> Settled[OnDevice]:
        device = self._device(resource.target_name_ref)
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        require_usable(volume, before, VIRTIO, _FIELD)
        stays = before is not None and before.own.ctrlr == device.id
        number = before.own.number if before is not None and stays else self._free_number(device, taken)
        own = OnDevice(bdev=volume.bdev, volume_uuid=volume.identity, ctrlr=device.id, number=number)
        return Settled(own, (device.name, *stands_on(volume)))

    def _device(self, reference: str) -> AnyRecord:
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

    def _free_number(self, device: AnyRecord, taken: Collection[Any]) -> int:
        """The first number that no LUN has: chosen here, since the target knows only of those that it has now."""
        most = getattr(device.desired, "max_luns", 0) or MOST_LUNS
        for number in range(most):
            if number not in taken and not any(True for _ in self.graph.holders(_number_key(device.id, number))):
                return number
        text = f"{device.name} has {most} LUNs, as many as it may have"
        raise errors.ResourceExhausted(text, field="target_name_ref", resource=device.name)

    def reserves(self, record: Record[VirtioScsiLun, OnDevice]) -> Iterable[Reservation]:
        ctrlr, number = record.own.ctrlr, record.own.number
        yield Reservation(_number_key(ctrlr, number), f"SCSI target {number} of {ctrlr}", conflict=Taken)
        yield shared_claim_reservation(record.own.bdev, "vhost", _FIELD)


def _number_key(ctrlr: str, number: int) -> str:
    return f"scsi:{ctrlr} {number}"
