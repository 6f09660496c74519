"""QosVolume: units, what cannot be limited, its one holder, and the trap of volumes that nothing has open."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.kinds.world import World, failing, pci
from tests.support.target import RpcError, wait_until

QOS = "qosVolumes/qos"
EAGAIN = {"code": -32602, "message": "Failed to set the Rate Limit: Resource temporarily unavailable"}


@pytest.fixture
def volumes(world: World) -> World:
    """With two volumes."""
    for name in ("vol", "other"):
        world.null_volume(name)
    return world


def limit(world: World, volume: str = "vol", resource_id: str = "qos", **limits: int) -> dict[str, Any]:
    """Creates one."""
    return world.make("QosVolume", resource_id, {"volume_name_ref": volume, "limits": {"max": limits}})


def change(world: World, **limits: int) -> dict[str, Any]:
    """Other limits."""
    return world.update("QosVolume", {"name": QOS, "limits": {"max": limits}}, "limits")


def on_target(world: World, volume: str = "vol") -> dict[str, int]:
    """The bdev's limits that are set."""
    found = world.target.bdev(volume)
    assert found is not None
    return {name: value for name, value in found["assigned_rate_limits"].items() if value}


def opened(world: World, volume: str = "vol") -> str:
    """Opens the volume by making it a namespace, whose name it returns."""
    if world.target.subsystem("nqn.2022-09.io.spdk:opi") is None:
        world.subsystem()
    return str(world.namespace(f"on-{volume}", volume)["name"])


# Units and refusals


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"rw_iops_kiops": 20}, {"rw_ios_per_sec": 20_000}),
        ({"rw_bandwidth_mbs": 3}, {"rw_mbytes_per_sec": 3}),
        ({"rd_bandwidth_mbs": 4}, {"r_mbytes_per_sec": 4}),
        ({"wr_bandwidth_mbs": 5}, {"w_mbytes_per_sec": 5}),
        ({"rw_iops_kiops": 1, "rd_bandwidth_mbs": 2, "wr_bandwidth_mbs": 3, "rw_bandwidth_mbs": 4},
         {"rw_ios_per_sec": 1000, "r_mbytes_per_sec": 2, "w_mbytes_per_sec": 3, "rw_mbytes_per_sec": 4}),
    ],
)  # fmt: skip
def test_units_are_kilo_iops_and_mebibytes_a_second(
    volumes: World, given: dict[str, Any], seen: dict[str, int]
) -> None:
    made = limit(volumes, **given)
    assert made["limits"]["max"] == {name: str(value) for name, value in given.items()}
    assert on_target(volumes) == seen
    volumes.delete("QosVolume", QOS)


def test_what_is_left_out_is_lifted(volumes: World) -> None:
    opened(volumes)
    limit(volumes, rw_iops_kiops=20, rd_bandwidth_mbs=4)
    change(volumes, rd_bandwidth_mbs=5)
    assert on_target(volumes) == {"r_mbytes_per_sec": 5}
    volumes.delete("QosVolume", QOS)
    assert on_target(volumes) == {}


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"max": {"rd_iops_kiops": 1}}, "limits.max.rd_iops_kiops"),
        ({"max": {"wr_iops_kiops": 1}}, "limits.max.wr_iops_kiops"),
        ({"max": {"rw_iops_kiops": 1}, "min": {"rw_iops_kiops": 1}}, "limits.min"),
        ({"min": {"rw_bandwidth_mbs": 1}}, "limits.min"),
        ({"max": {"rw_iops_kiops": -1}}, "limits.max.rw_iops_kiops"),
        ({"max": {"rw_bandwidth_mbs": 2**62}}, "limits.max.rw_bandwidth_mbs"),
        ({"max": {}}, "limits.max"),
        ({}, "limits.max"),
    ],
)
def test_what_the_target_cannot_limit_is_refused_naming_it(volumes: World, limits: dict[str, Any], field: str) -> None:
    wanted = {"volume_name_ref": "vol", "limits": limits}
    problem = failing(lambda: volumes.make("QosVolume", "qos", wanted))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"qos_volume.{field}")
    assert on_target(volumes) == {}


def test_a_missing_volume_is_named(world: World) -> None:
    problem = failing(lambda: limit(world, "nothing", rw_iops_kiops=20))
    assert (problem.code, problem.field) == ("NOT_FOUND", "qos_volume.volume_name_ref")


def test_a_bdev_that_somebody_else_made_can_be_limited(world: World) -> None:
    world.target.rpc("bdev_null_create", name="theirs", num_blocks=2048, block_size=512)
    world.foreign.add("theirs")
    limit(world, "theirs", rw_iops_kiops=20)
    assert on_target(world, "theirs") == {"rw_ios_per_sec": 20_000}
    world.target.rpc("bdev_null_delete", name="theirs")
    world.delete("QosVolume", QOS)


# One holder


def test_a_volumes_qos_has_one_holder(volumes: World) -> None:
    limit(volumes, rw_iops_kiops=20)
    blk = {"volume_name_ref": "vol", "pcie_id": pci(1), "max_limit": {"rw_iops_kiops": 30}}
    for attempt in (
        partial(limit, volumes, "nullVolumes/vol", "second", rw_iops_kiops=30),
        partial(limit, volumes, "qos", "second", rw_iops_kiops=30),
        partial(volumes.make, "VirtioBlk", "blk", blk),
    ):
        problem = failing(attempt)
        assert problem.code == "FAILED_PRECONDITION"
        assert QOS in problem.message
    assert on_target(volumes) == {"rw_ios_per_sec": 20_000}
    assert volumes.target.vhost("blk") is None
    volumes.delete("QosVolume", QOS)
    volumes.make("VirtioBlk", "blk", blk)


