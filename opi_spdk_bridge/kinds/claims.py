"""Who may stand on a bdev: namespaces and crypto vbdevs take it for themselves alone, vhost devices share it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import HIDDEN, Graph, Phase, Record, Reservation
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.spdk.model import Bdev, VhostController


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
    owners = [owner for owner in kind.graph.holders(f"bdev:{bdev}") if owner.phase is not Phase.DELETED]
    if found is None and owners:
        text = f"bdev {bdev} is not on the target just now: the bridge will restore it, try again then"
        return errors.Aborted(text, field=field, resource=bdev)
    if found is None:
        return errors.FailedPrecondition(f"bdev {bdev} is not on the target", field=field, resource=bdev)
    if found.claimed:
        return _claimed(kind.graph, found, record.name, field)
    return None


def why_not_removable(
    graph: Graph, bdevs: Iterable[Bdev], devices: Iterable[VhostController]
) -> errors.BridgeError | None:
    """Why the bdevs must stay: something has one of them open and would lose it; None if nothing has.

    `devices` are the target's vhost controllers, which open a bdev without claiming it.
    """
    for bdev in bdevs:
        if bdev.claimed:
            return _claimed(graph, bdev, "", "")
        users = [device.ctrlr for device in devices if bdev.name in device.bdevs]
        if users:
            text = f"bdev {bdev.name} is in use by the vhost device {', '.join(users[:5])}"
            return errors.FailedPrecondition(text, resource=bdev.name)
    return None


def _claimed(graph: Graph, bdev: Bdev, claimant: str, field: str) -> errors.BridgeError:
    """The error for what a claimed bdev is refused to, in the name of `claimant`."""
    others = [
        holder
        for holder in graph.holders(f"claim:{bdev.name}")
        if holder.name != claimant and (holder.phase is not Phase.DELETED or _may_come_back(graph, holder))
    ]
    names = [holder.name.partition(HIDDEN)[0] for holder in others]
    by = ", ".join(names) or "something on the target that this bridge did not make"
    text = f"bdev {bdev.name} is in use ({bdev.claim_type or 'claimed'}) by {by}"
    if others and all(holder.phase in (Phase.DELETING, Phase.DELETED) for holder in others):
        return errors.Aborted(f"{text}, which is being deleted: try again", field=field, resource=bdev.name)
    return errors.FailedPrecondition(text, field=field, resource=bdev.name)


def _may_come_back(graph: Graph, gone: Record) -> bool:
    """Whether a resource that was deleted may still have a bdev of its own on the target, which claims another."""
    return any(holder is gone for holder in graph.holders(f"bdev:{gone.object_name}"))
