"""NvmeRemoteController: what its paths have in common, Reset, and the namespaces behind it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import FAR_NQN, HOST_NQN, OTHER_PSK, PSK, World, failing, psk

ARRAY = "nvmeRemoteControllers/array"


def attachment(world: World) -> dict[str, Any]:
    """The parameters with which the target attached the array, as it would save them."""
    config = world.target.rpc("framework_get_config", name="bdev")
    (found,) = [call["params"] for call in config if call["method"] == "bdev_nvme_attach_controller"]
    return dict(found)


def keys(world: World) -> list[str]:
    """The files of the keys on the target."""
    return [key["path"] for key in world.target.rpc("keyring_get_keys") if not key.get("removed")]


def secure_array(world: World) -> None:
    """The array admits one host with one key, over TLS, at the first port."""
    file = world.folder / "array.psk"
    file.write_text(PSK)
    file.chmod(0o600)
    far = world.far
    far.rpc("keyring_file_add_key", name="array", path=str(file))
    far.rpc("nvmf_create_subsystem", nqn=FAR_NQN, serial_number="FAR")
    far.rpc("nvmf_subsystem_add_host", nqn=FAR_NQN, host=HOST_NQN, psk="array")
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(world.ports[0])}
    far.rpc("nvmf_subsystem_add_listener", nqn=FAR_NQN, listen_address=address, secure_channel=True)


# What the paths have in common


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"io_queues_count": 3}, {"num_io_queues": 3}),
        ({"tcp": {"hdgst": True}}, {"hdgst": True, "ddgst": False}),
        ({"tcp": {"ddgst": True}}, {"hdgst": False, "ddgst": True}),
    ],
)
def test_queues_and_digests_reach_the_target_with_the_path(
    world: World, given: dict[str, Any], seen: dict[str, Any]
) -> None:
    world.array()
    world.remote_controller()
    world.update("NvmeRemoteController", {"name": ARRAY, **given})
    world.path("p0", world.ports[0])
    found = attachment(world)
    assert {name: found.get(name, False) for name in seen} == seen


def test_it_is_not_changed_under_its_paths(world: World) -> None:
    world.array()
    made = world.remote_controller()
    path = world.path("p0", world.ports[0])["name"]
    for change in ({"io_queues_count": 3}, {"multipath": "NVME_MULTIPATH_FAILOVER"}, {"tcp": {"hdgst": True}}):
        problem = failing(partial(world.update, "NvmeRemoteController", {"name": ARRAY, **change}))
        assert problem.code == "FAILED_PRECONDITION"
        assert path in problem.message
    assert world.get("NvmeRemoteController", ARRAY) == made
    assert world.update("NvmeRemoteController", {"name": ARRAY, "queue_size": 64})["queue_size"] == "64"


def test_with_its_key_it_gets_into_an_array_that_demands_tls(world: World, shared_bridge: KeptBridge) -> None:
    secure_array(world)
    made = world.remote_controller(tcp={"psk": psk(OTHER_PSK)})
    assert "psk" not in made.get("tcp", {})
    problem = failing(lambda: world.path("p0", world.ports[0], hostnqn=HOST_NQN))
    assert problem.code == "UNAVAILABLE"
    assert world.target.remote_controller("array") is None
    world.update("NvmeRemoteController", {"name": ARRAY, "tcp": {"psk": psk()}}, "tcp.psk")
    (file,) = keys(world)
    assert Path(file).read_text() == PSK
    assert Path(file).stat().st_mode & 0o777 == 0o600
    world.path("p0", world.ports[0], hostnqn=HOST_NQN)
    assert world.target.remote_controller("array") is not None
    assert attachment(world)["psk"] == Path(file).name
    world.clear()
    assert world.target.rpc("keyring_get_keys") == []
    assert list((shared_bridge.shared / "keys").iterdir()) == []


def test_white_space_around_its_key_is_no_part_of_it(world: World) -> None:
    secure_array(world)
    made = world.remote_controller(tcp={"psk": psk(f"{PSK}\n")})
    (file,) = keys(world)
    assert Path(file).read_text() == PSK
    assert world.remote_controller(tcp={"psk": psk()}) == made
    world.path("p0", world.ports[0], hostnqn=HOST_NQN)
    problem = failing(lambda: world.remote_controller("other", tcp={"psk": psk("\n")}))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_remote_controller.tcp.psk")


def test_it_is_not_deleted_under_its_paths(world: World) -> None:
    world.array()
    world.remote_controller()
    path = world.path("p0", world.ports[0])["name"]
    for allow_missing in (False, True):
        problem = failing(partial(world.delete, "NvmeRemoteController", ARRAY, allow_missing=allow_missing))
        assert problem.code == "FAILED_PRECONDITION"
        assert path in problem.message
    assert world.target.remote_controller("array") is not None
    world.delete("NvmePath", path)
    assert world.target.remote_controller("array") is None
    world.delete("NvmeRemoteController", ARRAY)


def test_somebody_elses_controller_of_that_name_is_left_alone(world: World) -> None:
    world.array()
    address = {"traddr": "127.0.0.1", "trsvcid": str(world.ports[0]), "trtype": "TCP", "adrfam": "IPv4"}
    world.target.rpc("bdev_nvme_attach_controller", name="array", subnqn=FAR_NQN, **address)
    try:
        world.remote_controller()
        problem = failing(lambda: world.path("p0", world.ports[0]))
        assert problem.code == "ALREADY_EXISTS"
        assert "array" in problem.message
        assert world.target.remote_controller("array") is not None
    finally:
        world.target.rpc("bdev_nvme_detach_controller", name="array")


# Reset


def test_reset_connects_anew(world: World) -> None:
    world.array()
    world.remote_controller()
    world.path("p0", world.ports[0])
    before = world.target.remote_controller("array")
    world.opi.call("ResetNvmeRemoteController", {"name": ARRAY})
    after = world.target.remote_controller("array")
    assert before is not None
    assert after is not None
    assert after["ctrlrs"][0]["cntlid"] != before["ctrlrs"][0]["cntlid"]
    assert after["ctrlrs"][0]["trid"] == before["ctrlrs"][0]["trid"]


def test_reset_without_paths_succeeds_and_without_the_controller_not(world: World) -> None:
    world.remote_controller()
    assert world.opi.call("ResetNvmeRemoteController", {"name": ARRAY}) == {}
    problem = failing(lambda: world.opi.call("ResetNvmeRemoteController", {"name": f"{ARRAY}-missing"}))
    assert problem.code == "NOT_FOUND"
    assert f"{ARRAY}-missing" in problem.message


def test_a_reset_that_fails_says_why(frail: World) -> None:
    frail.array()
    frail.remote_controller()
    frail.path("p0", frail.ports[0])
    fault = {"action": "error", "code": -5, "message": "Input/output error"}
    frail.target.rpc("emulator_inject_fault", method="bdev_nvme_reset_controller", count=1, **fault)
    problem = failing(lambda: frail.opi.call("ResetNvmeRemoteController", {"name": ARRAY}))
    assert problem.code == "ABORTED"
    assert "Input/output error" in problem.message


# Remote namespaces


@pytest.fixture
def attached(world: World) -> World:
    """With an array of five namespaces attached."""
    world.array(namespaces=5)
    world.remote_controller()
    world.path("p0", world.ports[0])
    return world


def remote(nsid: int) -> str:
    """The name of a remote namespace."""
    return f"{ARRAY}/nvmeRemoteNamespaces/{nsid}"


def page(world: World, size: int = 0, token: str = "") -> tuple[list[dict[str, Any]], str]:
    """A page of them, and the next one's token."""
    request = {"parent": ARRAY, "page_size": size, "page_token": token}
    answer = world.opi.call("ListNvmeRemoteNamespaces", request)
    return answer.get("nvme_remote_namespaces", []), answer.get("next_page_token", "")


