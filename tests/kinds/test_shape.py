"""The shape of volumes: what no host could use is refused where it is made, or is to be shown, for its reason."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kinds.world import World, failing, pci

Show = Callable[[World, str], Any]


def _namespace(world: World, volume: str) -> Any:
    world.update("NvmeSubsystem", {"name": "nvmeSubsystems/sub", "spec": {"nqn": "nqn.2022-09.io.spdk:x"}},
                 allow_missing=True)  # fmt: skip
    return world.namespace("n0", volume)


def _blk(world: World, volume: str) -> Any:
    return world.make("VirtioBlk", "blk", {"volume_name_ref": volume, "pcie_id": pci(1)})


def _lun(world: World, volume: str) -> Any:
    world.update("VirtioScsiTarget", {"name": "virtioScsiTargets/tgt"}, allow_missing=True)
    return world.make("VirtioScsiLun", "lun", {"volume_name_ref": volume, "target_name_ref": "tgt"})


def _encrypted(world: World, volume: str) -> Any:
    key = base64.b64encode(bytes(range(32))).decode()
    wanted = {"volume_name_ref": volume, "key": key, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    return world.make("EncryptedVolume", "enc", wanted)


SHOWN = pytest.mark.parametrize(
    "show", [_namespace, _blk, _lun, _encrypted], ids=["NvmeNamespace", "VirtioBlk", "VirtioScsiLun", "EncryptedVolume"]
)


@contextmanager
def theirs(world: World, **shape: Any) -> Iterator[str]:
    """A bdev of somebody else's."""
    world.foreign.add("theirs")
    world.target.rpc("bdev_malloc_create", name="theirs", num_blocks=2048, **shape)
    yield "theirs"
    world.clear()
    world.target.rpc("bdev_malloc_delete", name="theirs")


@pytest.mark.parametrize("noun", ["MallocVolume", "NullVolume", "AioVolume"])
@pytest.mark.parametrize("block_size", [256, 520, 1536, 2560, 3584, 131072, 2**31])
def test_blocks_that_no_host_can_use_are_not_made(world: World, noun: str, block_size: int) -> None:
    world.quiet()
    size = {"filename": world.file("file", 8)} if noun == "AioVolume" else {"blocks_count": 16}
    problem = failing(lambda: world.make(noun, "vol", {"block_size": block_size, **size}))
    assert problem.code == "INVALID_ARGUMENT"
    assert problem.field.endswith(".block_size")
    assert world.asked() == []


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096, 8192, 65536])
def test_powers_of_two_are_made(world: World, block_size: int) -> None:
    world.make("MallocVolume", "vol", {"block_size": block_size, "blocks_count": 16})
    assert _namespace(world, "vol")


@pytest.mark.parametrize("metadata_size", [8, 128])
def test_more_bytes_than_the_target_can_count_are_refused(world: World, metadata_size: int) -> None:
    """It would count them modulo 2^64, and give a small piece of memory out for an enormous volume."""
    world.quiet()
    wanted = {"block_size": 512, "metadata_size": metadata_size, "blocks_count": 2**64 // (512 + metadata_size) + 1}
    problem = failing(lambda: world.make("MallocVolume", "vol", wanted))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "malloc_volume.blocks_count")
    assert world.asked() == []


@SHOWN
@pytest.mark.parametrize(
    ("shape", "why"),
    [({"block_size": 1536}, "1536"), ({"block_size": 512, "md_size": 128, "md_interleave": True}, "128")],
    ids=["1536", "512 + 128"],
)
def test_anothers_bdev_that_no_host_can_use_is_not_shown(world: World, show: Show, shape: Any, why: str) -> None:
    with theirs(world, **shape) as bdev:
        problem = failing(lambda: show(world, bdev))
        assert problem.code == "FAILED_PRECONDITION"
        assert problem.field.endswith("volume_name_ref")
        assert why in problem.message
        found = world.target.bdev(bdev)
        assert found is not None
        assert not found["claimed"]


@SHOWN
@pytest.mark.parametrize("metadata_size", [8, 64, 128])
def test_metadata_is_for_namespaces_of_at_most_64_bytes(world: World, show: Show, metadata_size: int) -> None:
    world.malloc_volume("vol", metadata_size=metadata_size)
    if show is _namespace and metadata_size <= 64:
        show(world, "vol")
        return
    problem = failing(lambda: show(world, "vol"))
    assert problem.code == "FAILED_PRECONDITION"
    assert problem.field.endswith("volume_name_ref")
    assert f"{metadata_size} bytes of metadata" in problem.message


@pytest.mark.parametrize("block_size", [512, 4096])
def test_anothers_extended_blocks_can_be_a_namespace(world: World, block_size: int) -> None:
    with theirs(world, block_size=block_size, md_size=8, md_interleave=True) as bdev:
        found = world.target.bdev(bdev)
        assert found is not None
        assert found["block_size"] == block_size + 8
        assert _namespace(world, bdev)


@pytest.mark.parametrize(("show", "taken"), [(_namespace, False), (_blk, True), (_lun, True), (_encrypted, True)])
def test_metadata_that_is_kept_apart_matters_to_namespaces_alone(world: World, show: Show, taken: bool) -> None:
    with theirs(world, block_size=512, md_size=8, md_interleave=False) as bdev:
        if taken:
            show(world, bdev)
        else:
            assert failing(lambda: show(world, bdev)).code == "FAILED_PRECONDITION"


def test_what_is_shown_already_can_be_updated(world: World) -> None:
    world.malloc_volume("vol")
    made = _blk(world, "vol")
    world.malloc_volume("md", metadata_size=8)
    assert world.update("VirtioBlk", {**made, "max_io_qps": 5})
    problem = failing(lambda: world.update("VirtioBlk", {"name": made["name"], "volume_name_ref": "md"}))
    assert problem.code == "FAILED_PRECONDITION"
    found = world.target.vhost("blk")
    assert found is not None
    assert found["backend_specific"]["block"]["bdev"] == "vol"
