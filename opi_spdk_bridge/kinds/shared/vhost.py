"""What the kinds have in common that are virtio devices over vhost-user, named by their resource ID."""

from __future__ import annotations

from dataclasses import dataclass

from opi_spdk_bridge.core.kind import Reservation
from opi_spdk_bridge.kinds.shared.underlying import OnVolume


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDevice(OnVolume):
    """Of a LUN: where it is."""

    ctrlr: str = ""
    """The vhost controller."""
    number: int = 0
    """The SCSI target number there."""


def vhost_reservation(name: str) -> Reservation:
    """The name of a vhost controller, block or SCSI, which is also its socket's."""
    return Reservation(f"vhost:{name}", f"the vhost device name {name}")
