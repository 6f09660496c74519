"""The volume that a record stands on: a bdev by its name and, unless the name is what counts, by its identity.

An array can give a namespace's number to another volume, and anybody can make another bdev of a name. So what a
reference was resolved to is kept with its UUID: a bdev of that name with another UUID is not the volume, which is then
absent. Where the target takes a bdev's alias it is told the UUID, so that no look before it can be too early.
"""

from __future__ import annotations

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Facts, Record, Volume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step
from opi_spdk_bridge.spdk.view import View

BDEV = "bdev"  # in Record.private: the name of the bdev,
_UUID = "uuid"  # and its UUID, unless the name is what counts


def kept(volume: Volume) -> Facts:
    """What a record keeps of the volume that it stands on."""
    return {BDEV: volume.bdev, **({_UUID: volume.identity} if volume.identity else {})}


def volume_of(record: Record) -> Volume:
    """The volume that the record stands on, as it was kept."""
    uuid = record.private.get(_UUID, "")
    return Volume(record.private[BDEV], uuid, by_name=not uuid)


def handle(volume: Volume) -> str:
    """What the target is told: an alias that only this volume has, or the bdev's name."""
    return volume.identity or volume.bdev


def same(one: Volume, other: Volume) -> bool:
    """Whether both are one bdev, as far as their identities tell."""
    return one.bdev == other.bdev and (one.identity == other.identity or "" in (one.identity, other.identity))


async def present(volume: Volume, view: View) -> Bdev | None:
    """The volume on the target; None where it is gone, or another has its name."""
    found = await view.bdev(volume.bdev)
    return found if found is not None and volume.identity in ("", found.uuid) else None


async def has_identity(record: Record, view: View) -> bool:
    """Whether the bdev with the name of the record's volume, which something has open, is that volume."""
    volume = volume_of(record)
    return not volume.identity or await view.has_uuid(volume.bdev, volume.identity)


def required(record: Record, field: str) -> Step:
    """For a step list that must not go on where the volume is absent."""
    volume, look = volume_of(record), methods.bdev_get_bdev(record.private[BDEV])

    def read(result: object) -> Bdev:
        found = look.read(result)
        if volume.identity not in ("", found.uuid):
            raise another(volume, found, field)
        return found

    return Step(f"bdev {volume.bdev} is missing", Call(look.method, look.params, read))


def another(volume: Volume, found: Bdev, field: str) -> errors.FailedPrecondition:
    """The error for a bdev that has the volume's name and is another."""
    text = (
        f"bdev {volume.bdev} is another volume now (UUID {found.uuid}):"
        f" what {field} refers to has UUID {volume.identity} and is not on the target"
    )
    return errors.FailedPrecondition(text, field=field, resource=volume.bdev)
