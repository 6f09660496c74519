"""Virtio-scsi: controllers with a PCI function, targets without, and LUNs as SCSI target numbers of either."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.world import World, failing, pci

DEVICES = pytest.mark.parametrize("noun", ["VirtioScsiController", "VirtioScsiTarget"])
LUNS = "virtioScsiLuns"


def device(world: World, noun: str, resource_id: str = "dev", **more: Any) -> str:
    """Creates a controller or a target and returns its name."""
    function = {"pcie_id": pci(len(world.all("VirtioScsiController")))} if noun == "VirtioScsiController" else {}
    return str(world.make(noun, resource_id, {**function, **more})["name"])


def lun(world: World, number: int, target: str = "dev", volume: str = "") -> dict[str, Any]:
    """Puts a volume of its own, or the given one, on a device."""
    if not volume:
        volume = str(world.null_volume(f"v{number}")["name"])
    return world.make("VirtioScsiLun", f"l{number}", {"target_name_ref": target, "volume_name_ref": volume})


def numbers(world: World, name: str = "dev") -> dict[int, str]:
    """The bdev under each SCSI target number of a device."""
    found = world.target.vhost(name)
    assert found is not None
    scsi = found["backend_specific"]["scsi"]
    return {target["scsi_dev_num"]: target["luns"][0]["bdev_name"] for target in scsi if target["luns"]}


# Devices


@DEVICES
def test_a_guest_finds_the_devices_socket_as_long_as_it_exists(world: World, noun: str) -> None:
    name = device(world, noun)
    found = world.target.vhost("dev")
    assert found is not None
    assert found["backend_specific"] == {"scsi": []}
    assert Path(found["socket"]).is_socket()
    world.delete(noun, name)
    assert not Path(found["socket"]).exists()


def test_a_controller_takes_a_pci_function_any_a_target_none(world: World) -> None:
    compliance = {"pcie_id": pci(1, port=3, virtual=2)}
    made = world.make("VirtioScsiController", "dev", compliance)
    assert made["pcie_id"] == compliance["pcie_id"]
    problem = failing(lambda: world.make("VirtioScsiController", "second", compliance))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "virtio_scsi_controller.pcie_id")
    assert made["name"] in problem.message
    assert world.target.vhost("second") is None
    world.update("VirtioScsiController", {"name": made["name"], "pcie_id": pci(5)})
    world.make("VirtioScsiController", "second", compliance)
    for number in range(3):
        device(world, "VirtioScsiTarget", f"target{number}")


def test_a_device_name_is_for_one_device_of_either_sort(world: World) -> None:
    name = device(world, "VirtioScsiTarget")
    problem = failing(lambda: device(world, "VirtioScsiController"))
    assert problem.code == "ALREADY_EXISTS"
    assert name in problem.message


# LUNs


@DEVICES
def test_a_lun_is_found_under_every_form_of_its_devices_name(world: World, noun: str) -> None:
    name = device(world, noun)
    for number, target in enumerate((name, "dev", "volumes/dev")):
        made = lun(world, number, target)
        assert made["target_name_ref"] == target
        assert numbers(world)[number] == f"v{number}"
        problem = failing(lambda: world.delete(noun, name))
        assert problem.code == "FAILED_PRECONDITION"
        assert made["name"] in problem.message
    for number in range(3):
        world.delete("VirtioScsiLun", f"{LUNS}/l{number}")
    assert numbers(world) == {}


@pytest.mark.parametrize(
    "reference", ["nothing", "virtioScsiTargets/dev", "virtioBlks/dev", "x/dev", "virtioScsiControllers/dev/x", "blk"]
)
def test_a_device_that_is_not_there_is_named(world: World, reference: str) -> None:
    device(world, "VirtioScsiController")
    world.null_volume("base")
    world.make("VirtioBlk", "blk", {"volume_name_ref": "base", "pcie_id": pci(9)})
    world.null_volume("vol")
    problem = failing(lambda: lun(world, 0, reference, "vol"))
    assert (problem.code, problem.field) == ("NOT_FOUND", "virtio_scsi_lun.target_name_ref")
    assert reference in problem.message
    assert numbers(world) == {}


def test_the_first_free_number_is_taken(world: World) -> None:
    device(world, "VirtioScsiController")
    for number in range(3):
        lun(world, number)
    world.delete("VirtioScsiLun", f"{LUNS}/l1")
    assert numbers(world) == {0: "v0", 2: "v2"}
    lun(world, 3)
    assert numbers(world) == {0: "v0", 1: "v3", 2: "v2"}


def test_a_number_that_somebody_else_took_is_left_alone(world: World) -> None:
    device(world, "VirtioScsiController")
    world.null_volume("theirs")
    world.target.rpc("vhost_scsi_controller_add_target", ctrlr="dev", scsi_target_num=0, bdev_name="theirs")
    lun(world, 1)
    assert numbers(world) == {0: "theirs", 1: "v1"}
    world.delete("VirtioScsiLun", f"{LUNS}/l1")
    assert numbers(world) == {0: "theirs"}
    world.target.rpc("vhost_scsi_controller_remove_target", ctrlr="dev", scsi_target_num=0)


@pytest.mark.parametrize(("noun", "more", "most"), [
    ("VirtioScsiController", {}, 8), ("VirtioScsiTarget", {}, 8), ("VirtioScsiTarget", {"max_luns": 2}, 2),
])  # fmt: skip
def test_a_device_has_so_many_luns_and_no_more(world: World, noun: str, more: dict[str, Any], most: int) -> None:
    name = device(world, noun, **more)
    for number in range(most):
        lun(world, number)
    problem = failing(lambda: lun(world, most))
    assert (problem.code, problem.field) == ("RESOURCE_EXHAUSTED", "virtio_scsi_lun.target_name_ref")
    assert name in problem.message
    assert numbers(world) == {number: f"v{number}" for number in range(most)}


def test_max_luns_can_be_raised_and_is_lowered_only_over_free_numbers(world: World) -> None:
    name = device(world, "VirtioScsiTarget", max_luns=2)
    for number in range(2):
        lun(world, number)
    problem = failing(lambda: world.update("VirtioScsiTarget", {"name": name, "max_luns": 1}))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "virtio_scsi_target.max_luns")
    world.update("VirtioScsiTarget", {"name": name, "max_luns": 3})
    lun(world, 2)
    assert numbers(world) == {0: "v0", 1: "v1", 2: "v2"}
    world.delete("VirtioScsiLun", f"{LUNS}/l2")
    assert world.update("VirtioScsiTarget", {"name": name, "max_luns": 2})["max_luns"] == 2


def test_another_volume_takes_the_place_of_the_first(world: World) -> None:
    device(world, "VirtioScsiController")
    lun(world, 0)
    lun(world, 1)
    world.null_volume("other")
    world.update("VirtioScsiLun", {"name": f"{LUNS}/l0", "volume_name_ref": "other"})
    assert numbers(world) == {0: "other", 1: "v1"}
    world.delete("NullVolume", "nullVolumes/v0")


def test_a_lun_moves_to_another_device(world: World) -> None:
    device(world, "VirtioScsiController", "dev")
    device(world, "VirtioScsiTarget", "to")
    lun(world, 0)
    lun(world, 1, "to")
    answer = world.update("VirtioScsiLun", {"name": f"{LUNS}/l0", "target_name_ref": "virtioScsiTargets/to"})
    assert answer["target_name_ref"] == "virtioScsiTargets/to"
    assert (numbers(world, "dev"), numbers(world, "to")) == ({}, {0: "v1", 1: "v0"})
    world.delete("VirtioScsiController", "virtioScsiControllers/dev")


def test_a_lun_that_cannot_move_stays(world: World) -> None:
    device(world, "VirtioScsiController", "dev")
    device(world, "VirtioScsiTarget", "full", max_luns=1)
    made = lun(world, 0)
    lun(world, 1, "full")
    problem = failing(lambda: world.update("VirtioScsiLun", {"name": made["name"], "target_name_ref": "full"}))
    assert problem.code == "RESOURCE_EXHAUSTED"
    assert (numbers(world, "dev"), numbers(world, "full")) == ({0: "v0"}, {0: "v1"})
    assert world.get("VirtioScsiLun", made["name"]) == made


def test_a_volume_of_a_namespace_is_refused_naming_it(world: World) -> None:
    device(world, "VirtioScsiController")
    world.null_volume("vol")
    world.subsystem()
    user = world.namespace("n0", "vol")["name"]
    problem = failing(lambda: lun(world, 0, volume="vol"))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "virtio_scsi_lun.volume_name_ref")
    assert user in problem.message
    assert numbers(world) == {}


def test_controller_and_lun_may_share_an_id_as_the_compliance_client_has_it(world: World) -> None:
    world.malloc_volume("Malloc1")
    world.make("VirtioScsiController", "opi-virtio-scsi-8", {"pcie_id": pci(1, port=3, virtual=2)})
    wanted = {"target_name_ref": "opi-virtio-scsi-8", "volume_name_ref": "Malloc1"}
    world.make("VirtioScsiLun", "opi-virtio-scsi-8", wanted)
    assert numbers(world, "opi-virtio-scsi-8") == {0: "Malloc1"}


@DEVICES
def test_a_devices_counters_are_the_sum_of_its_luns(world: World, noun: str) -> None:
    if not world.target.emulated:
        pytest.skip("needs a guest that does I/O, or an emulated target")
    name = device(world, noun)
    assert world.stats(noun, name) == {}
    for number in range(2):
        lun(world, number)
    read = partial(world.stats, "VirtioScsiLun")
    before = [world.stats(noun, name), *(read(f"{LUNS}/l{number}") for number in range(2))]
    for number in range(2):
        with world.io(f"v{number}") as io:
            io.run(writes=number + 1)
    after = [world.stats(noun, name), *(read(f"{LUNS}/l{number}") for number in range(2))]
    moved = [now["write_ops_count"] - then.get("write_ops_count", 0) for then, now in zip(before, after, strict=True)]
    assert moved == [3, 1, 2]
