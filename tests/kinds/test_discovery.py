"""Hosts can discover at the plain addresses of controllers: the discovery subsystem listens there, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import HOST_NQN, NQN, World, fabrics, failing, gets_in, pci, psk
from tests.support.bridge import CallError
from tests.support.target import DISCOVERY_NQN, Target, wait_until

SUB = "nvmeSubsystems/sub"


def at(port: int, address: str = "127.0.0.1") -> dict[str, str]:
    """A listener's address."""
    family = "IPv6" if ":" in address else "IPv4"
    return {"trtype": "TCP", "adrfam": family, "traddr": address, "trsvcid": str(port)}


def discovery(target: Target) -> list[str]:
    """The ports at which hosts can discover."""
    return sorted(address["trsvcid"] for address in target.discovery_listeners())


def change(world: World, mask: str, **spec: Any) -> dict[str, Any]:
    """Updates what the mask names."""
    return world.update("NvmeSubsystem", {"name": SUB, "spec": spec}, mask)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_controller_has_a_discovery_listener_that_goes_with_it(world: World, address: str) -> None:
    world.subsystem()
    port = world.ports[0]
    spec = {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(port, address)}
    name = world.make("NvmeController", "c0", {"spec": spec}, SUB)["name"]
    (found,) = world.target.discovery_listeners()
    assert {part: found[part] for part in at(port, address)} == at(port, address)
    world.delete("NvmeController", name)
    assert discovery(world.target) == []


def test_it_costs_no_further_look_of_the_target(world: World) -> None:
    if not world.target.emulated:
        pytest.skip("needs a target that counts its looks: an emulated one")
    world.subsystem()
    world.controller("c0", world.ports[0])
    world.delete("NvmeController", f"{SUB}/nvmeControllers/c0")
    world.quiet()
    world.controller("c0", world.ports[0])
    calls = world.target.rpc("emulator_call_counts")["calls"]
    assert calls["nvmf_subsystem_add_listener"] == 2
    assert calls["nvmf_get_subsystems"] == 1


def test_two_controllers_at_one_address_share_it(world: World) -> None:
    port = world.ports[0]
    for name in ("one", "two", "three"):
        world.subsystem(name, f"{NQN}:{name}")
        world.controller("c0", port, f"nvmeSubsystems/{name}")
        assert discovery(world.target) == [str(port)]
    for name in ("one", "three", "two"):
        assert discovery(world.target) == [str(port)]
        world.delete("NvmeController", f"nvmeSubsystems/{name}/nvmeControllers/c0")
    assert discovery(world.target) == []


def test_secure_and_pcie_controllers_have_none(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN, psk=psk())
    world.controller("c0", world.ports[0])
    world.subsystem("open", f"{NQN}:open")
    world.make(
        "NvmeController",
        "p0",
        {"spec": {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(1)}},
        "nvmeSubsystems/open",
    )
    assert discovery(world.target) == []


def test_a_key_takes_it_away_and_without_one_it_comes_back(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN)
    ports = sorted(str(port) for port in world.ports[:2])
    for number, port in enumerate(world.ports[:2]):
        world.controller(f"c{number}", port)
    for key, expected in ((psk(), []), ("", ports), (psk(), [])):
        change(world, "spec.psk", psk=key)
        assert discovery(world.target) == expected
        assert world.listeners() == [("127.0.0.1", port, bool(key)) for port in ports]
    assert not gets_in(world, world.ports[0]), "the port speaks TLS, and nothing else"


# What somebody else made


def test_a_discovery_listener_that_was_there_before_is_left(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN)
    port, rpc = world.ports[0], world.target.rpc
    rpc("nvmf_subsystem_add_listener", nqn=DISCOVERY_NQN, listen_address=at(port))
    try:
        for _ in range(2):
            name = world.controller("c0", port)["name"]
            world.update("NvmeController", {"name": name, "spec": {"max_nsq": 3}}, "spec.max_nsq")
            world.subsystem("other", f"{NQN}:other")
            other = world.controller("c0", port, "nvmeSubsystems/other")["name"]
            world.delete("NvmeController", name)
            assert discovery(world.target) == [str(port)]
            world.delete("NvmeController", other)
            assert discovery(world.target) == [str(port)]
    finally:
        rpc("nvmf_subsystem_remove_listener", nqn=DISCOVERY_NQN, listen_address=at(port))


def test_an_address_that_somebody_elses_listener_keeps_plain_is_not_made_secure(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN)
    port, rpc = world.ports[0], world.target.rpc
    rpc("nvmf_subsystem_add_listener", nqn=DISCOVERY_NQN, listen_address=at(port))
    try:
        name = world.controller("c0", port)["name"]
        problem = failing(lambda: change(world, "spec.psk", psk=psk()))
        assert (problem.code, problem.field) == ("FAILED_PRECONDITION", "nvme_subsystem.spec.psk")
        assert f"127.0.0.1 {port}" in problem.message
        assert world.listeners() == [("127.0.0.1", str(port), False)]
    finally:
        rpc("nvmf_subsystem_remove_listener", nqn=DISCOVERY_NQN, listen_address=at(port))
    change(world, "spec.psk", psk=psk())
    assert world.listeners() == [("127.0.0.1", str(port), True)]
    world.delete("NvmeController", name)


# What the target does not have, or refuses


