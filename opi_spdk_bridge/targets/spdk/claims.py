"""Why a volume cannot be had, or cannot go: what else on the target has it."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph
from opi_spdk_bridge.core.record import HIDDEN, AnyRecord, Phase, Record
from opi_spdk_bridge.kinds.shared.underlying import OnVolume, volume_of
from opi_spdk_bridge.spdk.model import Bdev, VhostController
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.targets.spdk.underlying import another


async def why_absent(
    target: Target, graph: Graph, record: Record[Message, OnVolume], field: str
) -> errors.BridgeError | None:
    """Why the record's volume is not on the target: it is gone, or another has its name; None if it is there."""
    volume = volume_of(record)
    found = await target.view().bdev(volume.bdev)
    if found is not None:
        return another(volume, found, field) if volume.identity not in ("", found.uuid) else None
    if any(owner.phase is not Phase.DELETED for owner in graph.holders(f"bdev:{volume.bdev}")):
        text = f"bdev {volume.bdev} is not on the target just now: the bridge will restore it, try again then"
        return errors.Aborted(text, field=field, resource=volume.bdev)
    return errors.FailedPrecondition(f"bdev {volume.bdev} is not on the target", field=field, resource=volume.bdev)


async def why_not_claimable(
    target: Target, graph: Graph, record: Record[Message, OnVolume], field: str
) -> errors.BridgeError | None:
    """Why the target would not take the volume: as `why_absent`, or something else has it; None if neither."""
    absent = await why_absent(target, graph, record, field)
    if absent is not None:
        return absent
    found = await target.view().bdev(record.own.bdev)
    return _claimed(graph, found, record.name, field) if found is not None and found.claimed else None


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


def _may_come_back(graph: Graph, gone: AnyRecord) -> bool:
    """Whether a resource that was deleted may still have a bdev of its own on the target, which claims another."""
    return any(holder is gone for holder in graph.holders(f"bdev:{gone.object_name}"))
