"""NvmeNamespace: its NSID and identities, the swap of its volume, and what becomes of it when the volume goes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.world import NQN, World, failing
from tests.support.bridge import Bridge
from tests.support.target import Emulator, wait_until

SUB = "nvmeSubsystems/sub"
NGUID = "0123456789ABCDEFFEDCBA9876543210"
UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"


@pytest.fixture
def sub(world: World) -> World:
    """With a subsystem and four volumes."""
    world.subsystem()
    for number in range(4):
        world.null_volume(f"v{number}")
    return world


def on_target(world: World) -> dict[int, dict[str, Any]]:
    """The subsystem's namespaces by NSID."""
    found = world.target.subsystem(NQN)
    return {ns["nsid"]: ns for ns in found["namespaces"]} if found is not None else {}


def bdevs(world: World) -> dict[int, str]:
    """The bdev under each NSID."""
    return {nsid: str(ns["bdev_name"]) for nsid, ns in on_target(world).items()}


# NSID


def test_the_first_free_nsid_is_picked_and_told(sub: World) -> None:
    picked = [sub.namespace(f"n{number}", f"v{number}")["spec"]["host_nsid"] for number in range(3)]
    assert picked == [1, 2, 3]
    assert bdevs(sub) == {1: "v0", 2: "v1", 3: "v2"}
    sub.delete("NvmeNamespace", f"{SUB}/nvmeNamespaces/n1")
    assert sub.namespace("n3", "v3", host_nsid=0)["spec"]["host_nsid"] == 2
    assert bdevs(sub) == {1: "v0", 2: "v3", 3: "v2"}


def test_a_picked_nsid_is_kept_when_bridge_and_target_restart(own: Bridge, spdk: Emulator, tmp_path: Path) -> None:
    here = World(own, spdk, tmp_path, lambda: spdk)
    here.subsystem()
    for number in range(3):
        here.null_volume(f"v{number}")
    here.namespace("n0", "v0")
    kept = here.namespace("n1", "v1")
    here.delete("NvmeNamespace", f"{SUB}/nvmeNamespaces/n0")
    spdk.kill()
    own.kill()
    spdk.start()
    own.start()
    wait_until(lambda: bdevs(here) == {2: "v1"}, "the namespace is there again under its NSID")
    assert here.get("NvmeNamespace", kept["name"]) == kept
    assert here.namespace("n1", "v1", host_nsid=17) == kept  # a hint, as the CSI driver draws it anew
    assert here.namespace("n2", "v2")["spec"]["host_nsid"] == 1


def test_an_nsid_that_is_taken_or_out_of_range_is_refused(sub: World) -> None:
    holder = sub.namespace("n0", "v0", host_nsid=5)["name"]
    problem = failing(lambda: sub.namespace("n1", "v1", host_nsid=5))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "nvme_namespace.spec.host_nsid")
    assert holder in problem.message
    for nsid in (33, 2**31 - 1, -1):
        problem = failing(partial(sub.namespace, "n1", "v1", host_nsid=nsid))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_namespace.spec.host_nsid")
    assert bdevs(sub) == {5: "v0"}


def test_an_nsid_that_somebody_else_has_is_refused_saying_so(sub: World) -> None:
    sub.target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "v3", "nsid": 5})
    problem = failing(lambda: sub.namespace("n1", "v1", host_nsid=5))
    assert problem.code == "ALREADY_EXISTS"
    assert "v3" in problem.message
    assert bdevs(sub) == {5: "v3"}


def test_an_nsid_that_somebody_else_has_is_not_picked(sub: World) -> None:
    for nsid in (1, 3):
        sub.target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"v{nsid}", "nsid": nsid})
    assert [sub.namespace(f"n{volume}", volume)["spec"]["host_nsid"] for volume in ("v0", "v2")] == [2, 4]
    assert bdevs(sub) == {1: "v1", 2: "v0", 3: "v3", 4: "v2"}
    sub.delete("NvmeNamespace", f"{SUB}/nvmeNamespaces/nv0")
    assert bdevs(sub) == {1: "v1", 3: "v3", 4: "v2"}


def test_a_subsystem_that_others_filled_is_full(world: World) -> None:
    world.subsystem(max_namespaces="2")
    for number in range(3):
        world.null_volume(f"v{number}")
    world.namespace("n0", "v0")
    world.target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "v1"})
    problem = failing(lambda: world.namespace("n1", "v2"))
    assert problem.code == "RESOURCE_EXHAUSTED"
    assert bdevs(world) == {1: "v0", 2: "v1"}


# Identities


