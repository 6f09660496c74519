"""NvmeSubsystem: its names, the host that may connect, and that host's TLS key."""

from __future__ import annotations

import re
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import FAR_NQN, HOST_NQN, NQN, OTHER_PSK, PSK, World, failing, gets_in, path_to, pci, psk
from tests.support.bridge import Bridge
from tests.support.target import Emulator, Target

SUB = "nvmeSubsystems/sub"
OTHER_HOST = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"


def on_target(world: World, nqn: str = NQN) -> dict[str, Any]:
    """The subsystem there."""
    found = world.target.subsystem(nqn)
    assert found is not None
    return found


def hosts(world: World) -> list[str]:
    """The hosts that may connect; "any" where all may."""
    found = on_target(world)
    return ["any"] if found["allow_any_host"] else [host["nqn"] for host in found["hosts"]]


def change(world: World, mask: str, **spec: Any) -> dict[str, Any]:
    """Updates what the mask names."""
    return world.update("NvmeSubsystem", {"name": SUB, "spec": spec}, mask)


# Names and numbers


@pytest.mark.parametrize(
    "nqn",
    [
        "nqn.2014-08.com.example:nvme.host.sys.xyz",
        "nqn.2022-09.io.spdk-storage.sub-domain:with-hyphens",
        "nqn.2022-09.x:y",
        "nqn.2022-09.io.spdk:" + "x" * 203,
        "nqn.2022-09.io.spdk:é:語",
        "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c",
        "nqn.2014-08.org.nvmexpress:uuid:FEB98ABE-D51F-40C8-B348-2753F3571D3C",
    ],
)
def test_every_form_of_nqn_is_taken_by_the_target(world: World, nqn: str) -> None:
    assert world.subsystem(nqn=nqn)["spec"]["nqn"] == nqn
    assert on_target(world, nqn)["nqn"] == nqn


def test_what_is_no_nqn_is_refused_before_the_target_is_asked(world: World) -> None:
    world.quiet()
    for nqn in (
        "nqn.2022-13.io.spdk:x", "nqn.2022-09.io.spdk", "nqn.2022-09.io.spdk:", "nqn.2022-09.-io:x", "nqn.22-09.io:x",
        "nqn.2022-09.io.spdk:" + "x" * 204, "nqn.2014-08.org.nvmexpress:uuid:feb98abe",
        "nqn.2014-08.org.nvmexpress.discovery",
    ):  # fmt: skip
        problem = failing(partial(world.subsystem, nqn=nqn))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.nqn")
    assert world.asked() == []
    assert world.leftovers() == {}


def test_a_second_subsystem_with_the_same_nqn_is_refused_naming_the_first(world: World) -> None:
    world.subsystem(serial_number="FIRST")
    problem = failing(lambda: world.subsystem("other", serial_number="SECOND"))
    assert problem.code == "ALREADY_EXISTS"
    assert SUB in problem.message
    assert NQN in problem.message
    assert on_target(world)["serial_number"] == "FIRST"
    world.delete("NvmeSubsystem", SUB)
    world.subsystem("other", serial_number="SECOND")
    assert on_target(world)["serial_number"] == "SECOND"


def test_a_subsystem_that_somebody_else_made_is_left_alone(world: World) -> None:
    world.target.rpc("nvmf_create_subsystem", nqn=NQN, serial_number="THEIRS", allow_any_host=True)
    try:
        problem = failing(lambda: world.subsystem(hostnqn=HOST_NQN))
        assert (problem.code, problem.field) == ("ALREADY_EXISTS", "nvme_subsystem.spec.nqn")
        assert NQN in problem.message
        assert hosts(world) == ["any"]
        assert on_target(world)["serial_number"] == "THEIRS"
        assert failing(lambda: world.get("NvmeSubsystem", SUB)).code == "NOT_FOUND"
    finally:
        world.target.rpc("nvmf_delete_subsystem", nqn=NQN)


def test_the_target_has_the_numbers_that_were_asked_for(world: World) -> None:
    world.subsystem(serial_number="S" * 20, model_number="M" * 40, max_namespaces=7)
    found = on_target(world)
    assert (found["serial_number"], found["model_number"], found["max_namespaces"]) == ("S" * 20, "M" * 40, 7)


