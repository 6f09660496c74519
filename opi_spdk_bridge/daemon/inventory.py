"""What machine this is: firmware, board, chassis, processors, memory and PCI devices, from /sys, /proc and psutil.

Fields that only root may read are empty without it, and so are those that the machine does not tell. PCI devices are
given by the numbers of the PCI ID registry (`8086`), as the kernel has them.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from opi_spdk_bridge.pb.inventory.inventory_pb2 import (
    BaseboardInfo,
    BIOSInfo,
    ChassisInfo,
    CPUInfo,
    Inventory,
    MemoryInfo,
    PCIeDeviceInfo,
    SystemInfo,
)

# System Enclosure or Chassis Types: DMTF SMBIOS specification (DSP0134), section 7.4.1.
_CHASSIS_TYPES = (
    "Other", "Unknown", "Desktop", "Low profile desktop", "Pizza box", "Mini tower", "Tower", "Portable", "Laptop",
    "Notebook", "Hand held", "Docking station", "All in one", "Sub notebook", "Space-saving", "Lunch box",
    "Main server chassis", "Expansion chassis", "SubChassis", "Bus expansion chassis", "Peripheral chassis",
    "RAID chassis", "Rack mount chassis", "Sealed-case PC", "Multi-system chassis", "Compact PCI", "Advanced TCA",
    "Blade", "Blade enclosure", "Tablet", "Convertible", "Detachable", "IoT gateway", "Embedded PC", "Mini PC",
    "Stick PC",
)  # fmt: skip


def boot_id(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """What names this run of the machine: another after each restart."""
    try:
        return file.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def read(sys: Path = Path("/sys")) -> Inventory:
    """The inventory; `sys` is where sysfs is mounted. Blocks for as long as the files take."""
    dmi = _Folder(sys / "class/dmi/id")
    chassis_type = dmi["chassis_type"]
    return Inventory(
        bios=BIOSInfo(vendor=dmi["bios_vendor"], version=dmi["bios_version"], date=dmi["bios_date"]),
        system=SystemInfo(
            family=dmi["product_family"],
            name=dmi["product_name"],
            vendor=dmi["sys_vendor"],
            serial_number=dmi["product_serial"],
            uuid=dmi["product_uuid"],
            sku=dmi["product_sku"],
            version=dmi["product_version"],
        ),
        baseboard=BaseboardInfo(
            asset_tag=dmi["board_asset_tag"],
            serial_number=dmi["board_serial"],
            vendor=dmi["board_vendor"],
            version=dmi["board_version"],
            product=dmi["board_name"],
        ),
        chassis=ChassisInfo(
            asset_tag=dmi["chassis_asset_tag"],
            serial_number=dmi["chassis_serial"],
            type=chassis_type,
            type_description=_chassis(chassis_type),
            vendor=dmi["chassis_vendor"],
            version=dmi["chassis_version"],
        ),
        processor=CPUInfo(
            total_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 0,
            total_threads=psutil.cpu_count() or 0,
        ),
        memory=_memory(sys),
        pci=[_pci_device(path) for path in sorted((sys / "bus/pci/devices").glob("*"))],
    )


class _Folder:
    """Files of one line each; what is absent or may not be read is ""."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> str:
        try:
            return (self._path / name).read_text(errors="replace").strip()
        except OSError:
            return ""

    def hexadecimal(self, name: str) -> str:
        """A number such as 0x8086 without its prefix."""
        return self[name].removeprefix("0x")


def _chassis(number: str) -> str:
    known = number.isdigit() and 1 <= int(number) <= len(_CHASSIS_TYPES)
    return _CHASSIS_TYPES[int(number) - 1] if known else ""


def _memory(sys: Path) -> MemoryInfo:
    """Usable is what the kernel has; physical is what is plugged, where the kernel tells its memory blocks."""
    usable = psutil.virtual_memory().total
    blocks = _Folder(sys / "devices/system/memory")
    online = [
        block for block in (sys / "devices/system/memory").glob("memory[0-9]*") if _Folder(block)["online"] == "1"
    ]
    physical = len(online) * int(blocks["block_size_bytes"] or "0", 16)
    return MemoryInfo(total_physical_bytes=max(physical, usable), total_usable_bytes=usable)


def _pci_device(path: Path) -> PCIeDeviceInfo:
    device = _Folder(path)
    code = device.hexadecimal("class")
    driver = path / "driver"
    return PCIeDeviceInfo(
        driver=driver.resolve().name if driver.exists() else "",
        address=path.name,
        vendor=device.hexadecimal("vendor"),
        product=device.hexadecimal("device"),
        revision=device.hexadecimal("revision"),
        subsystem=f"{device.hexadecimal('subsystem_vendor')}:{device.hexadecimal('subsystem_device')}".strip(":"),
        **{"class": code[:2]},
        subclass=code[2:4],
    )
