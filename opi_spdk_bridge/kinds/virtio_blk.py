"""VirtioBlk: a virtio-blk device on a PCI function, over a volume."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation, Settled
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared import pci, qos
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.shared.claims import shared_claim_reservation
from opi_spdk_bridge.kinds.shared.pci import check_function, function_reservation
from opi_spdk_bridge.kinds.shared.qos import Limited
from opi_spdk_bridge.kinds.shared.shape import VIRTIO, require_usable
from opi_spdk_bridge.kinds.shared.underlying import stands_on
from opi_spdk_bridge.kinds.shared.vhost import vhost_reservation
from opi_spdk_bridge.pb.storage.frontend_virtio_blk_pb2 import VirtioBlk

_FIELD = "volume_name_ref"


class VirtioBlkKind(ContractKind[VirtioBlk, Limited]):
    """`max_limit` is the QoS of the volume; `max_io_qps` is kept and returned only: the guest's driver sets it."""

    message = VirtioBlk
    title = "Virtio-blk devices"
    front_end = True
    own = Limited
    legacy_collection: ClassVar[str | None] = "volumes"

    def line(self, resource: VirtioBlk) -> Line:
        return Line((pci.in_words(resource.pcie_id),))

    def check(self, resource: VirtioBlk) -> None:
        check_function(resource.pcie_id, "pcie_id")
        self.functions.check(resource.pcie_id, "pcie_id")
        if resource.HasField("min_limit"):
            raise errors.InvalidArgument("min_limit: the target guarantees nothing, it only limits", field="min_limit")
        if resource.HasField("max_limit"):
            qos.check_limits(resource.max_limit, "max_limit")

    async def settle(
        self, name: str, resource: VirtioBlk, before: Record[VirtioBlk, Limited] | None, taken: Collection[Any] = ()
    ) -> Settled[Limited]:
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        require_usable(volume, before, VIRTIO, _FIELD)
        limits = qos.target_limits(resource.max_limit) if resource.HasField("max_limit") else None
        if limits is None and before is not None and before.own.qos is not None:
            limits = qos.NO_LIMITS  # taken off now or, where that must wait, when the volume is open
        owed = before.own.owed if before is not None else ()
        own = Limited(bdev=volume.bdev, volume_uuid=volume.identity, qos=limits, owed=owed)
        return Settled(own, stands_on(volume))

    def reserves(self, record: Record[VirtioBlk, Limited]) -> Iterable[Reservation]:
        bdev = record.own.bdev
        yield vhost_reservation(record.id)
        yield function_reservation(record.desired.pcie_id, "pcie_id")
        yield shared_claim_reservation(bdev, "vhost", _FIELD)
        if record.desired.HasField("max_limit"):
            yield qos.qos_reservation(bdev, record.name, "max_limit")
        yield from qos.owed_reservations(record)
