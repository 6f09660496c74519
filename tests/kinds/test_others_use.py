"""A bdev of the bridge that somebody else on the target has open is not deleted, nor made anew, under them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import NQN, World, failing, path_to
from tests.support.target import wait_until

THEIR_NQN = f"{NQN}:theirs"
ARRAY = "nvmeRemoteControllers/array"


@dataclass(frozen=True)
class Made:
    """A resource, its bdev, and the update that would make the bdev anew where one does."""

    noun: str
    name: str
    bdev: str
    rebuild: dict[str, Any]


def _malloc(world: World) -> Made:
    world.malloc_volume("vol")
    return Made("MallocVolume", "mallocVolumes/vol", "vol", {})


def _null(world: World) -> Made:
    world.null_volume("vol")
    return Made("NullVolume", "nullVolumes/vol", "vol", {"block_size": 4096})


def _aio(world: World) -> Made:
    world.make("AioVolume", "vol", {"filename": world.file("file", 2048), "block_size": 512})
    return Made("AioVolume", "aioVolumes/vol", "vol", {"filename": world.file("other", 1024)})


def _encrypted(world: World) -> Made:
    world.malloc_volume("base")
    key, other = (base64.b64encode(bytes(range(start, start + 32))).decode() for start in (0, 100))
    wanted = {"volume_name_ref": "base", "key": key, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    world.make("EncryptedVolume", "vol", wanted)
    return Made("EncryptedVolume", "encryptedVolumes/vol", "vol", {"key": other})


def _only_path(world: World) -> Made:
    world.array(listeners=2)
    world.remote_controller(multipath="NVME_MULTIPATH_DISABLE")
    world.path("p0", world.ports[0])
    return Made("NvmePath", f"{ARRAY}/nvmePaths/p0", "arrayn1", path_to(world.ports[1]))


def _last_path(world: World) -> Made:
    """Of two that the bridge knows: the other has been lost by the target."""
    world.array(listeners=2)
    world.remote_controller()
    world.path("p0", world.ports[0])
    world.path("p1", world.ports[1])
    gone = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(world.ports[1])}
    subnqn = path_to(0)["fabrics"]["subnqn"]
    world.target.rpc("bdev_nvme_detach_controller", name="array", subnqn=subnqn, **gone)
    return Made("NvmePath", f"{ARRAY}/nvmePaths/p0", "arrayn1", {})


def _made_by(*makers: Callable[[World], Made]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", makers, ids=[make.__name__.strip("_") for make in makers])


MADE = _made_by(_malloc, _null, _aio, _encrypted, _only_path, _last_path)
MADE_ANEW = _made_by(_null, _aio, _encrypted, _only_path)


@contextmanager
def _namespace(world: World, bdev: str) -> Iterator[str]:
    world.foreign.add(THEIR_NQN)
    world.target.rpc("nvmf_create_subsystem", nqn=THEIR_NQN, allow_any_host=True)
    world.target.rpc("nvmf_subsystem_add_ns", nqn=THEIR_NQN, namespace={"bdev_name": bdev})
    yield "exclusive_write"
    world.target.rpc("nvmf_delete_subsystem", nqn=THEIR_NQN)


@contextmanager
def _vbdev(world: World, bdev: str) -> Iterator[str]:
    world.foreign |= {"theirs", "their-key"}
    halves = {"key": "00" * 16, "key2": "11" * 16}
    world.target.rpc("accel_crypto_key_create", name="their-key", cipher="AES_XTS", **halves)
    world.target.rpc("bdev_crypto_create", name="theirs", base_bdev_name=bdev, key_name="their-key")
    yield "exclusive_write"
    world.target.rpc("bdev_crypto_delete", name="theirs")
    world.target.rpc("accel_crypto_key_destroy", key_name="their-key")


@contextmanager
def _vhost_blk(world: World, bdev: str) -> Iterator[str]:
    world.foreign.add("their-blk")
    world.target.rpc("vhost_create_blk_controller", ctrlr="their-blk", dev_name=bdev)
    yield "their-blk"
    world.target.rpc("vhost_delete_controller", ctrlr="their-blk")


@contextmanager
def _vhost_scsi(world: World, bdev: str) -> Iterator[str]:
    world.foreign.add("their-scsi")
    world.target.rpc("vhost_create_scsi_controller", ctrlr="their-scsi")
    world.target.rpc("vhost_scsi_controller_add_target", ctrlr="their-scsi", scsi_target_num=3, bdev_name=bdev)
    yield "their-scsi"
    world.target.rpc("vhost_delete_controller", ctrlr="their-scsi")


Use = Callable[[World, str], Any]
USES = pytest.mark.parametrize(
    "use", [_namespace, _vbdev, _vhost_blk, _vhost_scsi], ids=lambda use: use.__wrapped__.__name__.strip("_")
)


def log(world: World) -> str:
    """What the bridge has printed."""
    assert isinstance(world.opi, KeptBridge)
    return world.opi.log


def standing(world: World) -> list[Any]:
    """What is on the target, as far as it can be hot-removed."""
    shown = [world.target.rpc(f"{family}_get_{what}") for family, what in (("bdev", "bdevs"), ("vhost", "controllers"))]
    return [*shown, world.target.rpc("nvmf_get_subsystems"), connections(world)]


def connections(world: World) -> list[tuple[str, list[str]]]:
    """The remote controllers and the ports they are connected to."""
    found = world.target.rpc("bdev_nvme_get_controllers")
    return [(each["name"], [path["trid"]["trsvcid"] for path in each["ctrlrs"]]) for each in found]


@MADE
@USES
def test_what_another_uses_is_not_deleted(world: World, make: Callable[[World], Made], use: Use) -> None:
    made = make(world)
    with use(world, made.bdev) as said:
        before = standing(world)
        world.quiet()
        problem = failing(lambda: world.delete(made.noun, made.name))
        assert problem.code == "FAILED_PRECONDITION"
        assert made.bdev in problem.message
        assert said in problem.message
        assert world.asked() == []
        assert standing(world) == before
        assert world.get(made.noun, made.name)
    world.delete(made.noun, made.name)


@MADE_ANEW
@USES
def test_what_another_uses_is_not_made_anew(world: World, make: Callable[[World], Made], use: Use) -> None:
    made = make(world)
    resource = world.get(made.noun, made.name)
    with use(world, made.bdev) as said:
        before = standing(world)
        world.quiet()
        change = partial(world.update, made.noun, {"name": made.name, **made.rebuild})
        problem = failing(change)
        assert problem.code == "FAILED_PRECONDITION"
        assert said in problem.message
        assert world.asked() == []
        assert standing(world) == before
        assert world.get(made.noun, made.name) == resource
    change()


def test_drift_of_what_another_uses_is_left(frail: World) -> None:
    uuid = frail.null_volume("vol")["uuid"]
    frail.target.rpc("bdev_null_delete", name="vol")
    frail.target.rpc("bdev_null_create", name="vol", num_blocks=4096, block_size=512, uuid=uuid)
    with _namespace(frail, "vol"):
        before = standing(frail)
        wait_until(lambda: "nullVolumes/vol cannot be brought" in log(frail), "the bridge has looked")
        assert standing(frail) == before


def test_a_delete_of_unknown_outcome_is_given_up_where_another_uses_the_bdev(frail: World) -> None:
    """The client was not told: the resource is wholly there, and stays so."""
    frail.null_volume("vol")
    with _namespace(frail, "vol"):
        frail.target.rpc("emulator_inject_fault", method="bdev_get_bdevs", action="drop", count=1)
        assert failing(lambda: frail.delete("NullVolume", "nullVolumes/vol")).code == "UNAVAILABLE"
        wait_until(lambda: "its deletion is refused and given up" in log(frail), "the bridge has given it up")
    assert frail.get("NullVolume", "nullVolumes/vol")["blocks_count"] == "2048"
    assert frail.target.bdev("vol") is not None
    frail.delete("NullVolume", "nullVolumes/vol")
