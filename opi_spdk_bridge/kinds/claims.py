"""Who may stand on a bdev: namespaces and crypto vbdevs take it for themselves alone, vhost devices share it."""

from __future__ import annotations

from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Reservation
from opi_spdk_bridge.kinds.base import SpdkKind


def claim_reservation(bdev: str, holder: str, field: str) -> Reservation:
    """The use of a bdev by its one holder (the target's claim "exclusive_write")."""
    return Reservation(f"claim:{bdev}", f"the volume (bdev {bdev})", holder, errors.FailedPrecondition, field)


def shared_claim_reservation(bdev: str, users: str, field: str) -> Reservation:
    """The use of a bdev by one of several holders of the same sort (`users`), to the exclusion of all others."""
    return Reservation(f"claim:{bdev}", f"the volume (bdev {bdev})", users, errors.FailedPrecondition, field)


async def why_not_claimable(
    kind: SpdkKind[Any, Any], record: Record, bdev: str, field: str
) -> errors.BridgeError | None:
    """Why the target would not take the bdev: it is gone, or something else on the target has it; None if neither."""
    found = await kind.target.view().bdev(bdev)
    if found is None and any(True for _ in kind.graph.holders(f"bdev:{bdev}")):
        text = f"bdev {bdev} is not on the target just now: the bridge will restore it, try again then"
        return errors.Aborted(text, field=field, resource=bdev)
    if found is None:
        return errors.FailedPrecondition(f"bdev {bdev} is not on the target", field=field, resource=bdev)
    if found.claimed:
        others = [holder.name for holder in kind.graph.holders(f"claim:{bdev}") if holder.name != record.name]
        by = ", ".join(others) or "something on the target that this bridge did not make"
        text = f"bdev {bdev} is in use ({found.claim_type or 'claimed'}) by {by}"
        return errors.FailedPrecondition(text, field=field, resource=bdev)
    return None
