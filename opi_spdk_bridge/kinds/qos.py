"""Limits on a volume: the contract's units, the target's, and its trap.

The target answers EAGAIN for good when limits are changed on a bdev that nothing has open. That is harmless: there is
no I/O to limit. The limits are then applied by what opens the volume next, or by the reconciler.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Phase, Postponed, Record, Reservation
from opi_spdk_bridge.pb.storage.opicommon_pb2 import QosLimit
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Local, Step
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View

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


def set_limits(target: Target, graph: Graph, bdev: str, limits: Mapping[str, int]) -> Step:
    """The step that sets limits; raises Postponed while nothing has the bdev open and the target refuses for it."""

    async def apply() -> Any:
        pause_s = _FIRST_PAUSE_S
        for _ in range(_TRIES):
            try:
                return await target.client.call(methods.bdev_set_qos_limit(bdev, limits))
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


def set_when_possible(target: Target, graph: Graph, bdev: str, limits: Mapping[str, int]) -> Step:
    """As `set_limits`, for a step list that goes on: what has to wait is left to what opens the bdev next."""
    now = set_limits(target, graph, bdev, limits)
    assert not isinstance(now.do, Call)
    attempt = now.do

    async def apply() -> Any:
        with contextlib.suppress(Postponed):
            await attempt()

    return Step(now.says, apply)


def refusing(attempt: Any) -> Local:
    """As `attempt`; what would have to wait is refused: for changes after which nothing would remember it."""

    async def apply() -> Any:
        try:
            return await attempt()
        except Postponed as wait:
            raise errors.FailedPrecondition(f"{wait}: until then delete and create it, or open the volume") from None

    return apply


async def unlike(view: View, graph: Graph, bdev: str, limits: Mapping[str, int]) -> bool:
    """Whether a bdev's limits are others and can be set: nothing has set them yet, or something has it open."""
    found = await view.bdev(bdev)
    if found is None or not limits_differ(found, limits):
        return False
    return not any(found.assigned_rate_limits.values()) or await is_open(view, graph, bdev)


def wanted_limits(record: Record) -> Mapping[str, int] | None:
    """The limits that a record holds; all 0 for one that is deleted and could not be lifted yet; None without any."""
    return NO_LIMITS if record.phase is Phase.DELETED else record.private.get(LIMITS)


def on_open(target: Target, graph: Graph, bdev: str) -> list[Step]:
    """For a step list that opens a bdev: the limits that had to wait for that. They never fail the opening."""
    holders = sorted(graph.holders(f"qos:{bdev}"), key=lambda record: record.phase is Phase.DELETED)
    limits = [wanted for record in holders if (wanted := wanted_limits(record)) is not None]
    if not limits:
        return []
    call = methods.bdev_set_qos_limit(bdev, limits[0])
    # Local, so that it leaves only when the bdev is open: within one write it would come before that.
    return [Step(f"bdev {bdev} has other limits", lambda: target.client.call(call), already=lambda _error: True)]


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


def superseded(graph: Graph, record: Record, bdev: str) -> bool:
    """Whether another record than this one has the say over the bdev's limits by now."""
    return any(
        holder.name != record.name and holder.phase is not Phase.DELETED for holder in graph.holders(f"qos:{bdev}")
    )
