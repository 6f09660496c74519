"""A bridge with HTTP, a process of its own that the tests of a worker share: what a test makes, it takes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.web import Web, web
from tests.http.world import Made, create, delete
from tests.kinds.world import World
from tests.support.ports import free_ports
from tests.support.target import Emulator


@pytest.fixture(scope="session")
def near_and_far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Emulator]]:
    """The target below the bridge, and one that stands for a remote array."""
    folder = tmp_path_factory.mktemp("http-targets")
    targets = (Emulator(folder, "http-near"), Emulator(folder, "http-far"))
    for target in targets:
        target.start()
    targets[1].rpc("nvmf_create_transport", trtype="TCP")
    yield targets
    for target in targets:
        target.kill()


@pytest.fixture(scope="session")
def served(near_and_far: tuple[Emulator, Emulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A bridge with HTTP."""
    near, _ = near_and_far
    with web(tmp_path_factory.mktemp("http-bridge"), spdk=near.socket, state="memory:") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def ports() -> list[int]:
    """Ports for listeners here and of the remote array."""
    return free_ports(8)


@pytest.fixture(scope="module")
def place(
    served: Web,
    near_and_far: tuple[Emulator, Emulator],
    ports: list[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    """Where resources are made."""
    near, far = near_and_far
    return World(served, near, tmp_path_factory.mktemp("world"), lambda: far, ports)


@pytest.fixture(scope="module")
def world(served: Web, place: World) -> Iterator[dict[str, Made]]:
    """One resource of every kind."""
    made = create(served, place)
    yield made
    delete(served, made)


@pytest.fixture
def own_http(spdk: Emulator, tmp_path: Path) -> Iterator[Web]:
    """A bridge of the test's own, with legacy names over gRPC, on a target that the test may end."""
    with web(tmp_path, spdk=spdk.socket, state="memory:", resource_names="legacy") as daemon:
        yield daemon
