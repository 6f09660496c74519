"""What a guest sees, on a real QEMU."""

from __future__ import annotations

from typing import Any

from tests.kinds.world import World, pci
from tests.qemu.conftest import SIZE
from tests.qemu.guest import Qemu

BLK = "virtioBlks/blk"


def blk(world: World, function: int, resource_id: str = "blk", **more: Any) -> dict[str, Any]:
    """Creates one on a PCI function."""
    return world.make("VirtioBlk", resource_id, {"volume_name_ref": "vol", "pcie_id": pci(function), **more})


def test_the_guest_sees_the_disk_come_and_go(world: World, qemu: Qemu) -> None:
    blk(world, 5)
    qemu.sees(s05=SIZE)
    world.delete("VirtioBlk", BLK)
    qemu.sees()
    assert qemu.plugged == set()
    assert world.target.vhost("blk") is None
