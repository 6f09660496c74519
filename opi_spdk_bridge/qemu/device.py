"""What is plugged into a virtual machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Device:
    """A device of QEMU's: its ID there, its driver and the driver's properties (of `device_add`).

    chardev    the Unix socket behind the device's character device, which has the device's ID; "" for a device without
    since      the release of QEMU, (major, minor), that brought the driver
    """

    id: str
    driver: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    chardev: str = ""
    since: tuple[int, int] = (0, 0)