def test_a_serial_number_is_chosen_where_none_is_given(world: World) -> None:
    made = world.subsystem()
    assert on_target(world)["serial_number"] == made["spec"]["serial_number"]
    assert world.subsystem("other", f"{NQN}:other")["spec"]["serial_number"] != made["spec"]["serial_number"]


@pytest.mark.parametrize(("most", "taken"), [(65_536, True), (65_537, False), (2**32 - 2, False), (2**40, False)])
def test_there_is_a_bound_on_what_the_target_takes_memory_for(world: World, most: int, taken: bool) -> None:
    if taken:
        world.subsystem(max_namespaces=most)
        assert on_target(world)["max_namespaces"] == most
        return
    world.quiet()
    problem = failing(lambda: world.subsystem(max_namespaces=most))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.max_namespaces")
    assert "it must be 0 to 65536: the target takes memory for each namespace that there may be" in problem.message
    assert world.asked() == []


def test_a_full_subsystem_takes_no_further_namespace(world: World) -> None:
    world.subsystem(max_namespaces=1)
    world.null_volume("v0")
    world.null_volume("v1")
    world.namespace("n0", "v0")
    problem = failing(lambda: world.namespace("n1", "v1"))
    assert problem.code == "RESOURCE_EXHAUSTED"
    assert [ns["bdev_name"] for ns in on_target(world)["namespaces"]] == ["v0"]


def test_the_firmware_revision_is_the_targets_version(world: World) -> None:
    version = world.target.rpc("spdk_get_version")["version"]
    shown = world.subsystem()["status"]["firmware_revision"]
    assert re.match(r"SPDK v\d+\.\d+", shown)
    assert shown == version


# The host


def test_without_a_host_any_may_connect_with_one_only_that(world: World) -> None:
    world.subsystem()
    assert hosts(world) == ["any"]
    world.delete("NvmeSubsystem", SUB)
    world.subsystem(hostnqn=HOST_NQN)
    assert hosts(world) == [HOST_NQN]


def test_the_host_changes_in_place(world: World) -> None:
    world.subsystem()
    world.controller("c0", world.ports[0])
    world.null_volume("v0")
    world.namespace("n0", "v0")
    before = on_target(world)
    world.quiet()
    for wanted in (HOST_NQN, OTHER_HOST, ""):
        answer = change(world, "spec.hostnqn", hostnqn=wanted)
        assert answer["spec"].get("hostnqn", "") == wanted
        assert hosts(world) == [wanted or "any"]
    assert on_target(world) == before
    assert not any("listener" in method or "_ns" in method for method in world.asked())


# The key


def test_a_key_needs_its_host(world: World) -> None:
    problem = failing(lambda: world.subsystem(psk=psk()))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.psk")
    world.subsystem(hostnqn=HOST_NQN, psk=psk())
    problem = failing(lambda: change(world, "spec.hostnqn"))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.psk")
    assert hosts(world) == [HOST_NQN]


def test_a_key_that_was_not_copied_whole_is_refused(world: World) -> None:
    for key in (PSK[:-3] + "A=:", PSK.replace("MDAx", "MDAy"), "NVMeTLSkey-1:01:AAAA:", "secret"):
        problem = failing(partial(world.subsystem, hostnqn=HOST_NQN, psk=psk(key)))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.psk")
        assert key not in problem.message
    assert world.leftovers() == {}


@pytest.mark.parametrize(("before", "after"), [("", "\n"), ("", "\r\n"), ("  ", " "), ("\n\t", "\n\n")])
def test_white_space_around_a_key_is_no_part_of_it(world: World, before: str, after: str) -> None:
    """`nvme gen-tls-key` writes a newline after it."""
    spaced = psk(f"{before}{PSK}{after}")
    made = world.subsystem(hostnqn=HOST_NQN, psk=spaced)
    assert key_file(world).read_text() == PSK
    world.controller("c0", world.ports[0])
    assert gets_in(world, world.ports[0], PSK)
    world.quiet()
    assert world.subsystem(hostnqn=HOST_NQN, psk=psk()) == made
    assert world.subsystem(hostnqn=HOST_NQN, psk=spaced) == made
    assert change(world, "spec.psk", psk=psk(f"{PSK}\n")) == made
    assert world.asked() == []


