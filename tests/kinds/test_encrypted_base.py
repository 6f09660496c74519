"""EncryptedVolume whose base is taken away and comes back: the target keeps the vbdev's entry, and the key with it.

A target that finds the key freed when the base comes back dies; so does the emulator.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.test_encrypted_volume import AES128, ENC, KEY32, OTHER, b64
from tests.kinds.world import World, failing, free_ports
from tests.support.bridge import CallError
from tests.support.target import Emulator, emulator, real_target, wait_until

UUIDS = {"base": "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11", "other": "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c12"}


@pytest.fixture(scope="module")
def watchful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, KeptBridge]]:
    """An emulator, and a bridge on it that looks at it all the time."""
    if real_target("SPDK"):
        pytest.skip("needs a target that can be killed and disturbed: an emulated one")
    folder = tmp_path_factory.mktemp("watchful")
    with (
        emulator(folder) as own,
        KeptBridge(folder, spdk=own.socket, connect_grace_s=5, sweep_interval_s=0.2, notifications_s=0.05) as daemon,
    ):
        yield own, daemon


@pytest.fixture
def world(watchful: tuple[Emulator, KeptBridge], tmp_path: Path) -> Iterator[World]:
    """With two bdevs of somebody else's, and an encrypted volume over the first."""
    own, daemon = watchful
    here = World(daemon, own, tmp_path, lambda: own, free_ports(1))
    for name in UUIDS:
        arrive(here, name)
    encrypted(here)
    yield here
    own.rpc("emulator_clear_faults")
    here.clear()
    for name in UUIDS:
        arrive(here, name)
    wait_until(lambda: nothing_left(here), "whatever was owed has been done")
    for name in UUIDS:
        own.rpc("bdev_null_delete", name=name)
    assert here.leftovers() == {}
    assert here.target.rpc("bdev_get_bdevs") == []


def encrypted(world: World, base: str = "base", key: bytes = KEY32) -> dict[str, Any]:
    return world.make("EncryptedVolume", "enc", {"volume_name_ref": base, "key": b64(key), "cipher": AES128})


def arrive(world: World, name: str) -> None:
    """The bdev is (again) there."""
    world.foreign.add(name)
    if world.target.bdev(name) is None:
        world.target.rpc("bdev_null_create", name=name, num_blocks=2048, block_size=512, uuid=UUIDS[name])


def go(world: World, name: str = "base") -> None:
    """The bdev is taken away, and what stands on it."""
    world.target.rpc("bdev_null_delete", name=name)


def keys(world: World) -> list[str]:
    return [key["name"] for key in world.target.rpc("accel_crypto_keys_get")]


def nothing_left(world: World) -> bool:
    return not keys(world) and world.target.bdev("enc") is None


def base_of(world: World) -> str | None:
    """What the vbdev stands on; None where there is no vbdev."""
    found = world.target.bdev("enc")
    return str(found["driver_specific"]["crypto"]["base_bdev_name"]) if found is not None else None


def test_a_key_stays_until_its_vbdev_could_be_deleted(world: World) -> None:
    go(world)
    world.delete("EncryptedVolume", ENC)
    assert failing(lambda: world.get("EncryptedVolume", ENC)).code == "NOT_FOUND"
    assert len(keys(world)) == 1
    assert world.target.bdev("enc") is None
    arrive(world, "base")
    wait_until(lambda: nothing_left(world), "vbdev and key are gone")
    go(world)
    arrive(world, "base")
    assert world.target.bdev("enc") is None, "the target keeps no entry of it"


def test_what_is_owed_survives_the_bridge(world: World, watchful: tuple[Emulator, KeptBridge]) -> None:
    _, daemon = watchful
    go(world)
    world.delete("EncryptedVolume", ENC)
    daemon.stop()
    arrive(world, "base")
    assert base_of(world) == "base", "the target built it again"
    daemon.start()
    wait_until(lambda: nothing_left(world), "vbdev and key are gone")


def test_nothing_is_owed_to_a_target_that_was_restarted(world: World, watchful: tuple[Emulator, KeptBridge]) -> None:
    own, daemon = watchful
    go(world)
    world.delete("EncryptedVolume", ENC)
    own.kill()
    own.start()
    world.reconnected()
    for name in UUIDS:
        arrive(world, name)
    wait_until(lambda: encrypted(world) is not None, "the volume can be made again")
    daemon.restart()
    assert base_of(world) == "base"


def test_a_key_goes_at_once_with_a_vbdev_that_somebody_deleted(world: World) -> None:
    """Then there is no entry, though the vbdev is as absent as if its base had gone."""
    with contextlib.suppress(CallError):
        world.target.rpc("bdev_crypto_delete", name="enc")
        world.delete("EncryptedVolume", ENC)
    assert nothing_left(world)


def test_its_name_is_refused_with_the_true_cause_while_the_target_keeps_it(world: World) -> None:
    go(world)
    world.delete("EncryptedVolume", ENC)
    problem = failing(lambda: encrypted(world, "other"))
    assert problem.code == "FAILED_PRECONDITION"
    assert "enc" in problem.message
    assert "(base)" in problem.message
    assert len(keys(world)) == 1, "the key of the refused one is gone, the owed one stays"
    arrive(world, "base")
    wait_until(lambda: nothing_left(world), "vbdev and key are gone")
    encrypted(world, "other")
    assert base_of(world) == "other"


