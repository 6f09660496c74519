"""VirtioBlk: the vhost device, its PCI function, and its limits, which are the volume's."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.world import World, failing, pci

BLK = "virtioBlks/blk"


@pytest.fixture
def volumes(world: World) -> World:
    """With two volumes."""
    for name in ("vol", "other"):
        world.null_volume(name)
    return world


def blk(world: World, function: int = 1, volume: str = "vol", resource_id: str = "blk", **more: Any) -> dict[str, Any]:
    """Creates one."""
    return world.make("VirtioBlk", resource_id, {"volume_name_ref": volume, "pcie_id": pci(function), **more})


def device(world: World, name: str = "blk") -> dict[str, Any]:
    """The vhost device on the target."""
    found = world.target.vhost(name)
    assert found is not None
    return found


def limits(world: World, volume: str = "vol") -> dict[str, int]:
    """The volume's limits that are set."""
    found = world.target.bdev(volume)
    assert found is not None
    return {name: value for name, value in found["assigned_rate_limits"].items() if value}


# The device


def test_a_guest_finds_the_devices_socket_as_long_as_it_exists(volumes: World) -> None:
    made = blk(volumes)
    found = device(volumes)
    assert found["backend_specific"]["block"] == {"readonly": False, "bdev": "vol", "transport": "vhost_user_blk"}
    assert Path(found["socket"]).name == "blk"
    assert Path(found["socket"]).is_socket()
    volumes.delete("VirtioBlk", made["name"])
    assert not Path(found["socket"]).exists()


def test_another_volume_takes_its_place(volumes: World) -> None:
    blk(volumes)
    volumes.update("VirtioBlk", {"name": BLK, "volume_name_ref": "other"})
    assert device(volumes)["backend_specific"]["block"]["bdev"] == "other"
    assert Path(device(volumes)["socket"]).is_socket()
    volumes.delete("NullVolume", "nullVolumes/vol")


def test_devices_share_a_volume_but_not_with_a_namespace(volumes: World) -> None:
    blk(volumes)
    blk(volumes, 2, resource_id="second")
    volumes.subsystem()
    problem = failing(lambda: volumes.namespace("n0", "vol"))
    assert problem.code == "FAILED_PRECONDITION"
    assert "virtioBlks/" in problem.message
    user = volumes.namespace("n0", "other")["name"]
    problem = failing(lambda: blk(volumes, 3, "other", "third"))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "virtio_blk.volume_name_ref")
    assert user in problem.message
    assert volumes.target.vhost("third") is None


def test_a_bdev_that_somebody_else_has_claimed_is_refused_saying_so(volumes: World) -> None:
    nqn = "nqn.2022-09.io.spdk:theirs"
    volumes.target.rpc("nvmf_create_subsystem", nqn=nqn)
    try:
        volumes.target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "vol"})
        problem = failing(lambda: blk(volumes))
    finally:
        volumes.target.rpc("nvmf_delete_subsystem", nqn=nqn)
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "virtio_blk.volume_name_ref")
    assert "vol" in problem.message


def test_a_vhost_name_is_for_one_device_of_whatever_sort(volumes: World) -> None:
    name = blk(volumes)["name"]
    for noun, more in (("VirtioScsiController", {"pcie_id": pci(2)}), ("VirtioScsiTarget", {})):
        problem = failing(partial(volumes.make, noun, "blk", more))
        assert problem.code == "ALREADY_EXISTS"
        assert name in problem.message


def test_somebody_elses_device_of_that_name_is_left_alone(volumes: World) -> None:
    volumes.target.rpc("vhost_create_blk_controller", ctrlr="blk", dev_name="other")
    try:
        problem = failing(lambda: blk(volumes))
        assert problem.code == "ALREADY_EXISTS"
        assert device(volumes)["backend_specific"]["block"]["bdev"] == "other"
    finally:
        volumes.target.rpc("vhost_delete_controller", ctrlr="blk")


