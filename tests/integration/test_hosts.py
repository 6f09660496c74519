"""The hosts of a subsystem on the target: the one that was asked for, with its key, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.world import HOST_NQN, NQN, OTHER_PSK, PSK, World, connected, failing, gets_in, psk
from tests.support.bridge import Bridge
from tests.support.target import Emulator, Target, wait_until

SUB = "nvmeSubsystems/sub"
STRANGER = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"

"""A sweep rests 100 times as long as it takes, which on a busy machine is long."""


@dataclass
class Here:
    """A bridge that sweeps again and again, on a target of the test's own that has no transport at first."""

    world: World
    opi: Bridge
    spdk: Emulator

    @property
    def port(self) -> int:
        """Of the controller."""
        return self.world.ports[0]

    def secure(self) -> None:
        """Makes a subsystem for a host with a key, and then its controller."""
        self.world.subsystem(hostnqn=HOST_NQN, psk=psk())
        self.world.controller("c0", self.port)

    def hosts(self) -> list[str]:
        """Those on the target; "any" among them where any may connect."""
        found = self.spdk.subsystem(NQN)
        assert found is not None
        return sorted([host["nqn"] for host in found["hosts"]] + ["any"] * found["allow_any_host"])

    def says(self, *parts: str) -> bool:
        """Whether a line of the log has all of these."""
        return any(all(part in line for part in parts) for line in self.opi.log.splitlines())

    def swept(self) -> None:
        """Waits until a sweep has begun and ended."""
        before = self._looks()
        wait_until(lambda: self._looks() >= before + 3, "the target is swept")

    def _looks(self) -> int:
        return int(self.spdk.rpc("emulator_call_counts")["calls"].get("nvmf_get_subsystems", 0))


@pytest.fixture
def here(tmp_path: Path, spdk: Emulator, far: Target) -> Iterator[Here]:
    """One for each test."""
    daemon = Bridge(
        tmp_path, spdk=spdk.socket, state=f"sqlite:{tmp_path}/state.sqlite", sweep_interval_s=0.2, notifications_s=0.1
    )
    daemon.start()
    yield Here(World(daemon, spdk, tmp_path, lambda: far), daemon, spdk)
    if daemon.running:
        daemon.kill()


# The key and the transport


def test_the_host_gets_in_after_every_restart_of_the_target(here: Here) -> None:
    here.secure()
    for _ in range(2):
        assert gets_in(here.world, here.port, PSK)
        here.spdk.kill()
        here.spdk.start()
        wait_until(partial(gets_in, here.world, here.port, PSK), "the host gets in again")
    assert not gets_in(here.world, here.port, OTHER_PSK)
    assert not here.says("was not as asked"), "what a restart took is no drift"


def _make_without_the_transport(here: Here, key: dict[str, Any], serial_number: str) -> None:
    """As a bridge of an earlier version made it: the host with its key before there was any transport."""
    rpc = here.spdk.rpc
    rpc("nvmf_create_subsystem", nqn=NQN, serial_number=serial_number)
    rpc("keyring_file_add_key", name=key["name"], path=key["path"])
    rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOST_NQN, psk=key["name"])


@pytest.mark.parametrize("transport", ["made since", "still missing"])
def test_a_host_that_was_added_before_the_transport_is_added_anew(here: Here, transport: str) -> None:
    here.secure()
    (key,), found = here.spdk.rpc("keyring_get_keys"), here.spdk.subsystem(NQN)
    assert found is not None
    here.opi.kill()
    here.spdk.kill()
    here.spdk.start()
    _make_without_the_transport(here, key, found["serial_number"])
    if transport == "made since":
        here.spdk.rpc("nvmf_create_transport", trtype="TCP")
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(here.port)}
        here.spdk.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address, secure_channel=True)
        assert not gets_in(here.world, here.port, PSK), "the transport never got the key"
    here.opi.start()
    wait_until(partial(gets_in, here.world, here.port, PSK), "the host gets in")
    assert here.hosts() == [HOST_NQN]


def test_a_host_that_somebody_has_added_anew_without_its_key_gets_it_back(here: Here) -> None:
    here.secure()
    here.spdk.rpc("nvmf_subsystem_remove_host", nqn=NQN, host=HOST_NQN)
    here.spdk.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOST_NQN)
    wait_until(partial(gets_in, here.world, here.port, PSK), "the host gets in")
    wait_until(lambda: here.says("was not as asked", "has not got the key of host"), "it is told")


def test_a_host_that_is_connected_is_not_disturbed(here: Here) -> None:
    here.secure()
    with connected(here.world, here.port, PSK):
        before = here.spdk.rpc("nvmf_subsystem_get_controllers", nqn=NQN)
        here.opi.restart()
        here.swept()
        for key in here.spdk.rpc("keyring_get_keys"):  # the target goes on with what the host's entry has
            here.spdk.rpc("keyring_file_remove_key", name=key["name"])
        wait_until(lambda: here.says("was not as asked (the key is not in the keyring)"), "the key is put back")
        here.swept()
        assert here.spdk.rpc("nvmf_subsystem_get_controllers", nqn=NQN) == before
        assert here.world.far.remote_controller("host") is not None
    assert gets_in(here.world, here.port, PSK)


