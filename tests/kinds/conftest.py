"""A bridge that the tests share. Each test finds it empty, and the target too, and must leave both so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kinds.case import Case
from tests.kinds.cases import CASES
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import World, free_ports
from tests.support.target import Emulator, Target, emulator, real_target


@pytest.fixture(scope="session")
def shared_bridge(
    tmp_path_factory: pytest.TempPathFactory, shared_emulators: dict[str, Emulator]
) -> Iterator[KeptBridge]:
    """A bridge on the shared target, its state in a file."""
    folder = tmp_path_factory.mktemp("bridge")
    target = real_target("SPDK") or shared_emulators["near"]
    with KeptBridge(folder, spdk=target.socket) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def ports() -> list[int]:
    """Ports for listeners here and elsewhere."""
    return free_ports(8)


@pytest.fixture
def world(
    shared_bridge: KeptBridge, target: Target, ports: list[int], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """The shared bridge and its target, both empty."""
    here = World(shared_bridge, target, tmp_path, lambda: request.getfixturevalue("far"), ports)
    yield here
    _leave_nothing(here, shared_bridge)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, KeptBridge]]:
    """An emulator to kill and disturb, and a bridge on it that does not wait long."""
    if real_target("SPDK"):
        pytest.skip("needs a target that can be killed and disturbed: an emulated one")
    folder = tmp_path_factory.mktemp("fragile")
    with emulator(folder) as own, KeptBridge(folder, spdk=own.socket, connect_grace_s=0.2) as daemon:
        yield own, daemon


@pytest.fixture
def frail(
    fragile: tuple[Emulator, KeptBridge], ports: list[int], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A world whose target can be killed and disturbed."""
    own, daemon = fragile
    here = World(daemon, own, tmp_path, lambda: request.getfixturevalue("far"), ports)
    yield here
    own.rpc("emulator_clear_faults")
    _leave_nothing(here, daemon)


def _leave_nothing(world: World, daemon: KeptBridge) -> None:
    """Deletes everything; where that does not leave an empty target, the next test gets a fresh bridge all the same."""
    try:
        world.clear()
        assert world.leftovers() == {}
    except BaseException:
        daemon.kill()
        world.target.clean()
        daemon.forget()
        daemon.start()
        raise


@pytest.fixture(params=CASES, ids=lambda case: case.noun)
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind in turn."""
    found: Case = request.param
    return found
