"""Why a subsystem, its host or a listener could not be had: the true cause, and whether trying again can help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.world import HOST_NQN, NQN, World, failing, pci, psk
from tests.support.bridge import Bridge, CallError, bridge
from tests.support.target import Emulator

SUB = "nvmeSubsystems/sub"
LONGEST = "nqn.2022-09.io.spdk:a:b: 語 'c'/%d-" + "x" * 187
PCIE = {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(1)}


@pytest.fixture
def here(own: Bridge, spdk: Emulator, tmp_path: Path) -> World:
    """A bridge on a target of the test's own, to be disturbed."""
    return World(own, spdk, tmp_path, lambda: spdk)


def disturbed(world: World, method: str, code: int, message: str, call: Callable[[], Any]) -> CallError:
    """The error of a call during which the target refuses a method once."""
    world.target.rpc("emulator_inject_fault", action="error", method=method, code=code, message=message, count=1)
    return failing(call)


# The host


@pytest.mark.parametrize("key", [{}, {"psk": psk()}], ids=["host", "key"])
@pytest.mark.parametrize("host", [HOST_NQN, LONGEST])
def test_a_host_that_the_target_refuses_is_said_to_be_refused(here: World, key: dict[str, Any], host: str) -> None:
    assert len(LONGEST.encode()) == 223
    spec = {"hostnqn": host, **key}
    refusal = ("nvmf_subsystem_add_host", -32603, "Internal error")
    field = "nvme_subsystem.spec.psk" if key else "nvme_subsystem.spec.hostnqn"
    problem = disturbed(here, *refusal, lambda: here.subsystem(**spec))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", field)
    assert f"would not add host {host}" in problem.message
    assert f"to {NQN}: Internal error" in problem.message
    assert here.leftovers() == {}
    here.subsystem(hostnqn=f"{NQN}:other")
    changed = {"name": SUB, "spec": {"nqn": NQN, **spec}}
    problem = disturbed(here, *refusal, lambda: here.update("NvmeSubsystem", changed, "spec"))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", field)
    assert f"would not add host {host}" in problem.message
    assert here.target.rpc("keyring_get_keys") == []


def test_a_subsystem_that_the_target_has_just_lost_is_worth_another_try(here: World) -> None:
    here.subsystem()
    refusal = ("nvmf_subsystem_add_host", -32602, f"Subsystem with NQN '{NQN}' not found")
    moved = {"name": SUB, "spec": {"hostnqn": HOST_NQN}}
    problem = disturbed(here, *refusal, lambda: here.update("NvmeSubsystem", moved, "spec.hostnqn"))
    assert problem.code == "ABORTED"
    assert f"subsystem {NQN} is not on the target any more" in problem.message


def test_a_target_with_as_many_subsystems_as_it_may_have_is_full(here: World) -> None:
    nqn = f"{NQN}:not found"
    refusal = ("nvmf_create_subsystem", -32603, f"Unable to create subsystem {nqn}")
    problem = disturbed(here, *refusal, lambda: here.subsystem(nqn=nqn, hostnqn=HOST_NQN))
    assert problem.code == "RESOURCE_EXHAUSTED"
    assert f"cannot make subsystem {nqn}: it has as many" in problem.message


# The shared folder


@pytest.fixture
def elsewhere(spdk: Emulator, tmp_path: Path) -> Iterator[World]:
    """A bridge that is told that the target has the shared folder where it has none."""
    flags = {"state": f"sqlite:{tmp_path}/state.sqlite", "spdk_shared_dir": f"{tmp_path}/here:{tmp_path}/nowhere"}
    with bridge(tmp_path, spdk=spdk.socket, **flags) as daemon:
        yield World(daemon, spdk, tmp_path, lambda: spdk)


