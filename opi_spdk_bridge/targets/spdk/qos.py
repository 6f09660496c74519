"""Limits on a volume, and the target's trap.

The target answers EAGAIN for good when limits are changed on a bdev that nothing has open. That is harmless: there is
no I/O to limit. The limits are then applied by what opens the volume next, or by the reconciler.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Volume
from opi_spdk_bridge.core.record import AnyRecord
from opi_spdk_bridge.core.side import Postponed
from opi_spdk_bridge.kinds.shared.qos import NO_LIMITS, Limited, Owed, concerned, limited, owed, superseded, wanted
from opi_spdk_bridge.kinds.shared.vhost import OnDevice
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.underlying import handle, present

L = TypeVar("L", bound=Limited)

_TRIES = 5
_FIRST_PAUSE_S = 0.02


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


def lift(target: Target, graph: Graph, record: AnyRecord, volumes: Iterable[Volume]) -> list[Step]:
    """Takes the limits off volumes that the record has limited and does not any more, and off those it still owes that.

    What has to wait until something opens the bdev stays in the record as owed.
    """
    own = limited(record)
    due = [volume for volume in _in_order([*volumes, *owed(record)]) if volume not in own]

    async def apply() -> list[Volume]:
        return [volume for volume in due if not await _lifted(target, graph, record, volume)]

    return [Step(f"{_names(due)} still limited", apply, learn=_owes)] if due else []


def _owes(left: list[Volume]) -> Callable[[L], L]:
    return lambda own: replace(own, owed=tuple(Owed(volume.bdev, volume.identity) for volume in left))


def lift_all(target: Target, graph: Graph, record: AnyRecord, volumes: Iterable[Volume]) -> list[Step]:
    """As `lift`, for a record that goes: raises Postponed while something is left to be done."""
    due = _in_order([*volumes, *owed(record)])

    async def apply() -> None:
        left = [volume for volume in due if not await _lifted(target, graph, record, volume)]
        if left:
            raise Postponed(f"the limits of {_names(left)} wait until something opens it")

    return [Step(f"{_names(due)} still limited", apply)] if due else []


async def _lifted(target: Target, graph: Graph, record: AnyRecord, volume: Volume) -> bool:
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


def _in_order(volumes: Iterable[Volume]) -> list[Volume]:
    return sorted(set(volumes), key=lambda volume: (volume.bdev, volume.identity))


def _names(volumes: Iterable[Volume]) -> str:
    return ", ".join(volume.bdev for volume in volumes)


def left_behind(record: AnyRecord) -> list[Volume]:
    """After an update that was broken off: the volumes that only the other state has limited."""
    return concerned(record.previous) if record.previous is not None else []


async def payable(view: View, graph: Graph, record: AnyRecord) -> bool:
    """Whether limits that the record owes to take off can be taken off by now."""
    for volume in owed(record):
        if await present(volume, view) is None or await is_open(view, graph, volume.bdev):
            return True
    return False


async def unlike(view: View, graph: Graph, volume: Volume, limits: Mapping[str, int]) -> bool:
    """Whether a volume's limits are others and can be set: nothing has set them yet, or something has it open."""
    found = await present(volume, view)
    if found is None or not limits_differ(found, limits):
        return False
    return not any(found.assigned_rate_limits.values()) or await is_open(view, graph, volume.bdev)


def on_open(target: Target, graph: Graph, volume: Volume) -> list[Step]:
    """For a step list that opens a volume: the limits that had to wait for that. They never fail the opening."""
    if wanted(graph, volume) is None:
        return []

    async def apply() -> None:
        """Leaves only when the bdev is open, with what is wanted then: a holder may have come or gone meanwhile."""
        limits = wanted(graph, volume)
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
    devices = {holder.own.ctrlr if isinstance(holder.own, OnDevice) else holder.id for holder in holders}
    seen = await asyncio.gather(*(view.vhost(device) for device in devices))
    return any(device is not None and device.sessions for device in seen)
