"""NullVolume and MallocVolume: geometry, identity, growth, and that nobody else's bdev is touched."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.kinds.world import MIB, NQN, World, failing

UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"
BOTH = pytest.mark.parametrize("noun", ["NullVolume", "MallocVolume"])


def bdev(world: World, name: str = "vol") -> dict[str, Any]:
    """The bdev on the target."""
    found = world.target.bdev(name)
    assert found is not None
    return found


def geometry(world: World) -> tuple[int, int]:
    """Block size and number of blocks of the bdev."""
    found = bdev(world)
    return found["block_size"], found["num_blocks"]


def in_use(world: World) -> str:
    """Puts a namespace on the volume and returns its name."""
    world.subsystem()
    return str(world.namespace("n0", "vol")["name"])


# Geometry


@BOTH
@pytest.mark.parametrize(("block_size", "blocks_count"), [(512, 2048), (4096, 256), (1024, 3000)])
def test_the_target_has_the_geometry_that_was_asked_for(
    world: World, noun: str, block_size: int, blocks_count: int
) -> None:
    made = world.make(noun, "vol", {"block_size": block_size, "blocks_count": blocks_count})
    assert (int(made["block_size"]), int(made["blocks_count"])) == (block_size, blocks_count)
    assert geometry(world) == (block_size, blocks_count)


@BOTH
def test_a_geometry_that_the_target_would_not_take_is_refused(world: World, noun: str) -> None:
    world.quiet()
    for field, value in (
        ("block_size", 511), ("block_size", 520), ("block_size", 2**32), ("block_size", -512),
        ("blocks_count", -1), ("blocks_count", 2**62), ("uuid", "x"), ("uuid", "0" * 32),
    ):  # fmt: skip
        volume = {"block_size": 512, "blocks_count": 2048, field: value}
        problem = failing(partial(world.make, noun, "vol", volume))
        assert problem.code == "INVALID_ARGUMENT"
        assert problem.field.endswith(f".{field}")
    assert world.asked() == []


def test_a_volume_that_the_targets_memory_does_not_hold_is_told_so(world: World) -> None:
    problem = failing(lambda: world.malloc_volume("vol", 2**46 // 512))
    assert problem.code == "RESOURCE_EXHAUSTED"
    assert "memory" in problem.message
    assert world.page("MallocVolume")[0] == []
    assert world.leftovers() == {}


@pytest.mark.parametrize(("metadata_size", "blocks_count"), [(0, 2**46 // 512 + 1), (8, 2**46 // 520 + 1), (0, 2**54)])
def test_no_memory_volume_is_larger_than_any_memory(world: World, metadata_size: int, blocks_count: int) -> None:
    world.quiet()
    problem = failing(lambda: world.malloc_volume("vol", blocks_count, metadata_size=metadata_size))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "malloc_volume.blocks_count")
    assert "the volume is memory of the target" in problem.message
    assert world.asked() == []


@pytest.mark.parametrize("metadata_size", [0, 8, 16, 64, 128])
def test_metadata_comes_with_each_block(world: World, metadata_size: int) -> None:
    made = world.malloc_volume("vol", metadata_size=metadata_size)
    assert int(made.get("metadata_size", 0)) == metadata_size
    assert bdev(world).get("md_size", 0) == metadata_size


# Identity


@BOTH
@pytest.mark.parametrize("spelling", [UUID, UUID.upper(), UUID.replace("-", "")])
def test_a_given_uuid_is_the_bdevs(world: World, noun: str, spelling: str) -> None:
    made = world.make(noun, "vol", {"block_size": 512, "blocks_count": 2048, "uuid": spelling})
    assert made["uuid"] == UUID
    assert bdev(world)["uuid"] == UUID
    assert bdev(world, UUID)["name"] == "vol"


@BOTH
def test_a_chosen_uuid_is_the_bdevs(world: World, noun: str) -> None:
    made = world.make(noun, "vol", {"block_size": 512, "blocks_count": 2048})
    assert bdev(world)["uuid"] == made["uuid"]


def test_a_uuid_is_for_one_volume(world: World) -> None:
    holder = world.null_volume("vol", uuid=UUID)["name"]
    problem = failing(lambda: world.malloc_volume("other", uuid=UUID))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "malloc_volume.uuid")
    assert holder in problem.message
    assert world.leftovers()["bdevs"] == ["vol"]


def test_a_bdev_name_is_for_one_volume_of_whatever_kind(world: World) -> None:
    holder = world.null_volume("vol")["name"]
    problem = failing(lambda: world.malloc_volume("vol"))
    assert problem.code == "ALREADY_EXISTS"
    assert holder in problem.message
    assert bdev(world)["product_name"] == "Null disk"


@BOTH
def test_somebody_elses_bdev_of_that_name_is_left_alone(world: World, noun: str) -> None:
    world.target.rpc("bdev_null_create", name="vol", num_blocks=4096, block_size=512)
    try:
        problem = failing(lambda: world.make(noun, "vol", {"block_size": 512, "blocks_count": 2048}))
        assert problem.code == "ALREADY_EXISTS"
        assert "vol" in problem.message
        assert geometry(world) == (512, 4096)
        assert world.all(noun) == []
    finally:
        world.target.rpc("bdev_null_delete", name="vol")


# Another geometry


def test_a_null_volume_grows_under_its_user(world: World) -> None:
    made = world.null_volume("vol")
    in_use(world)
    world.quiet()
    for mib in (2, 64):
        answer = world.update("NullVolume", {"name": made["name"], "blocks_count": mib * MIB // 512})
        assert answer == {**made, "blocks_count": str(mib * MIB // 512)}
        assert geometry(world) == (512, mib * MIB // 512)
    subsystem = world.target.subsystem(NQN)
    assert subsystem is not None
    assert [ns["bdev_name"] for ns in subsystem["namespaces"]] == ["vol"]
    assert bdev(world)["uuid"] == made["uuid"]
    assert set(world.asked()) <= {"bdev_null_resize"}


@pytest.mark.parametrize(
    "wanted", [{"blocks_count": 1024}, {"blocks_count": 2049}, {"block_size": 4096}, {"uuid": UUID}]
)
def test_what_needs_a_new_null_bdev_waits_until_nothing_stands_on_it(world: World, wanted: dict[str, Any]) -> None:
    made = world.null_volume("vol")
    before = bdev(world)
    user = in_use(world)
    change = partial(world.update, "NullVolume", {"name": made["name"], **wanted})
    problem = failing(change)
    assert problem.code == "FAILED_PRECONDITION"
    assert user in problem.message
    assert geometry(world) == (512, 2048)
    world.delete("NvmeNamespace", user)
    answer = change()
    assert {name: answer[name] for name in wanted} == {name: str(value) for name, value in wanted.items()}
    found = bdev(world)
    assert geometry(world) == (int(answer["block_size"]), int(answer["blocks_count"]))
    assert found["uuid"] == (UUID if "uuid" in wanted else before["uuid"]) == answer["uuid"]


def test_a_malloc_volume_keeps_its_data_whatever_is_asked(world: World) -> None:
    made = world.malloc_volume("vol")
    world.quiet()
    for wanted in ({"blocks_count": 4096}, {"block_size": 4096}, {"metadata_size": 8}, {"uuid": UUID}):
        problem = failing(partial(world.update, "MallocVolume", {"name": made["name"], **wanted}))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"malloc_volume.{next(iter(wanted))}")
    assert world.update("MallocVolume", made, "*") == made
    assert world.asked() == []
    assert geometry(world) == (512, 2048)
