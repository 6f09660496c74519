"""AioVolume: sizes come from the file, growth is rescanned, another file is another bdev."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import World, failing

VOL = "aioVolumes/vol"


def volume(world: World, **more: Any) -> dict[str, Any]:
    """A volume over a file of 2,048 blocks."""
    return world.make("AioVolume", "vol", {"filename": world.file("file", 2048), **more})


def on_target(world: World) -> tuple[int, int, str]:
    """Block size, number of blocks and file of the bdev."""
    found = world.target.bdev("vol")
    assert found is not None
    return found["block_size"], found["num_blocks"], found["driver_specific"]["aio"]["filename"]


def in_use(world: World) -> str:
    """Puts a namespace on the volume and returns its name."""
    world.subsystem()
    return str(world.namespace("n0", "vol")["name"])


@pytest.mark.parametrize("block_size", [512, 1024, 4096])
def test_answers_give_the_real_size(world: World, block_size: int) -> None:
    made = volume(world, block_size=block_size, blocks_count=12)
    real = 2048 * 512 // block_size
    assert (made["block_size"], made["blocks_count"]) == (str(block_size), str(real))
    assert on_target(world) == (block_size, real, made["filename"])
    assert world.get("AioVolume", VOL) == made


def test_get_tells_the_size_that_the_target_has_now(world: World) -> None:
    volume(world, block_size=512)
    world.file("file", 4096)
    assert world.get("AioVolume", VOL)["blocks_count"] == "2048"
    world.target.rpc("bdev_aio_rescan", name="vol")
    assert world.get("AioVolume", VOL)["blocks_count"] == "4096"


def test_a_block_size_that_is_left_open_is_found(world: World) -> None:
    made = volume(world)
    assert (made["block_size"], made["blocks_count"]) == ("512", "2048")
    assert on_target(world)[:2] == (512, 2048)


@pytest.mark.parametrize("mask", [(), ("*",), ("filename", "block_size", "blocks_count", "uuid")])
@pytest.mark.parametrize("restarted", [False, True], ids=["", "after a restart"])
def test_sizes_that_get_gave_stay_open_when_they_come_back(
    frail: World, mask: tuple[str, ...], restarted: bool
) -> None:
    asked = {"filename": frail.file("file", 2048)}
    frail.make("AioVolume", "vol", asked)
    got = frail.get("AioVolume", VOL)
    if restarted:
        assert isinstance(frail.opi, KeptBridge)
        frail.opi.restart()
    frail.update("AioVolume", got, *mask)
    assert frail.get("AioVolume", VOL) == got
    assert frail.make("AioVolume", "vol", asked) == got, "an equal request"
    smaller = frail.update("AioVolume", {"name": VOL, "filename": frail.file("other", 1024)}, "filename")
    assert smaller["blocks_count"] == "1024"


def test_a_minimum_that_the_file_has_not_is_refused_and_nothing_is_left(world: World) -> None:
    problem = failing(lambda: volume(world, block_size=512, blocks_count=2049))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "aio_volume.blocks_count")
    assert "2049" in problem.message
    assert "2048" in problem.message
    assert world.target.bdev("vol") is None
    assert volume(world, block_size=512, blocks_count=2048)["blocks_count"] == "2048"


def test_a_missing_file_is_named(world: World) -> None:
    missing = str(world.folder / "missing")
    problem = failing(lambda: world.make("AioVolume", "vol", {"filename": missing, "block_size": 512}))
    assert (problem.code, problem.field) == ("NOT_FOUND", "aio_volume.filename")
    assert missing in problem.message
    assert not Path(missing).exists()


def test_a_file_without_a_whole_block_is_refused(world: World) -> None:
    for size in (0, 1):
        file = world.folder / f"of{size}"
        file.write_bytes(bytes(size))
        problem = failing(partial(world.make, "AioVolume", "vol", {"filename": str(file), "block_size": 512}))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "aio_volume.filename")
        assert world.target.bdev("vol") is None


def test_a_file_that_has_grown_is_rescanned_under_its_user(world: World) -> None:
    made = volume(world, block_size=512)
    in_use(world)
    world.file("file", 4096)
    world.quiet()
    answer = world.update("AioVolume", {"name": VOL, "blocks_count": 4096})
    assert answer == {**made, "blocks_count": "4096"}
    assert on_target(world)[:2] == (512, 4096)
    assert set(world.asked()) == ({"bdev_aio_rescan"} if world.target.emulated else set())
    world.file("file", 8192)
    problem = failing(lambda: world.update("AioVolume", {"name": VOL, "blocks_count": 8193}))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "aio_volume.blocks_count")


def test_another_file_waits_until_nothing_stands_on_it(world: World) -> None:
    made = volume(world, block_size=512)
    user = in_use(world)
    other = world.file("other", 1024)
    change = partial(world.update, "AioVolume", {"name": VOL, "filename": other}, "*")
    problem = failing(change)
    assert problem.code == "FAILED_PRECONDITION"
    assert user in problem.message
    assert on_target(world) == (512, 2048, made["filename"])
    world.delete("NvmeNamespace", user)
    answer = change()
    assert (answer["filename"], answer["blocks_count"], answer["uuid"]) == (other, "1024", made["uuid"])
    assert on_target(world) == (512, 1024, other)


def test_a_missing_other_file_leaves_the_volume_as_it_was(world: World) -> None:
    made = volume(world, block_size=512)
    missing = str(world.folder / "missing")
    problem = failing(lambda: world.update("AioVolume", {"name": VOL, "filename": missing}))
    assert (problem.code, problem.field) == ("NOT_FOUND", "aio_volume.filename")
    assert world.get("AioVolume", VOL) == made
    assert on_target(world) == (512, 2048, made["filename"])


def test_what_is_written_is_in_the_file(world: World) -> None:
    made = volume(world, block_size=512)
    block = bytes(range(256)) * 2
    with world.io("vol") as io:
        io.write(3, block)
    assert Path(made["filename"]).read_bytes()[3 * 512 : 4 * 512] == block
    world.delete("AioVolume", VOL)
    assert Path(made["filename"]).read_bytes()[3 * 512 : 4 * 512] == block
