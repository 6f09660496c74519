"""GetInventory: what machine this is, whatever name it is asked by."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.world import World

DMI = Path("/sys/class/dmi/id")
PCI = Path("/sys/bus/pci/devices")


@pytest.fixture
def inventory(world: World) -> dict[str, Any]:
    """The inventory."""
    return world.opi.call("GetInventory", {"name": "inventory/1/inventory/2"})


@pytest.mark.parametrize("name", ["", "x", "inventory/9/inventory/9", "anything/at/all", "é"])
def test_every_name_is_answered_the_same(world: World, inventory: dict[str, Any], name: str) -> None:
    found = world.opi.call("GetInventory", {"name": name})
    assert {**found, "memory": {}} == {**inventory, "memory": {}}


def test_processors_and_memory_are_this_machines(inventory: dict[str, Any]) -> None:
    assert inventory["processor"]["total_threads"] == os.cpu_count()
    assert 1 <= inventory["processor"]["total_cores"] <= inventory["processor"]["total_threads"]
    told = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert told is not None
    usable = int(inventory["memory"]["total_usable_bytes"])
    assert usable == int(told[1]) * 1024
    assert int(inventory["memory"]["total_physical_bytes"]) >= usable


def test_firmware_system_and_boards_are_what_the_kernel_tells(inventory: dict[str, Any]) -> None:
    for part, field, file in (
        ("bios", "vendor", "bios_vendor"), ("bios", "version", "bios_version"), ("bios", "date", "bios_date"),
        ("system", "name", "product_name"), ("system", "vendor", "sys_vendor"), ("system", "uuid", "product_uuid"),
        ("baseboard", "product", "board_name"), ("chassis", "vendor", "chassis_vendor"),
        ("chassis", "type", "chassis_type"),
    ):  # fmt: skip
        try:
            told = (DMI / file).read_text(errors="replace").strip()
        except OSError:  # absent in a container, or for root only
            told = ""
        assert inventory[part].get(field, "") == told


def test_pci_devices_are_what_the_kernel_tells(inventory: dict[str, Any]) -> None:
    devices = sorted(PCI.iterdir()) if PCI.is_dir() else []
    found = inventory.get("pci", [])
    assert [device["address"] for device in found] == [path.name for path in devices]
    for device, path in zip(found, devices, strict=True):
        for field, file in (("vendor", "vendor"), ("product", "device"), ("revision", "revision")):
            assert device[field] == (path / file).read_text().strip().removeprefix("0x")
        driver = path / "driver"
        assert device.get("driver", "") == (driver.resolve().name if driver.exists() else "")
        code = (path / "class").read_text().strip().removeprefix("0x")
        assert (device["class"], device["subclass"]) == (code[:2], code[2:4])