@pytest.mark.parametrize("nguid", [NGUID, NGUID.lower(), "01234567-89ab-cdef-FEDC-ba9876543210"])
@pytest.mark.parametrize("uuid", [UUID, UUID.upper(), UUID.replace("-", "")])
def test_every_spelling_of_nguid_and_uuid_is_one(sub: World, nguid: str, uuid: str) -> None:
    made = sub.namespace("n0", "v0", nguid=nguid, uuid=uuid)
    assert (made["spec"]["nguid"], made["spec"]["uuid"]) == (NGUID, UUID)
    assert (on_target(sub)[1]["nguid"], on_target(sub)[1]["uuid"]) == (NGUID, UUID)
    assert sub.namespace("n0", "v0", nguid=NGUID, uuid=UUID) == made
    assert sub.update("NvmeNamespace", {"name": made["name"], "spec": {"nguid": nguid, "uuid": uuid}}) == made


@pytest.mark.parametrize(("eui64", "seen"), [(1, "0000000000000001"), (-2, "FFFFFFFFFFFFFFFE")])
def test_an_eui64_is_on_the_target(sub: World, eui64: int, seen: str) -> None:
    made = sub.namespace("n0", "v0", eui64=str(eui64))
    assert made["spec"]["eui64"] == str(eui64)
    assert on_target(sub)[1]["eui64"] == seen


def test_identities_are_chosen_where_none_are_given(sub: World) -> None:
    first, second = (sub.namespace(f"n{number}", f"v{number}")["spec"] for number in range(2))
    assert first["nguid"] != second["nguid"]
    assert first["uuid"] == sub.get("NullVolume", "nullVolumes/v0")["uuid"]
    for nsid, spec in ((1, first), (2, second)):
        assert on_target(sub)[nsid]["nguid"] == spec["nguid"]
        assert on_target(sub)[nsid]["uuid"] == spec["uuid"]


# The volume


def test_a_swap_keeps_nsid_and_identities_and_frees_the_old_volume(sub: World) -> None:
    made = sub.namespace("n0", "v0", host_nsid=4, nguid=NGUID)
    before = on_target(sub)[4]
    answer = sub.update("NvmeNamespace", {"name": made["name"], "spec": {"volume_name_ref": "v1"}})
    assert answer["spec"] == {**made["spec"], "volume_name_ref": "v1"}
    assert bdevs(sub) == {4: "v1"}
    assert {**on_target(sub)[4], "name": "", "bdev_name": ""} == {**before, "name": "", "bdev_name": ""}
    sub.delete("NullVolume", "nullVolumes/v0")
    problem = failing(lambda: sub.delete("NullVolume", "nullVolumes/v1"))
    assert problem.code == "FAILED_PRECONDITION"
    assert made["name"] in problem.message


def test_a_swap_to_a_volume_that_another_has_changes_nothing(sub: World) -> None:
    made = sub.namespace("n0", "v0")
    holder = sub.namespace("n1", "v1")["name"]
    attempt = {"name": made["name"], "spec": {"volume_name_ref": "v1"}}
    problem = failing(lambda: sub.update("NvmeNamespace", attempt))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_namespace.spec.volume_name_ref")
    assert holder in problem.message
    assert bdevs(sub) == {1: "v0", 2: "v1"}
    assert sub.get("NvmeNamespace", made["name"]) == made


def test_a_volume_that_is_not_there_is_named(sub: World) -> None:
    problem = failing(lambda: sub.namespace("n0", "nullVolumes/nothing"))
    assert (problem.code, problem.field) == ("NOT_FOUND", "nvme_namespace.spec.volume_name_ref")
    assert "nullVolumes/nothing" in problem.message
    assert bdevs(sub) == {}


def test_a_bdev_that_somebody_else_uses_is_refused_saying_so(sub: World) -> None:
    other = f"{NQN}:theirs"
    sub.target.rpc("nvmf_create_subsystem", nqn=other)
    try:
        sub.target.rpc("nvmf_subsystem_add_ns", nqn=other, namespace={"bdev_name": "v0"})
        problem = failing(lambda: sub.namespace("n0", "v0"))
    finally:
        sub.target.rpc("nvmf_delete_subsystem", nqn=other)
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_namespace.spec.volume_name_ref")
    assert "v0" in problem.message
    assert bdevs(sub) == {}


def test_a_volume_that_was_removed_shows_offline(sub: World) -> None:
    sub.target.rpc("bdev_null_create", name="theirs", num_blocks=2048, block_size=512)
    made = sub.namespace("n0", "theirs")
    assert made["status"] == {"state": "STATE_ENABLED", "oper_state": "OPER_STATE_ONLINE"}
    assert sub.get("NvmeNamespace", made["name"]) == made
    sub.target.rpc("bdev_null_delete", name="theirs")
    wait_until(lambda: bdevs(sub) == {}, "the target has removed the namespace")
    now = sub.get("NvmeNamespace", made["name"])
    assert now["status"] == {"state": "STATE_DISABLED", "oper_state": "OPER_STATE_OFFLINE"}
    assert now["spec"] == made["spec"]
    sub.delete("NvmeNamespace", made["name"])
    assert failing(lambda: sub.get("NvmeNamespace", made["name"])).code == "NOT_FOUND"
