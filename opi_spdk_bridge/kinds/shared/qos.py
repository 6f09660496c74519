"""Limits on a volume: the contract's units, the target's, and its trap.

The target answers EAGAIN for good when limits are changed on a bdev that nothing has open. That is harmless: there is
no I/O to limit. The limits are then applied by what opens the volume next, or by the reconciler.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Phase, Postponed, Record, Reservation, Volume
from opi_spdk_bridge.kinds.shared.underlying import BDEV, handle, present, same, volume_of
from opi_spdk_bridge.pb.storage.opicommon_pb2 import QosLimit
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View

OWED = "owed"  # in Record.private: volumes whose limits are still to be taken off
LIMITS = "qos"  # in Record.private: the limits as the target names them, of whatever holds a volume's QoS

_TARGET_NAMES = {  # the contract's field: the target's parameter, and how many of the target's units one is
    "rw_iops_kiops": ("rw_ios_per_sec", 1000),
    "rw_bandwidth_mbs": ("rw_mbytes_per_sec", 1),
    "rd_bandwidth_mbs": ("r_mbytes_per_sec", 1),
    "wr_bandwidth_mbs": ("w_mbytes_per_sec", 1),
}
NO_LIMITS = {parameter: 0 for parameter, _ in _TARGET_NAMES.values()}
_TRIES = 5
_FIRST_PAUSE_S = 0.02
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


def limits_differ(seen: Bdev, limits: Mapping[str, int]) -> bool:
    """Whether a bdev's limits are others."""
    return any(seen.assigned_rate_limits.get(name, 0) != value for name, value in limits.items())


def set_limits(target: Target, graph: Graph, volume: Volume, limits: Mapping[str, int]) -> Step:
    """The step that sets limits; raises Postponed while nothing has the bdev open and the target refuses for it."""
    bdev = volume.bdev

    async def apply() -> Any:
        pause_s = _FIRST_PAUSE_S
        for _ in range(_TRIES):
            try:
                return await target.client.call(methods.bdev_set_qos_limit(handle(volume), limits))
            except SpdkError as error:
                if not error.busy:
                    raise
            if not await is_open(target.view(), graph, bdev):
                raise Postponed(f"the limits of bdev {bdev} wait until something opens it")
            await asyncio.sleep(pause_s)
            pause_s *= 2
        text = f"the target is still changing the limits of bdev {bdev}: try again"
        raise errors.Aborted(text, resource=bdev)

    return Step(f"bdev {bdev} has other limits", apply)


def set_when_possible(target: Target, graph: Graph, volume: Volume, limits: Mapping[str, int]) -> Step:
    """As `set_limits`, for a step list that goes on: what has to wait is left to what opens the bdev next."""
    now = set_limits(target, graph, volume, limits)
    assert not isinstance(now.do, Call)
    attempt = now.do

    async def apply() -> Any:
        with contextlib.suppress(Postponed):
            await attempt()

    return Step(now.says, apply)


def lift(target: Target, graph: Graph, record: Record, volumes: Iterable[Volume]) -> list[Step]:
    """Takes the limits off volumes that the record has limited and does not any more, and off those it still owes that.

    What has to wait until something opens the bdev stays in the record as owed.
    """
    own = limited(record)
    due = [volume for volume in _in_order([*volumes, *owed(record)]) if volume not in own]

    async def apply() -> list[dict[str, str]]:
        return [_owing(volume) for volume in due if not await _lifted(target, graph, record, volume)]

    return [Step(f"{_names(due)} still limited", apply, learn=lambda left: {OWED: left})] if due else []


def lift_all(target: Target, graph: Graph, record: Record, volumes: Iterable[Volume]) -> list[Step]:
    """As `lift`, for a record that goes: raises Postponed while something is left to be done."""
    due = _in_order([*volumes, *owed(record)])

    async def apply() -> None:
        left = [volume for volume in due if not await _lifted(target, graph, record, volume)]
        if left:
            raise Postponed(f"the limits of {_names(left)} wait until something opens it")

    return [Step(f"{_names(due)} still limited", apply)] if due else []


async def _lifted(target: Target, graph: Graph, record: Record, volume: Volume) -> bool:
    if superseded(graph, record, volume):
        return True
    step = set_limits(target, graph, volume, NO_LIMITS)
    assert not isinstance(step.do, Call)
    try:
        await step.do()
    except Postponed:
        return False
    except SpdkError as error:
        if not error.gone:
            raise
    return True


