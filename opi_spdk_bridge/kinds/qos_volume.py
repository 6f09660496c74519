"""QosVolume: limits on the I/O of another volume."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation, Settled, Volume
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.core.volumes import numbered_reservation
from opi_spdk_bridge.kinds.shared import qos
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.shared.qos import Limited
from opi_spdk_bridge.kinds.shared.underlying import stands_on, volume_of
from opi_spdk_bridge.pb.storage.middleend_qos_volume_pb2 import QosVolume

_FIELD = "volume_name_ref"


class QosVolumeKind(ContractKind[QosVolume, Limited]):
    """It stands for the volume under it, whose limits it holds."""

    message = QosVolume
    title = "QoS volumes"
    own = Limited
    legacy_collection: ClassVar[str | None] = "volumes"

    def line(self, resource: QosVolume) -> Line:
        return Line((f"on {resource.volume_name_ref}",))

    def check(self, resource: QosVolume) -> None:
        if resource.limits.HasField("min") and resource.limits.min.ListFields():
            text = "limits.min: the target guarantees nothing, it only limits; use limits.max"
            raise errors.InvalidArgument(text, field="limits.min")
        qos.check_limits(resource.limits.max, "limits.max")

    async def settle(
        self, name: str, resource: QosVolume, before: Record[QosVolume, Limited] | None, taken: Collection[Any] = ()
    ) -> Settled[Limited]:
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        own = Limited(
            bdev=volume.bdev,
            volume_uuid=volume.identity,
            qos=qos.target_limits(resource.limits.max),
            owed=before.own.owed if before is not None else (),
        )
        return Settled(own, stands_on(volume))

    def reserves(self, record: Record[QosVolume, Limited]) -> Iterable[Reservation]:
        identity = Reservation(f"volume-id:{record.id}", f"the volume ID {record.id}")
        own = qos.qos_reservation(record.own.bdev, record.name, _FIELD)
        return (own, identity, *numbered_reservation(record.id), *qos.owed_reservations(record))

    def volume(self, record: Record[QosVolume, Limited]) -> Volume | None:
        return volume_of(record)