def test_a_key_file_that_is_gone_or_another_is_written_again(here: Here) -> None:
    here.secure()
    (file,) = (Path(key["path"]) for key in here.spdk.rpc("keyring_get_keys"))
    file.write_text(OTHER_PSK)
    wait_until(lambda: file.exists() and file.read_text() == PSK, "it holds the key again")
    file.unlink()
    wait_until(file.exists, "it is there again")
    wait_until(lambda: here.says("was not as asked (the key's file is missing)"), "it is told")


# Other hosts


@pytest.mark.parametrize("asked", [HOST_NQN, ""], ids=["one host", "any host"])
def test_a_host_that_nobody_asked_for_is_taken_off_and_told(here: Here, asked: str) -> None:
    here.world.subsystem(hostnqn=asked)
    here.world.controller("c0", here.port)
    here.spdk.rpc("nvmf_subsystem_add_host", nqn=NQN, host=STRANGER)
    wait_until(lambda: here.hosts() == [asked or "any"], "only that is left")
    wait_until(lambda: here.says(SUB, f"was not as asked (host {STRANGER} may connect)"), "it is told")
    assert gets_in(here.world, here.port, host=STRANGER) is not bool(asked)


def test_a_host_that_somebody_has_added_can_be_asked_for(
    own: Bridge, spdk: Emulator, far: Target, tmp_path: Path
) -> None:
    """No sweep comes in between: it may have another key, so it is added anew."""
    world = World(own, spdk, tmp_path, lambda: far)
    world.subsystem(hostnqn=STRANGER)
    world.controller("c0", world.ports[0])
    file = tmp_path / "other.psk"
    file.write_text(OTHER_PSK)
    file.chmod(0o600)
    spdk.rpc("keyring_file_add_key", name="theirs", path=str(file))
    for spec, key in (({"hostnqn": HOST_NQN}, ""), ({"hostnqn": STRANGER, "psk": psk()}, PSK)):
        spdk.rpc("nvmf_subsystem_add_host", nqn=NQN, host=spec["hostnqn"], psk="theirs")
        world.update("NvmeSubsystem", {"name": SUB, "spec": {"nqn": NQN, **spec}}, "spec")
        found = spdk.subsystem(NQN)
        assert found is not None
        assert [host["nqn"] for host in found["hosts"]] == [spec["hostnqn"]]
        assert gets_in(world, world.ports[0], key, spec["hostnqn"])
        if key:
            assert not gets_in(world, world.ports[0], OTHER_PSK, spec["hostnqn"])


def test_a_host_that_somebody_has_taken_off_is_no_obstacle_to_another(
    own: Bridge, spdk: Emulator, tmp_path: Path
) -> None:
    world = World(own, spdk, tmp_path, lambda: spdk)
    world.subsystem(hostnqn=STRANGER)
    spdk.rpc("nvmf_subsystem_remove_host", nqn=NQN, host=STRANGER)
    world.update("NvmeSubsystem", {"name": SUB, "spec": {"hostnqn": HOST_NQN}}, "spec.hostnqn")
    found = spdk.subsystem(NQN)
    assert found is not None
    assert [host["nqn"] for host in found["hosts"]] == [HOST_NQN]


def test_a_subsystem_that_is_gone_or_anothers_is_not_updated(own: Bridge, spdk: Emulator, tmp_path: Path) -> None:
    world = World(own, spdk, tmp_path, lambda: spdk)
    made = world.subsystem(hostnqn=HOST_NQN)
    spdk.rpc("nvmf_delete_subsystem", nqn=NQN)
    moved = {"name": SUB, "spec": {"hostnqn": STRANGER}}
    problem = failing(lambda: world.update("NvmeSubsystem", moved, "spec.hostnqn"))
    assert problem.code == "ABORTED"
    assert f"subsystem {NQN} is not on the target" in problem.message
    wait_until(lambda: spdk.subsystem(NQN) is not None, "it is put back")
    spdk.rpc("nvmf_delete_subsystem", nqn=NQN)
    spdk.rpc("nvmf_create_subsystem", nqn=NQN, serial_number="THEIRS")
    problem = failing(lambda: world.update("NvmeSubsystem", moved, "spec.hostnqn"))
    assert problem.code == "ALREADY_EXISTS"
    theirs = spdk.subsystem(NQN)
    assert theirs is not None
    assert (theirs["hosts"], theirs["serial_number"]) == ([], "THEIRS")
    assert world.get("NvmeSubsystem", SUB) == made