def test_get_tells_each_namespaces_identities(attached: World) -> None:
    far = attached.far.subsystem(FAR_NQN)
    assert far is not None
    for namespace in far["namespaces"]:
        nsid = namespace["nsid"]
        assert attached.get("NvmeRemoteNamespace", remote(nsid)) == {
            "name": remote(nsid),
            "nsid": nsid,
            "nguid": namespace["nguid"],
            "eui64": str(int(namespace["eui64"], 16)),
            "uuid": namespace["uuid"],
        }


def test_list_pages_through_them_by_nsid(attached: World) -> None:
    pages, token = [], ""
    while True:
        items, token = page(attached, 2, token)
        pages.append([item["nsid"] for item in items])
        if not token:
            break
    assert pages == [[1, 2], [3, 4], [5]]
    assert page(attached)[0] == [attached.get("NvmeRemoteNamespace", remote(nsid)) for nsid in range(1, 6)]


def test_list_follows_the_array(attached: World) -> None:
    first, token = page(attached, 2)
    attached.far.rpc("nvmf_subsystem_remove_ns", nqn=FAR_NQN, nsid=3)
    attached.opi.call("ResetNvmeRemoteController", {"name": ARRAY})
    rest, end = page(attached, 5, token)
    assert [item["nsid"] for item in first + rest] == [1, 2, 4, 5]
    assert end == ""
    assert failing(lambda: attached.get("NvmeRemoteNamespace", remote(3))).code == "NOT_FOUND"


def test_what_is_no_remote_namespace_is_not_found(attached: World) -> None:
    for name in (remote(9), f"{ARRAY}/nvmeRemoteNamespaces/x", remote(1).replace("array", "missing")):
        problem = failing(partial(attached.get, "NvmeRemoteNamespace", name))
        assert problem.code == "NOT_FOUND"
        assert "nvmeRemoteControllers/" in problem.message
    problem = failing(lambda: attached.opi.call("ListNvmeRemoteNamespaces", {"parent": f"{ARRAY}-missing"}))
    assert problem.code == "NOT_FOUND"
    for field, value in (("page_size", -1), ("page_token", "nonsense")):
        request = {"parent": ARRAY, field: value}
        problem = failing(partial(attached.opi.call, "ListNvmeRemoteNamespaces", request))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", field)


def test_without_paths_there_are_none(world: World) -> None:
    world.remote_controller()
    assert page(world) == ([], "")
    assert failing(lambda: world.get("NvmeRemoteNamespace", remote(1))).code == "NOT_FOUND"


# Counters


def test_without_paths_its_counters_are_zero(world: World) -> None:
    world.remote_controller()
    assert world.stats("NvmeRemoteController", ARRAY) == {}


def test_its_counters_are_the_sum_of_its_volumes(attached: World) -> None:
    before = attached.stats("NvmeRemoteController", ARRAY)
    for nsid in (1, 2):
        with attached.io(f"arrayn{nsid}") as io:
            io.run(writes=nsid)
    after = attached.stats("NvmeRemoteController", ARRAY)
    assert after["write_ops_count"] - before.get("write_ops_count", 0) == 3
    assert after["write_bytes_count"] - before.get("write_bytes_count", 0) == 3 * 512