def limited(record: Record) -> list[Volume]:
    """The volume whose limits the record holds, if it holds any."""
    return [volume_of(record)] if record.private.get(LIMITS) else []


def owed(record: Record) -> list[Volume]:
    """The volumes whose limits the record has still to take off."""
    return [Volume(item[BDEV], item["uuid"], by_name=not item["uuid"]) for item in record.private.get(OWED, ())]


def _owing(volume: Volume) -> dict[str, str]:
    return {BDEV: volume.bdev, "uuid": volume.identity}


def _in_order(volumes: Iterable[Volume]) -> list[Volume]:
    return sorted(set(volumes), key=lambda volume: (volume.bdev, volume.identity))


def _names(volumes: Iterable[Volume]) -> str:
    return ", ".join(volume.bdev for volume in volumes)


def left_behind(record: Record) -> list[Volume]:
    """After an update that was broken off: the volumes that only the other state has limited."""
    return [*limited(record.previous), *owed(record.previous)] if record.previous is not None else []


async def payable(view: View, graph: Graph, record: Record) -> bool:
    """Whether limits that the record owes to take off can be taken off by now."""
    for volume in owed(record):
        if await present(volume, view) is None or await is_open(view, graph, volume.bdev):
            return True
    return False


def owed_reservations(record: Record) -> list[Reservation]:
    """Where a record has set limits or owes to lift them, for whatever opens the bdevs; anybody else may have them."""
    return [Reservation(f"owed:{volume.bdev}", f"the limits of {volume.bdev}", "owed") for volume in _concerned(record)]


def _concerned(record: Record) -> list[Volume]:
    return [*limited(record), *owed(record)]


async def unlike(view: View, graph: Graph, volume: Volume, limits: Mapping[str, int]) -> bool:
    """Whether a volume's limits are others and can be set: nothing has set them yet, or something has it open."""
    found = await present(volume, view)
    if found is None or not limits_differ(found, limits):
        return False
    return not any(found.assigned_rate_limits.values()) or await is_open(view, graph, volume.bdev)


def _wanted(graph: Graph, volume: Volume) -> Mapping[str, int] | None:
    """The limits that a volume should have by what its holders say now; None where nobody has a say."""
    holders = [holder for holder in graph.holders(f"qos:{volume.bdev}") if same(volume_of(holder), volume)]
    for holder in holders:
        if holder.phase not in (Phase.DELETING, Phase.DELETED):
            return holder.private.get(LIMITS)
    owing = (each for holder in graph.holders(f"owed:{volume.bdev}") for each in _concerned(holder))
    return NO_LIMITS if holders or any(same(each, volume) for each in owing) else None


def on_open(target: Target, graph: Graph, volume: Volume) -> list[Step]:
    """For a step list that opens a volume: the limits that had to wait for that. They never fail the opening."""
    if _wanted(graph, volume) is None:
        return []

    async def apply() -> None:
        """Leaves only when the bdev is open, with what is wanted then: a holder may have come or gone meanwhile."""
        limits = _wanted(graph, volume)
        if limits is not None:
            await target.client.call(methods.bdev_set_qos_limit(handle(volume), limits))

    return [Step(f"bdev {volume.bdev} has other limits", apply, already=lambda _error: True)]


async def is_open(view: View, graph: Graph, bdev: str) -> bool:
    """Whether anything has I/O channels to the bdev: a namespace, a vhost device with a guest connected, or a crypto
    vbdev that is open itself."""
    holders = list(graph.holders(f"claim:{bdev}"))
    above = [holder.id for holder in holders if any(volume is holder for volume in graph.holders(f"bdev:{holder.id}"))]
    if above:
        return any([await is_open(view, graph, volume) for volume in above])
    found = await view.bdev(bdev)
    if found is not None and found.claimed:
        return True
    devices = {holder.private.get("ctrlr", holder.id) for holder in holders}
    seen = await asyncio.gather(*(view.vhost(device) for device in devices))
    return any(device is not None and device.sessions for device in seen)


def superseded(graph: Graph, record: Record, volume: Volume) -> bool:
    """Whether another record than this one has the say over the volume's limits by now."""
    return any(
        holder.name != record.name and holder.phase is not Phase.DELETED and same(volume_of(holder), volume)
        for holder in graph.holders(f"qos:{volume.bdev}")
    )
