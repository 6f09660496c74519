"""The flow of the SPDK CSI driver (xPU mode): what a Kubernetes node asks for when a pod takes and gives up a volume.

The driver repeats whatever it got no answer to, with the same IDs: from several goroutines, after its own restart and
after the bridge's. All that changes between two attempts is the namespace's NSID, which is drawn anew.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.array import Array
from tests.support.bridge import Bridge, Client, bridge
from tests.support.late import let_go_later, time_out
from tests.support.target import Emulator, Target, wait_until

Call = tuple[str, dict[str, Any]]
NQN = "nqn.2023-08.io.spdk.csi:pvc-1"
FUNCTION = {"physical_function": 1, "virtual_function": 0, "port_id": 0}
THREADS = 6


class Node:
    """The calls of one volume: how it is staged, and how that is undone (in another order)."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._random = random.Random(7)

    def _attach(self) -> list[Call]:
        controller = {"multipath": "NVME_MULTIPATH_MULTIPATH"}
        return [
            (
                "CreateNvmeRemoteController",
                {"nvme_remote_controller_id": "pvc-1", "nvme_remote_controller": controller},
            ),
            (
                "CreateNvmePath",
                {"parent": "nvmeRemoteControllers/pvc-1", "nvme_path_id": "path-1", "nvme_path": self._array.path()},
            ),
        ]

    def _detach(self) -> list[Call]:
        return [
            ("DeleteNvmePath", {"name": "nvmeRemoteControllers/pvc-1/nvmePaths/path-1", "allow_missing": True}),
            ("DeleteNvmeRemoteController", {"name": "nvmeRemoteControllers/pvc-1", "allow_missing": True}),
        ]

    def stage_nvme(self) -> list[Call]:
        """With another NSID each time."""
        subsystem = {"spec": {"nqn": NQN}}
        controller = {"spec": {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": FUNCTION}}
        volume = {"volume_name_ref": self._array.volume_uuid, "host_nsid": self._random.randint(0, 31)}
        parent = "nvmeSubsystems/pvc-1"
        return [
            ("CreateNvmeSubsystem", {"nvme_subsystem_id": "pvc-1", "nvme_subsystem": subsystem}),
            (
                "CreateNvmeController",
                {"parent": parent, "nvme_controller_id": "pvc-1", "nvme_controller": controller},
            ),
            *self._attach(),
            (
                "CreateNvmeNamespace",
                {"parent": parent, "nvme_namespace_id": "pvc-1", "nvme_namespace": {"spec": volume}},
            ),
        ]

    def unstage_nvme(self) -> list[Call]:
        """Namespace, path, remote controller, controller, subsystem."""
        below = "nvmeSubsystems/pvc-1"
        return [
            ("DeleteNvmeNamespace", {"name": f"{below}/nvmeNamespaces/pvc-1", "allow_missing": True}),
            *self._detach(),
            ("DeleteNvmeController", {"name": f"{below}/nvmeControllers/pvc-1", "allow_missing": True}),
            ("DeleteNvmeSubsystem", {"name": below, "allow_missing": True}),
        ]

    def stage_virtio_blk(self) -> list[Call]:
        device = {"volume_name_ref": self._array.volume_uuid, "pcie_id": FUNCTION}
        return [*self._attach(), ("CreateVirtioBlk", {"virtio_blk_id": "pvc-1", "virtio_blk": device})]

    def unstage_virtio_blk(self) -> list[Call]:
        return [("DeleteVirtioBlk", {"name": "virtioBlks/pvc-1", "allow_missing": True}), *self._detach()]


@pytest.fixture(scope="module")
def node(array: Array) -> Node:
    return Node(array)


@pytest.fixture(scope="module")
def daemon(paced: Target, folder: Path) -> Iterator[Bridge]:
    """One bridge for the module: each test leaves it, and the target, empty."""
    with bridge(folder, spdk=paced.socket, state=f"sqlite:{folder}/state.sqlite") as started:
        yield started


@pytest.fixture
def csi(daemon: Bridge, paced: Target) -> Iterator[Bridge]:
    """The bridge, and the target looked at afterwards: nothing may be left."""
    before = paced.inventory()
    yield daemon
    assert paced.inventory() == before


def run(client: Client, calls: Sequence[Call]) -> list[dict[str, Any]]:
    return [client.call(method, request) for method, request in calls]


def repeated(client: Client, calls: Sequence[Call], times: int = 2) -> list[dict[str, Any]]:
    """Each call so many times in a row; the answers of the last ones."""
    return [[client.call(method, request) for _ in range(times)][-1] for method, request in calls]


def specs(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the status, which after a restart is known once the target was looked at."""
    return [{field: value for field, value in answer.items() if field != "status"} for answer in answers]


def from_many_threads(address: str, work: Callable[[Client], list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The same work from clients of their own at the same time."""

    def one(_number: int) -> list[dict[str, Any]]:
        client = Client(address)
        try:
            return work(client)
        finally:
            client.close()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def assert_staged(target: Target, array: Array) -> None:
    """The subsystem has the remote volume as its one namespace, and a vfio-user listener."""
    subsystem = target.subsystem(NQN)
    assert subsystem is not None
    assert [(ns["bdev_name"], ns["uuid"]) for ns in subsystem["namespaces"]] == [("pvc-1n4", array.volume_uuid)]
    assert [address["trtype"] for address in subsystem["listen_addresses"]] == ["VFIOUSER"]


def test_an_nvme_volume_is_staged_and_unstaged(csi: Bridge, paced: Target, node: Node, array: Array) -> None:
    run(csi, node.stage_nvme())
    assert_staged(paced, array)
    run(csi, node.unstage_nvme())


def test_a_virtio_blk_volume_is_staged_and_unstaged(csi: Bridge, paced: Target, node: Node) -> None:
    repeated(csi, node.stage_virtio_blk())
    device = paced.vhost("pvc-1")
    assert device is not None
    assert device["backend_specific"]["block"]["bdev"] == "pvc-1n4"
    repeated(csi, node.unstage_virtio_blk())


def test_repeats_change_nothing_and_the_first_nsid_stays(csi: Bridge, paced: Target, node: Node, array: Array) -> None:
    first = repeated(csi, node.stage_nvme())
    for _ in range(5):
        assert run(csi, node.stage_nvme()) == first
    assert_staged(paced, array)
    repeated(csi, node.unstage_nvme(), times=3)


def test_unstaging_what_was_never_staged_succeeds(csi: Bridge, node: Node) -> None:
    assert run(csi, node.unstage_nvme()) == [{}] * 5
    assert run(csi, node.unstage_virtio_blk()) == [{}] * 3


@pytest.mark.parametrize("reached", [1, 2, 3, 4])
def test_a_half_staged_volume_is_unstaged_or_finished(csi: Bridge, node: Node, reached: int) -> None:
    run(csi, node.stage_nvme()[:reached])
    run(csi, node.unstage_nvme())
    run(csi, node.stage_nvme()[:reached])
    run(csi, node.stage_nvme())
    run(csi, node.unstage_nvme())


def test_goroutines_that_race_all_get_the_same_answers(csi: Bridge, paced: Target, node: Node, array: Array) -> None:
    answers = from_many_threads(csi.address, lambda client: run(client, node.stage_nvme()))
    assert all(others == answers[0] for others in answers)
    assert_staged(paced, array)
    deleted = from_many_threads(csi.address, lambda client: run(client, node.unstage_nvme()))
    assert deleted == [[{}] * 5] * THREADS


def test_the_bridge_dies_and_restarts_between_any_two_attempts(
    csi: Bridge, paced: Target, node: Node, array: Array
) -> None:
    half = specs(run(csi, node.stage_nvme()[:4]))
    csi.kill()
    csi.start()
    staged = specs(run(csi, node.stage_nvme()))
    assert staged[:4] == half
    csi.restart()
    assert specs(run(csi, node.stage_nvme())) == staged
    assert_staged(paced, array)
    run(csi, node.unstage_nvme()[:3])
    csi.kill()
    csi.start()
    run(csi, node.unstage_nvme())


_SLOWED = {
    "CreateNvmeSubsystem": "nvmf_create_subsystem",
    "CreateNvmeController": "nvmf_subsystem_add_listener",
    "CreateNvmePath": "bdev_nvme_attach_controller",
    "CreateNvmeNamespace": "nvmf_subsystem_add_ns",
}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_create_that_timed_out_is_repeated_with_the_same_id(
    csi: Bridge, paced: Target, node: Node, array: Array, when: str
) -> None:
    if not isinstance(paced, Emulator):
        pytest.skip("needs a target that can be slowed down: an emulated one")
    for method, request in node.stage_nvme():
        with timed_out(csi, paced, (method, request), _SLOWED.get(method), when):
            csi.call(method, request)
    run(csi, node.stage_nvme())
    assert_staged(paced, array)
    run(csi, node.unstage_nvme())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_delete_that_timed_out_is_repeated(csi: Bridge, paced: Target, node: Node, when: str) -> None:
    if not isinstance(paced, Emulator):
        pytest.skip("needs a target that can be slowed down: an emulated one")
    run(csi, node.stage_nvme())
    slowed = {"DeleteNvmeNamespace": "nvmf_subsystem_remove_ns", "DeleteNvmePath": "bdev_nvme_detach_controller"}
    for method, request in node.unstage_nvme():
        with timed_out(csi, paced, (method, request), slowed.get(method), when):
            csi.call(method, request)


@contextlib.contextmanager
def timed_out(client: Client, target: Target, call: Call, slowed: str | None, when: str) -> Iterator[None]:
    """The call has timed out, for the target is slow; what it was slow with comes late, and changes nothing."""
    if slowed is None:
        yield
        return
    time_out(target, slowed, lambda timeout_s: client.call(*call, timeout_s=timeout_s), when)
    with let_go_later(target):
        yield


def test_the_target_restarts_between_staging_and_the_next_attempt(
    csi: Bridge, paced: Target, node: Node, array: Array
) -> None:
    if not isinstance(paced, Emulator):
        pytest.skip("needs a target that can be killed: an emulated one")
    run(csi, node.stage_nvme())
    paced.kill()
    paced.start()

    def restored() -> bool:
        subsystem = paced.subsystem(NQN)
        return subsystem is not None and bool(subsystem["namespaces"]) and bool(subsystem["listen_addresses"])

    wait_until(restored, "the bridge has staged the volume on the new target")
    run(csi, node.stage_nvme())
    assert_staged(paced, array)
    run(csi, node.unstage_nvme())