def test_a_device_that_came_first_keeps_the_qos(volumes: World) -> None:
    blk = {"volume_name_ref": "vol", "pcie_id": pci(1), "max_limit": {"rw_iops_kiops": 30}}
    holder = volumes.make("VirtioBlk", "blk", blk)["name"]
    problem = failing(lambda: limit(volumes, rw_iops_kiops=20))
    assert problem.code == "FAILED_PRECONDITION"
    assert holder in problem.message
    assert on_target(volumes) == {"rw_ios_per_sec": 30_000}


def test_two_devices_on_one_volume_have_one_limit(volumes: World) -> None:
    first = {"volume_name_ref": "vol", "pcie_id": pci(1), "max_limit": {"rw_iops_kiops": 30}}
    holder = volumes.make("VirtioBlk", "blk1", first)["name"]
    problem = failing(lambda: volumes.make("VirtioBlk", "blk2", {**first, "pcie_id": pci(2)}))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "virtio_blk.max_limit")
    assert holder in problem.message
    volumes.make("VirtioBlk", "blk2", {"volume_name_ref": "vol", "pcie_id": pci(2)})


def test_limits_move_to_another_volume(volumes: World) -> None:
    for volume in ("vol", "other"):
        opened(volumes, volume)
    limit(volumes, rw_iops_kiops=20)
    volumes.update("QosVolume", {"name": QOS, "volume_name_ref": "other"}, "volume_name_ref")
    assert (on_target(volumes), on_target(volumes, "other")) == ({}, {"rw_ios_per_sec": 20_000})
    limit(volumes, resource_id="second", rw_iops_kiops=30)
    assert on_target(volumes) == {"rw_ios_per_sec": 30_000}


# Volumes that nothing has open: the target takes limits once, and then says EAGAIN until something opens them


def trapped(world: World) -> None:
    """A volume with limits that the target will not change."""
    limit(world, rw_iops_kiops=20)
    with pytest.raises(RpcError, match="temporarily unavailable"):
        world.target.rpc("bdev_set_qos_limit", name="vol", rw_ios_per_sec=1000)


def test_an_update_on_an_idle_volume_is_applied_when_it_is_opened(volumes: World) -> None:
    trapped(volumes)
    assert change(volumes, rw_iops_kiops=40)["limits"]["max"] == {"rw_iops_kiops": "40"}
    assert volumes.get("QosVolume", QOS)["limits"]["max"] == {"rw_iops_kiops": "40"}
    assert on_target(volumes) == {"rw_ios_per_sec": 20_000}
    opened(volumes)
    assert on_target(volumes) == {"rw_ios_per_sec": 40_000}


def test_a_deleted_limit_of_an_idle_volume_is_lifted_when_it_is_opened(volumes: World) -> None:
    trapped(volumes)
    volumes.delete("QosVolume", QOS)
    assert volumes.page("QosVolume")[0] == []
    assert failing(lambda: volumes.get("QosVolume", QOS)).code == "NOT_FOUND"
    opened(volumes)
    assert on_target(volumes) == {}


def test_a_limit_made_anew_on_an_idle_volume_is_the_one_that_counts(volumes: World) -> None:
    trapped(volumes)
    volumes.delete("QosVolume", QOS)
    limit(volumes, rw_iops_kiops=50)
    opened(volumes)
    assert on_target(volumes) == {"rw_ios_per_sec": 50_000}


def test_a_lun_opens_its_volume_too(volumes: World) -> None:
    trapped(volumes)
    change(volumes, rw_iops_kiops=40)
    volumes.make("VirtioScsiTarget", "dev", {})
    volumes.make("VirtioScsiLun", "lun", {"target_name_ref": "dev", "volume_name_ref": "vol"})
    assert volumes.get("QosVolume", QOS)["limits"]["max"] == {"rw_iops_kiops": "40"}


def test_an_idle_volume_with_trapped_limits_can_be_deleted(volumes: World) -> None:
    trapped(volumes)
    volumes.delete("QosVolume", QOS)
    volumes.delete("NullVolume", "nullVolumes/vol")
    assert volumes.target.bdev("vol") is None
    volumes.null_volume("vol")
    assert on_target(volumes) == {}


def test_an_open_volume_that_stays_busy_is_a_clear_error(frail: World) -> None:
    frail.null_volume("vol")
    frail.subsystem()
    frail.namespace("n0", "vol")
    limit(frail, rw_iops_kiops=20)
    frail.target.rpc("emulator_inject_fault", method="bdev_set_qos_limit", action="error", **EAGAIN)
    for attempt in (partial(change, frail, rw_iops_kiops=30), partial(frail.delete, "QosVolume", QOS)):
        problem = failing(attempt)
        assert problem.code == "ABORTED"
        assert "vol" in problem.message
    assert frail.get("QosVolume", QOS)["limits"]["max"] == {"rw_iops_kiops": "20"}
    frail.target.rpc("emulator_clear_faults")
    frail.target.rpc("emulator_inject_fault", method="bdev_set_qos_limit", action="error", count=2, **EAGAIN)
    change(frail, rw_iops_kiops=30)
    wait_until(lambda: on_target(frail) == {"rw_ios_per_sec": 30_000}, "the limits are set")


def test_its_counters_are_those_of_the_volume(volumes: World) -> None:
    limit(volumes, rw_iops_kiops=20)
    before = volumes.stats("QosVolume", QOS)
    for volume in ("vol", "other"):
        with volumes.io(volume) as io:
            io.run(writes=5)
    after = volumes.stats("QosVolume", QOS)
    assert after["write_ops_count"] - before.get("write_ops_count", 0) == 5
