"""The volume that a record stands on: a bdev by its name and, unless the name is what counts, by its identity.

An array can give a namespace's number to another volume, and anybody can make another bdev of a name. So what a
reference was resolved to is kept with its UUID: a bdev of that name with another UUID is not the volume, which is then
absent. Where a volume of the bridge's has a UUID that the target chooses, and comes back with another, what stands on
it follows (`Kind.follow`).
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from opi_spdk_bridge.core.kind import Volume
from opi_spdk_bridge.core.record import Own, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class OnVolume(Own):
    """Of a resource that stands on a volume."""

    bdev: str = ""
    """The name of the bdev."""
    volume_uuid: str = ""
    """Its UUID; "" where the name is what counts."""


def volume_of(record: Record[Message, OnVolume]) -> Volume:
    """The volume that the record stands on, as it was kept."""
    own = record.own
    return Volume(own.bdev, own.volume_uuid, by_name=not own.volume_uuid)


def same(one: Volume, other: Volume) -> bool:
    """Whether both are one bdev, as far as their identities tell."""
    return one.bdev == other.bdev and (one.identity == other.identity or "" in (one.identity, other.identity))


def stands_on(volume: Volume) -> tuple[str, ...]:
    """The name of the resource that the volume is or lies behind, if the bridge has one."""
    return (volume.resource,) if volume.resource else ()