@pytest.mark.parametrize("wanted", [{"key": b64(OTHER)}, {"volume_name_ref": "other"}], ids=["key", "base"])
def test_it_cannot_be_rebuilt_while_its_base_is_away(world: World, wanted: dict[str, str]) -> None:
    before = keys(world)
    go(world)
    problem = failing(lambda: world.update("EncryptedVolume", {"name": ENC, **wanted}))
    assert problem.code == ("NOT_FOUND" if "key" in wanted else "FAILED_PRECONDITION")
    assert "base" in problem.message
    assert keys(world) == before
    arrive(world, "base")
    assert base_of(world) == "base"
    world.update("EncryptedVolume", {"name": ENC, **wanted})
    assert base_of(world) == wanted.get("volume_name_ref", "base")
    assert len(keys(world)) == 1
    assert keys(world) != before


def test_a_base_that_goes_while_the_vbdev_is_made_leaves_an_entry_too(world: World) -> None:
    world.delete("EncryptedVolume", ENC)
    world.target.rpc(
        "emulator_inject_fault", method="bdev_get_bdevs", action="delay", delay_ms=200, count=1, when="after"
    )
    go(world)
    with contextlib.suppress(CallError):
        encrypted(world)
    world.delete("EncryptedVolume", ENC, allow_missing=True)
    arrive(world, "base")
    wait_until(lambda: nothing_left(world), "vbdev and key are gone")


def test_a_base_of_the_bridges_own_comes_back_by_itself(world: World) -> None:
    world.delete("EncryptedVolume", ENC)
    world.malloc_volume("mine")
    encrypted(world, "mine")
    world.target.rpc("emulator_inject_fault", method="bdev_malloc_create", action="error")
    world.target.rpc("bdev_malloc_delete", name="mine")
    world.delete("EncryptedVolume", ENC)
    assert len(keys(world)) == 1
    world.target.rpc("emulator_clear_faults")
    wait_until(lambda: nothing_left(world), "the base was restored, and vbdev and key are gone")
    world.subsystem()
    assert world.namespace("n0", "mine")


def test_a_stand_in_that_was_left_behind_is_taken_away(world: World) -> None:
    """It has the place of the vbdev for a moment, to find out whether the target keeps the name."""
    go(world)
    world.target.rpc("emulator_inject_fault", method="bdev_null_delete", action="drop", count=1)
    assert failing(lambda: world.delete("EncryptedVolume", ENC)).code == "UNAVAILABLE"
    wait_until(lambda: world.target.bdev("enc") is None, "the stand-in is gone")
    assert len(keys(world)) == 1
    arrive(world, "base")
    wait_until(lambda: nothing_left(world), "vbdev and key are gone")


_METHODS = (
    "bdev_get_bdevs", "vhost_get_controllers", "bdev_crypto_delete", "accel_crypto_key_destroy",
    "accel_crypto_key_create", "bdev_crypto_create", "accel_crypto_keys_get", "bdev_null_create", "bdev_null_delete",
)  # fmt: skip
_CHANGES = ("delete", "another key", "another base")


def change(world: World, title: str) -> None:
    if title == "delete":
        world.delete("EncryptedVolume", ENC, allow_missing=True)
    else:
        wanted = {"key": b64(OTHER)} if title == "another key" else {"volume_name_ref": "other"}
        world.update("EncryptedVolume", {"name": ENC, **wanted})


@pytest.mark.parametrize("away", ["before", "meanwhile", "afterwards"])
@pytest.mark.parametrize(("action", "when"), [("drop", "before"), ("drop", "after"), ("error", "before")])
@pytest.mark.parametrize(("title", "method"), list(itertools.product(_CHANGES, _METHODS)))
def test_the_target_outlives_every_order(
    world: World, title: str, method: str, action: str, when: str, away: str
) -> None:
    """A change is disturbed at one of its calls; the base goes before, during or after it, and comes back."""
    if away == "before":
        go(world)
    delay = {"method": "bdev_get_bdevs", "action": "delay", "delay_ms": 50, "count": 1, "when": "after"}
    if away == "meanwhile":
        world.target.rpc("emulator_inject_fault", **delay)
    world.target.rpc("emulator_inject_fault", method=method, action=action, when=when, count=1)
    with contextlib.suppress(CallError):
        change(world, title)
    world.target.rpc("emulator_clear_faults")
    if away != "before" and world.target.bdev("base") is not None:
        go(world)
    wait_until(lambda: (world.target.bdev("enc") or {}).get("product_name") != "Null disk", "no stand-in is left")
    for _ in range(2):
        arrive(world, "base")
        go(world)
    arrive(world, "base")
    wait_until(lambda: settled(world), "volume and target agree")


def settled(world: World) -> bool:
    """Whether there is one key, in the vbdev, and a resource for it; or none of the three."""
    found, left = world.target.bdev("enc"), keys(world)
    try:
        resource = world.get("EncryptedVolume", ENC)
    except CallError:
        return found is None and not left
    used = found["driver_specific"].get("crypto") if found is not None else None
    return used is not None and [used["key_name"]] == left and used["base_bdev_name"] == resource["volume_name_ref"]