@pytest.mark.parametrize("key", ["\n", " \r\n"])
def test_nothing_but_white_space_is_no_key_and_does_not_clear_one(world: World, key: str) -> None:
    problem = failing(lambda: world.subsystem(hostnqn=HOST_NQN, psk=psk(key)))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.psk")
    world.subsystem(hostnqn=HOST_NQN, psk=psk())
    problem = failing(lambda: change(world, "spec.psk", psk=psk(key)))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "nvme_subsystem.spec.psk")
    assert key_file(world).read_text() == PSK


def keys_of_hosts(world: World) -> list[str | None]:
    """The name of each host's key, as the target would save it."""
    config = world.target.rpc("framework_get_config", name="nvmf")
    return [call["params"].get("psk") for call in config if call["method"] == "nvmf_subsystem_add_host"]


def key_file(world: World) -> Path:
    """The file of the one key on the target."""
    (key,) = [key for key in world.target.rpc("keyring_get_keys") if not key.get("removed")]
    return Path(key["path"])


def test_the_targets_keyring_has_the_key_in_a_file_of_its_own_that_goes_too(
    world: World, shared_bridge: KeptBridge
) -> None:
    world.subsystem(hostnqn=HOST_NQN, psk=psk())
    file = key_file(world)
    assert file.read_text() == PSK
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.parent == shared_bridge.shared / "keys"
    assert keys_of_hosts(world) == [file.name]
    world.delete("NvmeSubsystem", SUB)
    assert list(file.parent.iterdir()) == []
    assert world.target.rpc("keyring_get_keys") == []


def test_another_key_takes_its_place_without_touching_the_listeners(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN, psk=psk())
    world.controller("c0", world.ports[0])
    before = key_file(world)
    world.quiet()
    change(world, "spec.psk", psk=psk(OTHER_PSK))
    after = key_file(world)
    assert after.read_text() == OTHER_PSK
    assert not before.exists()
    assert keys_of_hosts(world) == [after.name]
    assert not any("listener" in method for method in world.asked())
    assert world.listeners() == [("127.0.0.1", str(world.ports[0]), True)]


def test_adding_and_removing_a_key_makes_the_listeners_anew(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN)
    for number in (0, 1):
        world.controller(f"c{number}", world.ports[number])
    ports = sorted(str(port) for port in world.ports[:2])
    for secure, key in ((True, PSK), (False, "")):
        change(world, "spec.psk", psk=psk(key))
        assert world.listeners() == [("127.0.0.1", port, secure) for port in ports]
        for number in (0, 1):
            assert world.get("NvmeController", f"{SUB}/nvmeControllers/c{number}")["status"] == {"active": True}
    assert world.target.rpc("keyring_get_keys") == []


def test_only_a_host_with_the_key_gets_in(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN, psk=psk())
    world.controller("c0", world.ports[0])
    assert gets_in(world, world.ports[0], PSK)
    assert not gets_in(world, world.ports[0], OTHER_PSK)
    change(world, "spec.psk", psk=psk(OTHER_PSK))
    assert gets_in(world, world.ports[0], OTHER_PSK)
    assert not gets_in(world, world.ports[0], PSK)
    change(world, "spec.psk")
    assert gets_in(world, world.ports[0])


# The key and the transport: a target hands a key only to the transports that there are when the host is added


@pytest.fixture
def bare(own: Bridge, spdk: Emulator, far: Target, tmp_path: Path) -> World:
    """A bridge on a target that has no transport yet."""
    assert spdk.rpc("nvmf_get_transports") == []
    return World(own, spdk, tmp_path, lambda: far)


def test_a_host_whose_subsystem_comes_before_the_first_controller_gets_in(bare: World) -> None:
    bare.subsystem(hostnqn=HOST_NQN, psk=psk())
    bare.controller("c0", bare.ports[0])
    assert gets_in(bare, bare.ports[0], PSK)
    assert not gets_in(bare, bare.ports[0], OTHER_PSK)


