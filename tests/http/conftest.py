"""A bridge with HTTP, a process of its own that the tests of a worker share: what a test makes, it takes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.web import Web, web
from tests.http.world import Made, create, delete
from tests.support.ports import free_ports
from tests.support.target import Emulator


@pytest.fixture(scope="session")
def near_and_far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Emulator]]:
    """The target below the bridge, and one that stands for a remote array."""
    folder = tmp_path_factory.mktemp("http-targets")
    targets = (Emulator(folder, "http-near"), Emulator(folder, "http-far"))
    for target in targets:
        target.start()
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
def array(near_and_far: tuple[Emulator, Emulator]) -> dict[str, str]:
    """A subsystem of the remote array: where it listens, and its NQN."""
    _, far = near_and_far
    nqn = "nqn.2016-06.io.spdk:cnode1"
    port = free_ports(1)[0]
    far.rpc("nvmf_create_transport", trtype="TCP")
    far.rpc("bdev_malloc_create", name="lun0", num_blocks=2048, block_size=512)
    far.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, serial_number="array", max_namespaces=8)
    far.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "lun0"})
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    far.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
    return {"nqn": nqn, "traddr": "127.0.0.1", "trsvcid": str(port)}


@pytest.fixture(scope="module")
def world(served: Web, array: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Made]]:
    """One resource of every kind."""
    made = create(served, array, tmp_path_factory.mktemp("world"))
    yield made
    delete(served, made)


@pytest.fixture
def own_http(spdk: Emulator, tmp_path: Path) -> Iterator[Web]:
    """A bridge of the test's own, with legacy names over gRPC, on a target that the test may end."""
    with web(tmp_path, spdk=spdk.socket, state="memory:", resource_names="legacy") as daemon:
        yield daemon
