"""Who may stand on a volume: namespaces and encrypted volumes take it for themselves alone, virtio devices share it."""

from __future__ import annotations

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation


def claim_reservation(bdev: str, holder: str, field: str) -> Reservation:
    """The use of a bdev by its one holder (the target's claim "exclusive_write")."""
    return Reservation(f"claim:{bdev}", f"the volume (bdev {bdev})", holder, errors.FailedPrecondition, field)


def shared_claim_reservation(bdev: str, users: str, field: str) -> Reservation:
    """The use of a bdev by one of several holders of the same sort (`users`), to the exclusion of all others."""
    return Reservation(f"claim:{bdev}", f"the volume (bdev {bdev})", users, errors.FailedPrecondition, field)