# The PCI function


@pytest.mark.parametrize(
    ("function", "field"),
    [
        (pci(1, port=1), "port_id"),
        (pci(1, virtual=1), "virtual_function"),
        (pci(-1), "physical_function"),
        (pci(256), "physical_function"),
        ({"port_id": 0, "virtual_function": 0}, "physical_function"),
    ],
)
def test_only_physical_functions_of_port_0_are_served(volumes: World, function: dict[str, Any], field: str) -> None:
    wanted = {"volume_name_ref": "vol", "pcie_id": function}
    problem = failing(lambda: volumes.make("VirtioBlk", "blk", wanted))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"virtio_blk.pcie_id.{field}")
    assert volumes.target.vhost("blk") is None


def test_a_function_is_for_one_device(volumes: World) -> None:
    holder = blk(volumes)["name"]
    problem = failing(lambda: blk(volumes, 1, "other", "second"))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "virtio_blk.pcie_id")
    assert holder in problem.message
    volumes.update("VirtioBlk", {"name": BLK, "pcie_id": pci(2)})
    blk(volumes, 1, "other", "second")


# Limits


def test_max_limit_is_on_the_bdev_from_the_start(volumes: World) -> None:
    blk(volumes, max_limit={"rw_iops_kiops": 30, "wr_bandwidth_mbs": 4})
    assert limits(volumes) == {"rw_ios_per_sec": 30_000, "w_mbytes_per_sec": 4}


def test_a_limit_that_is_added_later_is_on_the_bdev(volumes: World) -> None:
    blk(volumes)
    assert limits(volumes) == {}
    volumes.update("VirtioBlk", {"name": BLK, "max_limit": {"rw_iops_kiops": 30}})
    assert limits(volumes) == {"rw_ios_per_sec": 30_000}


def test_limits_that_cannot_change_while_no_guest_is_there_wait(volumes: World) -> None:
    """The target's EAGAIN on a volume that nothing has open is harmless: the device has no guest yet."""
    blk(volumes, max_limit={"rw_iops_kiops": 30})
    answer = volumes.update("VirtioBlk", {"name": BLK, "max_limit": {"rw_iops_kiops": 40}}, "max_limit")
    assert answer["max_limit"] == {"rw_iops_kiops": "40"}
    assert volumes.get("VirtioBlk", BLK)["max_limit"] == {"rw_iops_kiops": "40"}
    assert "max_limit" not in volumes.update("VirtioBlk", {"name": BLK}, "max_limit")
    volumes.delete("VirtioBlk", BLK)
    volumes.subsystem()
    volumes.namespace("n0", "vol")
    assert limits(volumes) == {}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"min_limit": {"rw_iops_kiops": 1}}, "min_limit"),
        ({"min_limit": {}}, "min_limit"),
        ({"max_limit": {"rd_iops_kiops": 1}}, "max_limit.rd_iops_kiops"),
        ({"max_limit": {"wr_iops_kiops": 1}}, "max_limit.wr_iops_kiops"),
        ({"max_limit": {"rw_iops_kiops": -5}}, "max_limit.rw_iops_kiops"),
        ({"max_limit": {}}, "max_limit"),
    ],
)
def test_limits_that_the_target_has_not_are_refused(volumes: World, more: dict[str, Any], field: str) -> None:
    problem = failing(lambda: blk(volumes, **more))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"virtio_blk.{field}")
    assert volumes.target.vhost("blk") is None


def test_max_io_qps_is_kept_and_can_be_updated(volumes: World) -> None:
    assert blk(volumes, max_io_qps=4)["max_io_qps"] == "4"

    def change() -> None:
        assert volumes.update("VirtioBlk", {"name": BLK, "max_io_qps": 8})["max_io_qps"] == "8"
        assert volumes.get("VirtioBlk", BLK)["max_io_qps"] == "8"

    assert volumes.undisturbed(change) == []