@pytest.mark.parametrize(("code", "message"), [(-32603, "Internal error"), (-32602, "Invalid parameters")])
def test_a_controller_at_which_hosts_cannot_discover_is_refused_saying_so(
    frail: World, code: int, message: str
) -> None:
    fault = {"action": "error", "code": code, "message": message, "count": 1}
    frail.subsystem()
    frail.target.rpc("emulator_inject_fault", method="nvmf_subsystem_add_listener", skip=1, **fault)
    problem = failing(lambda: frail.controller("c0", frail.ports[0]))
    assert problem.field == "nvme_controller.spec.fabrics_id"
    assert f"hosts cannot discover at TCP 127.0.0.1 {frail.ports[0]}" in problem.message
    assert message in problem.message
    assert frail.listeners() == []
    frail.controller("c0", frail.ports[0])
    assert discovery(frail.target) == [str(frail.ports[0])]


def test_a_look_at_the_discovery_listeners_that_fails_costs_nothing(frail: World) -> None:
    fault = {"action": "error", "code": -32603, "message": "Internal error", "count": 1}
    frail.subsystem()
    frail.target.rpc("emulator_inject_fault", method="nvmf_get_subsystems", **fault)
    frail.controller("c0", frail.ports[0])
    assert discovery(frail.target) == [str(frail.ports[0])]


def test_a_controller_that_cannot_be_had_leaves_no_discovery_listener(frail: World) -> None:
    fault = {"action": "error", "code": -32602, "message": "Invalid parameters", "count": 1}
    frail.subsystem()
    frail.target.rpc("emulator_inject_fault", method="nvmf_subsystem_add_listener", **fault)
    assert failing(lambda: frail.controller("c0", frail.ports[0])).code == "FAILED_PRECONDITION"
    assert discovery(frail.target) == []
    frail.subsystem("other", f"{NQN}:other")
    frail.controller("c0", frail.ports[0], "nvmeSubsystems/other")
    frail.target.rpc("emulator_inject_fault", method="nvmf_subsystem_add_listener", **fault)
    assert failing(lambda: frail.controller("c0", frail.ports[0])).code == "FAILED_PRECONDITION"
    assert discovery(frail.target) == [str(frail.ports[0])]


@pytest.mark.parametrize("before", ["without a key", "with a key"])
def test_it_goes_with_its_controller_while_its_subsystem_changes(frail: World, before: str) -> None:
    """A change of the key that cannot come to its end: the address is plain before it, or after it."""
    has = {} if before == "without a key" else {"psk": psk()}
    wanted = {"psk": psk()} if not has else {}
    frail.subsystem(hostnqn=HOST_NQN, **has)
    name = frail.controller("c0", frail.ports[0])["name"]
    cut = "keyring_file_add_key" if wanted else "keyring_file_remove_key"
    frail.target.rpc("emulator_inject_fault", action="drop", method=cut)
    assert failing(lambda: change(frail, "spec.psk", **wanted)).code == "UNAVAILABLE"

    wait_until(lambda: _answered(lambda: frail.delete("NvmeController", name, allow_missing=True)), "it is deleted")
    frail.target.rpc("emulator_clear_faults")
    wait_until(lambda: _answered(lambda: change(frail, "spec.hostnqn", hostnqn=HOST_NQN)), "the change has ended")
    assert discovery(frail.target) == []


def test_it_goes_with_a_controller_whose_creation_was_answered_by_a_look(frail: World) -> None:
    """Whose it is was in an answer that got lost; then somebody takes away the controller's own listener."""
    frail.subsystem()
    target, port = frail.target, frail.ports[0]
    target.rpc("emulator_inject_fault", action="drop", method="nvmf_subsystem_add_listener", when="after", count=1)
    assert failing(lambda: frail.controller("c0", port)).code == "UNAVAILABLE"
    wait_until(lambda: _answered(lambda: frail.controller("c0", port)), "it is there")
    target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=at(port))
    target.rpc("emulator_inject_fault", action="drop", method="notify_get_notifications", count=1)
    wait_until(lambda: len(frail.listeners()) == 1, "a sweep has put it back")
    frail.delete("NvmeController", f"{SUB}/nvmeControllers/c0")
    assert discovery(target) == []


def _answered(call: Callable[[], Any]) -> bool:
    """Whether it is done; False where it may be repeated."""
    try:
        call()
    except CallError as problem:
        if problem.code not in ("UNAVAILABLE", "ABORTED"):
            raise
        return False
    return True


def test_hosts_discover_at_as_many_addresses_as_a_subsystem_may_have(world: World, shared_bridge: KeptBridge) -> None:
    more = World(shared_bridge, world.target, world.folder, world.far_target).ports
    for number, port in enumerate([*world.ports, *more]):
        if not number % 8:
            world.subsystem(f"s{number // 8}", f"{NQN}:{number // 8}")
        world.controller(f"c{number}", port, f"nvmeSubsystems/s{number // 8}")
    assert len(discovery(world.target)) == 16
    world.subsystem()
    name = world.make(
        "NvmeController", "c0",
        {"spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(world.ports[0], "127.0.0.2")}}, SUB,
    )["name"]  # fmt: skip
    assert len(discovery(world.target)) == 16
    world.delete("NvmeController", name)
    assert len(discovery(world.target)) == 16
