"""The volume that a record stands on, as the target has it.

Where the target takes a bdev's alias it is told the UUID, so that no look before it can be too early.
"""

from __future__ import annotations

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Volume
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared.underlying import OnVolume, volume_of
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step
from opi_spdk_bridge.spdk.view import View


def handle(volume: Volume) -> str:
    """What the target is told: an alias that only this volume has, or the bdev's name."""
    return volume.identity or volume.bdev


async def present(volume: Volume, view: View) -> Bdev | None:
    """The volume on the target; None where it is gone, or another has its name."""
    found = await view.bdev(volume.bdev)
    return found if found is not None and volume.identity in ("", found.uuid) else None


async def has_identity(record: Record[Message, OnVolume], view: View) -> bool:
    """Whether the bdev with the name of the record's volume, which something has open, is that volume."""
    volume = volume_of(record)
    return not volume.identity or await view.has_uuid(volume.bdev, volume.identity)


def required(record: Record[Message, OnVolume], field: str) -> Step:
    """For a step list that must not go on where the volume is absent."""
    volume, look = volume_of(record), methods.bdev_get_bdev(record.own.bdev)

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
