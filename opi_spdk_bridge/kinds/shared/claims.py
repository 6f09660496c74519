"""Who may stand on a bdev: namespaces and crypto vbdevs take it for themselves alone, vhost devices share it."""

from __future__ import annotations

from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Reservation
from opi_spdk_bridge.kinds.shared.base import SpdkKind
from opi_spdk_bridge.kinds.shared.underlying import BDEV, another, volume_of


def claim_reservation(bdev: str, holder: str, field: str) -> Reservation:
    """The use of a bdev by its one holder (the target's claim "exclusive_write")."""
    return Reservation(f"claim:{bdev}", f"the volume (bdev {bdev})", holder, errors.FailedPrecondition, field)


def shared_claim_reservation(bdev: str, users: str, field: str) -> Reservation:
    """The use of a bdev by one of several holders of the same sort (`users`), to the exclusion of all others."""
    return Reservation(f"claim:{bdev}", f"the volume (bdev {bdev})", users, errors.FailedPrecondition, field)


async def why_absent(kind: SpdkKind[Any, Any], record: Record, field: str) -> errors.BridgeError | None:
    """Why the record's volume is not on the target: it is gone, or another has its name; None if it is there."""
    volume = volume_of(record)
    found = await kind.target.view().bdev(volume.bdev)
    if found is not None:
        return another(volume, found, field) if volume.identity not in ("", found.uuid) else None
    if any(True for _ in kind.graph.holders(f"bdev:{volume.bdev}")):
        text = f"bdev {volume.bdev} is not on the target just now: the bridge will restore it, try again then"
        return errors.Aborted(text, field=field, resource=volume.bdev)
    return errors.FailedPrecondition(f"bdev {volume.bdev} is not on the target", field=field, resource=volume.bdev)


async def why_not_claimable(kind: SpdkKind[Any, Any], record: Record, field: str) -> errors.BridgeError | None:
    """Why the target would not take the volume: as `why_absent`, or something else has it; None if neither."""
    absent = await why_absent(kind, record, field)
    if absent is not None:
        return absent
    bdev = record.private[BDEV]
    found = await kind.target.view().bdev(bdev)
    if found is not None and found.claimed:
        others = [holder.name for holder in kind.graph.holders(f"claim:{bdev}") if holder.name != record.name]
        by = ", ".join(others) or "something on the target that this bridge did not make"
        text = f"bdev {bdev} is in use ({found.claim_type or 'claimed'}) by {by}"
        return errors.FailedPrecondition(text, field=field, resource=bdev)
    return None