def test_a_key_that_is_given_before_the_first_controller_gets_its_host_in(bare: World) -> None:
    bare.subsystem(hostnqn=OTHER_HOST)
    change(bare, "spec", nqn=NQN, hostnqn=HOST_NQN, psk=psk(OTHER_PSK))
    change(bare, "spec.psk", psk=psk())
    bare.controller("c0", bare.ports[0])
    assert gets_in(bare, bare.ports[0], PSK)
    assert not gets_in(bare, bare.ports[0], OTHER_PSK)


def test_a_target_that_cannot_make_the_transport_takes_no_key_and_says_why(bare: World) -> None:
    fault = {"action": "error", "method": "nvmf_create_transport", "code": -32603, "message": "no such thing"}
    bare.target.rpc("emulator_inject_fault", **fault)
    problem = failing(lambda: bare.subsystem(hostnqn=HOST_NQN, psk=psk()))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_subsystem.spec.psk")
    assert "TCP transport" in problem.message
    assert "no such thing" in problem.message
    assert bare.leftovers() == {}
    bare.subsystem(hostnqn=HOST_NQN)
    problem = failing(lambda: change(bare, "spec.psk", psk=psk()))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_subsystem.spec.psk")
    assert hosts(bare) == [HOST_NQN]
    assert bare.target.rpc("keyring_get_keys") == []


# Hosts, keys and PCIe


def pcie(world: World) -> dict[str, Any]:
    """A PCIe controller of the subsystem."""
    endpoint = {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(1)}
    return world.make("NvmeController", "pcie", {"spec": endpoint}, SUB)


@pytest.mark.parametrize("more", [{}, {"psk": psk()}], ids=["host", "key"])
def test_a_subsystem_for_one_host_takes_no_pcie_controller(world: World, more: dict[str, Any]) -> None:
    world.subsystem(hostnqn=HOST_NQN, **more)
    problem = failing(lambda: pcie(world))
    assert problem.code == "FAILED_PRECONDITION"
    assert SUB in problem.message
    assert on_target(world)["listen_addresses"] == []


def test_a_subsystem_with_a_pcie_controller_takes_no_host(world: World) -> None:
    world.subsystem()
    name = pcie(world)["name"]
    for mask, spec in (("spec.hostnqn", {"hostnqn": HOST_NQN}), ("spec", {"hostnqn": HOST_NQN, "psk": psk()})):
        problem = failing(lambda mask=mask, spec=spec: change(world, mask, **{"nqn": NQN, **spec}))  # type: ignore[misc]
        assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_subsystem.spec.hostnqn")
        assert name in problem.message
    assert hosts(world) == ["any"]
    assert world.target.rpc("keyring_get_keys") == []


# Counters


def test_its_counters_are_the_sum_of_its_namespaces_and_of_no_others(world: World) -> None:
    world.subsystem()
    world.subsystem("other", f"{NQN}:other")
    for number, parent in enumerate((SUB, SUB, "nvmeSubsystems/other")):
        world.null_volume(f"v{number}")
        world.namespace(f"n{number}", f"v{number}", parent)
    before = [world.stats("NvmeSubsystem", name) for name in (SUB, "nvmeSubsystems/other")]
    for number in range(3):
        with world.io(f"v{number}") as io:
            io.run(writes=10**number)
    after = [world.stats("NvmeSubsystem", name) for name in (SUB, "nvmeSubsystems/other")]
    for name, blocks in (("write_ops_count", 1), ("write_bytes_count", 512)):
        moved = [now[name] - then.get(name, 0) for then, now in zip(before, after, strict=True)]
        assert moved == [11 * blocks, 100 * blocks]


def test_the_array_is_another_subsystem(world: World) -> None:
    """A far subsystem's NQN may be used here, too: it is another target's."""
    world.array()
    world.remote_controller()
    world.make("NvmePath", "p0", path_to(world.ports[0]), "nvmeRemoteControllers/array")
    world.subsystem(nqn=FAR_NQN)
    assert on_target(world, FAR_NQN)["namespaces"] == []
