"""What a guest sees, on a real QEMU."""

from __future__ import annotations

from typing import Any

from tests.kinds.world import World, failing, pci
from tests.qemu.conftest import SIZE
from tests.qemu.guest import Disks, Qemu
from tests.support.target import Emulator, wait_until

BLK = "virtioBlks/blk"


def blk(world: World, function: int, resource_id: str = "blk", **more: Any) -> dict[str, Any]:
    """Creates one on a PCI function."""
    return world.make("VirtioBlk", resource_id, {"volume_name_ref": "vol", "pcie_id": pci(function), **more})


def test_the_guest_sees_disks_come_and_go(world: World, qemu: Qemu) -> None:
    blk(world, 5)
    qemu.sees(s05=SIZE)
    blk(world, 32 + 7, "second")
    qemu.sees(s05=SIZE, b07=SIZE)
    world.delete("VirtioBlk", BLK)
    qemu.sees(b07=SIZE)
    assert qemu.plugged == {"opi-pf39-second"}
    assert world.target.vhost("blk") is None
    world.delete("VirtioBlk", "virtioBlks/second")
    qemu.sees()
    assert qemu.plugged == set()


def test_a_disk_moves_to_another_function(world: World, qemu: Qemu) -> None:
    blk(world, 5)
    world.update("VirtioBlk", {"name": BLK, "pcie_id": pci(38)})
    qemu.sees(b06=SIZE)
    assert qemu.plugged == {"opi-pf38-blk"}


def test_another_volume_is_another_disk_to_the_guest(world: World, qemu: Qemu) -> None:
    world.null_volume("other")
    blk(world, 5)
    world.update("VirtioBlk", {"name": BLK, "volume_name_ref": "other"})
    controller = world.target.vhost("blk")
    assert controller is not None
    assert controller["backend_specific"]["block"]["bdev"] == "other"
    qemu.sees(s05=SIZE)
    assert qemu.console.count(" 0000:00:05.0=") >= 2


def test_a_slot_that_is_taken_is_refused_in_qemus_words(world: World, qemu: Qemu) -> None:
    problem = failing(lambda: blk(world, 2))
    assert problem.code == "FAILED_PRECONDITION"
    assert "slot 2 function 0 not available" in problem.message
    assert (qemu.plugged, world.target.vhost("blk")) == (set(), None)


def test_a_socket_that_qemu_does_not_find_stops_neither_the_guest_nor_the_bridge(
    world: World, qemu: Qemu, disks: Disks
) -> None:
    problem = failing(lambda: blk(world, 5, "unserved"))
    assert problem.code == "FAILED_PRECONDITION"
    assert f"QEMU cannot connect to {disks.folder}/unserved" in problem.message
    assert (qemu.plugged, world.target.vhost("unserved")) == (set(), None)
    blk(world, 5)
    qemu.sees(s05=SIZE)


def test_the_guest_keeps_its_disk_when_the_target_is_restarted(world: World, qemu: Qemu, spdk: Emulator) -> None:
    blk(world, 5)
    qemu.sees(s05=SIZE)
    seen = qemu.console
    spdk.kill()
    spdk.start()
    wait_until(lambda: spdk.vhost("blk") is not None, "the target has the device again")
    assert qemu.plugged == {"opi-pf5-blk"}
    assert qemu.console == seen


def test_the_disk_comes_back_to_life_with_its_server(world: World, qemu: Qemu, disks: Disks) -> None:
    blk(world, 5)
    qemu.sees(s05=SIZE)
    disks.stop()
    wait_until(lambda: not _connected(qemu), "QEMU has noticed")
    disks.start()
    wait_until(lambda: _connected(qemu), "QEMU has found the server again")


def test_disks_are_plugged_in_again_when_qemu_was_restarted(world: World, qemu: Qemu) -> None:
    blk(world, 5)
    blk(world, 39, "second")
    qemu.stop()
    qemu.start()
    qemu.sees(s05=SIZE, b07=SIZE)
    world.delete("VirtioBlk", BLK)
    qemu.sees(b07=SIZE)


def test_a_guest_that_does_not_run_keeps_its_disk_until_it_does(world: World, qemu: Qemu) -> None:
    blk(world, 5)
    qemu.sees(s05=SIZE)
    qemu.ask("stop")

    def told() -> str:
        return failing(lambda: world.opi.call("DeleteVirtioBlk", {"name": BLK}, timeout_s=3)).message

    wait_until(lambda: "the guest has not let go of opi-pf5-blk within" in told(), "the bridge says so")
    assert world.get("VirtioBlk", BLK)["pcie_id"] == {"port_id": 0, "physical_function": 5, "virtual_function": 0}
    assert world.target.vhost("blk") is not None
    assert qemu.plugged == {"opi-pf5-blk"}
    qemu.ask("cont")
    world.delete("VirtioBlk", BLK)
    qemu.sees()


def _connected(qemu: Qemu) -> bool:
    chardevs = {item["label"]: item["filename"] for item in qemu.ask("query-chardev")}
    return not chardevs["opi-pf5-blk"].startswith("disconnected:")
