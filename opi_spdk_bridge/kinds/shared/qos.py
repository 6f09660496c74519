"""Limits on a volume: the contract's units and the target's, and who has the say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Reservation, Volume
from opi_spdk_bridge.core.record import AnyRecord, Phase, Record
from opi_spdk_bridge.kinds.shared.underlying import OnVolume, same, volume_of
from opi_spdk_bridge.pb.storage.opicommon_pb2 import QosLimit


@dataclass(frozen=True, slots=True)
class Owed:
    """A volume whose limits are still to be taken off: the name of its bdev and, unless the name counts, its UUID."""

    bdev: str
    uuid: str = ""

    @property
    def volume(self) -> Volume:
        """The volume as others have it."""
        return Volume(self.bdev, self.uuid, by_name=not self.uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited(OnVolume):
    """Of a resource that holds, or held, the limits of the volume that it stands on."""

    qos: Mapping[str, int] | None = None
    """The limits as the target names them; all zero: to be taken off. None: they are no business of the resource's."""
    owed: tuple[Owed, ...] = ()


_TARGET_NAMES = {  # the contract's field: the target's parameter, and how many of the target's units one is
    "rw_iops_kiops": ("rw_ios_per_sec", 1000),
    "rw_bandwidth_mbs": ("rw_mbytes_per_sec", 1),
    "rd_bandwidth_mbs": ("r_mbytes_per_sec", 1),
    "wr_bandwidth_mbs": ("w_mbytes_per_sec", 1),
}
NO_LIMITS = {parameter: 0 for parameter, _ in _TARGET_NAMES.values()}
_LARGEST = 2**63 // 1_048_576


def check_limits(limit: QosLimit, path: str) -> None:
    """Limits that the target knows, at least one, none negative; raises InvalidArgument naming the field."""
    for descriptor, value in limit.ListFields():
        field = f"{path}.{descriptor.name}"
        if descriptor.name not in _TARGET_NAMES:
            text = f"{field}: the target has no limit for reads or writes alone in IOPS; use rw_iops_kiops"
            raise errors.InvalidArgument(text, field=field)
        if not 0 < value <= _LARGEST:
            raise errors.InvalidArgument(f"{field} is {value}; it must be 1 to {_LARGEST}", field=field)
    if not limit.ListFields():
        text = f"{path} sets no limit; set one of {', '.join(_TARGET_NAMES)}"
        raise errors.InvalidArgument(text, field=path)


def target_limits(limit: QosLimit) -> dict[str, int]:
    """All of the target's parameters: kIOPS as IOPS, bandwidths (which the target counts in MiB/s) as they are."""
    given = {_TARGET_NAMES[field.name][0]: value * _TARGET_NAMES[field.name][1] for field, value in limit.ListFields()}
    return {**NO_LIMITS, **given}


def qos_reservation(bdev: str, holder: str, field: str) -> Reservation:
    """The limits of a volume, for their one holder."""
    return Reservation(f"qos:{bdev}", f"the QoS of bdev {bdev}", holder, errors.FailedPrecondition, field)


def limited(record: AnyRecord) -> list[Volume]:
    """The volume whose limits the record holds, if it holds any."""
    return [volume_of(record)] if isinstance(record.own, Limited) and record.own.qos else []


def owed(record: AnyRecord) -> list[Volume]:
    """The volumes whose limits the record has still to take off."""
    return [each.volume for each in record.own.owed] if isinstance(record.own, Limited) else []


def concerned(record: AnyRecord) -> list[Volume]:
    """All volumes whose limits the record has set, or has still to take off."""
    return [*limited(record), *owed(record)]


def owed_reservations(record: Record[Message, Limited]) -> Iterable[Reservation]:
    """Where a record has set limits or owes to lift them, for whatever opens the bdevs; anybody else may have them."""
    return [Reservation(f"owed:{volume.bdev}", f"the limits of {volume.bdev}", "owed") for volume in concerned(record)]


def wanted(graph: Graph, volume: Volume) -> Mapping[str, int] | None:
    """The limits that a volume should have by what its holders say now; None where nobody has a say."""
    holders = [holder for holder in graph.holders(f"qos:{volume.bdev}") if same(volume_of(holder), volume)]
    for holder in holders:
        if holder.phase not in (Phase.DELETING, Phase.DELETED):
            limits: Mapping[str, int] | None = holder.own.qos
            return limits
    owing = (each for holder in graph.holders(f"owed:{volume.bdev}") for each in concerned(holder))
    return NO_LIMITS if holders or any(same(each, volume) for each in owing) else None


def superseded(graph: Graph, record: AnyRecord, volume: Volume) -> bool:
    """Whether another record than this one has the say over the volume's limits by now."""
    return any(
        holder.name != record.name and holder.phase is not Phase.DELETED and same(volume_of(holder), volume)
        for holder in graph.holders(f"qos:{volume.bdev}")
    )