def test_a_key_file_that_the_target_does_not_see_is_said_to_be_that(elsewhere: World, tmp_path: Path) -> None:
    attempts = {
        "nvme_subsystem.spec.psk": lambda: elsewhere.subsystem(hostnqn=HOST_NQN, psk=psk()),
        "nvme_remote_controller.tcp.psk": lambda: elsewhere.remote_controller(tcp={"psk": psk()}),
    }
    for field, attempt in attempts.items():
        problem = failing(attempt)
        assert (problem.code, problem.field) == ("FAILED_PRECONDITION", field)
        assert f"{tmp_path}/nowhere/keys/" in problem.message
        assert "--spdk-shared-dir" in problem.message
    assert elsewhere.leftovers() == {}
    assert list((tmp_path / "here" / "keys").iterdir()) == []


def test_a_socket_folder_that_the_target_does_not_see_is_said_to_be_that(elsewhere: World, tmp_path: Path) -> None:
    elsewhere.subsystem()
    problem = failing(lambda: elsewhere.make("NvmeController", "pcie", {"spec": PCIE}, SUB))
    assert problem.code == "FAILED_PRECONDITION"
    assert f"{tmp_path}/nowhere/vfio-user/pf1/cntrl" in problem.message
    assert "--spdk-shared-dir" in problem.message


def test_a_socket_path_that_is_too_long_is_said_to_be_that(spdk: Emulator, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    flags = {"state": f"sqlite:{tmp_path}/state.sqlite", "spdk_shared_dir": str(folder)}
    with bridge(tmp_path, spdk=spdk.socket, **flags) as daemon:
        world = World(daemon, spdk, tmp_path, lambda: spdk)
        world.subsystem()
        problem = failing(lambda: world.make("NvmeController", "pcie", {"spec": PCIE}, SUB))
    assert problem.code == "FAILED_PRECONDITION"
    assert f"{folder}/vfio-user/pf1/cntrl has" in problem.message
    assert "give a shorter folder with --spdk-shared-dir" in problem.message


# Listeners


def test_a_subsystem_has_as_many_listeners_as_it_may_have(here: World) -> None:
    here.subsystem()
    ports = [*here.ports, *World(here.opi, here.target, here.folder, lambda: here.target).ports]
    for number, port in enumerate(ports):
        here.controller(f"c{number}", port)
    pcie = failing(lambda: here.make("NvmeController", "pcie", {"spec": PCIE}, SUB))
    other = failing(lambda: here.controller("tcp", 4420))
    for problem in (pcie, other):
        assert problem.code == "RESOURCE_EXHAUSTED"
        assert f"{NQN} listens at 16 addresses" in problem.message


@pytest.mark.parametrize("key", [{}, {"psk": psk()}], ids=["plain", "secure"])
def test_an_address_that_the_target_cannot_have_is_refused_whatever_the_subsystem(
    here: World, key: dict[str, Any]
) -> None:
    here.subsystem(hostnqn=HOST_NQN, **key)
    endpoint = {"traddr": "192.0.2.1", "trsvcid": "4420", "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}
    spec = {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": endpoint}
    problem = failing(lambda: here.make("NvmeController", "c0", {"spec": spec}, SUB))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_controller.spec.fabrics_id.traddr")
    assert "192.0.2.1 4420" in problem.message


def test_a_listener_that_cannot_be_made_anew_for_a_key_is_named(here: World) -> None:
    here.subsystem(hostnqn=HOST_NQN)
    name = here.controller("c0", here.ports[0])["name"]
    changed = {"name": SUB, "spec": {"psk": psk()}}
    refusal = ("nvmf_subsystem_add_listener", -32602, "Invalid parameters")
    problem = disturbed(here, *refusal, lambda: here.update("NvmeSubsystem", changed, "spec.psk"))
    assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_subsystem.spec.psk")
    assert name in problem.message
    assert str(here.ports[0]) in problem.message
    assert here.listeners() == [("127.0.0.1", str(here.ports[0]), False)]
    assert here.target.rpc("keyring_get_keys") == []


def test_a_subsystem_that_somebody_opened_to_any_host_demands_tls_on_the_next_try(here: World) -> None:
    here.subsystem(hostnqn=HOST_NQN, psk=psk())
    here.target.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=True)
    problem = failing(lambda: here.controller("c0", here.ports[0]))
    assert problem.code == "ABORTED"
    assert f"any host connect to {NQN}" in problem.message
