"""The reference bridge's own CI script, its gRPC part: plain, then with TLS, on the target's own subsystem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.array import HOST_NQN, TEST_PSK_BASE64
from tests.support.bridge import Bridge, bridge
from tests.support.ports import free_ports
from tests.support.target import Target


@pytest.fixture(scope="module")
def daemon(paced: Target, folder: Path) -> Iterator[Bridge]:
    """One bridge for both parts, with the script's one volume."""
    with bridge(folder, spdk=paced.socket, state=f"sqlite:{folder}/state.sqlite") as started:
        volume = {"block_size": 512, "blocks_count": 32}
        started.call("CreateMallocVolume", {"malloc_volume_id": "mallocvolume0", "malloc_volume": volume})
        yield started


class Part:
    """One half of the script: number 1 is plain, number 2 has TLS."""

    def __init__(self, daemon: Bridge, number: int, controller: str) -> None:
        self.call = daemon.call
        self.nqn = f"nqn.2022-09.io.spdk:opitest{number}"
        self.number = number
        self.port = str(free_ports(1)[0])
        self.subsystem = f"nvmeSubsystems/subsystem{number}"
        self.controller = f"{self.subsystem}/nvmeControllers/controller{number}"
        self.namespace = f"{self.subsystem}/nvmeNamespaces/namespace{number}"
        self.remote = f"nvmeRemoteControllers/{controller}"
        self.path = f"{self.remote}/nvmePaths/{controller}path0"
        self.answers: list[dict[str, Any]] = []

    def export(self, host: dict[str, str], max_namespaces: int, controller_id: int) -> None:
        """Subsystem, controller, namespace, and each of them read."""
        number = self.number
        identity = {"serial_number": f"myserial{number}", "model_number": f"mymodel{number}"}
        spec = {"nqn": self.nqn, **identity, "max_namespaces": max_namespaces, **host}
        fabrics = {"traddr": "127.0.0.1", "trsvcid": self.port, "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}
        listener = {
            "nvme_controller_id": controller_id, "fabrics_id": fabrics, "max_nsq": 5, "max_ncq": 5,
            "trtype": "NVME_TRANSPORT_TYPE_TCP",
        }  # fmt: skip
        namespace = {"volume_name_ref": "mallocvolume0", "host_nsid": 1}
        self._create("NvmeSubsystem", "nvme_subsystem", self.subsystem, {"spec": spec})
        self._create("NvmeController", "nvme_controller", self.controller, {"spec": listener})
        self._create("NvmeNamespace", "nvme_namespace", self.namespace, {"spec": namespace})

    def attach(self, tcp: dict[str, Any]) -> None:
        """Remote controller and path to what was exported, and both read."""
        fabrics = {
            "subnqn": self.nqn, "trsvcid": self.port, "adrfam": "NVME_ADDRESS_FAMILY_IPV4", "hostnqn": HOST_NQN,
        }  # fmt: skip
        path = {"traddr": "127.0.0.1", "trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics": fabrics}
        controller = {"multipath": "NVME_MULTIPATH_MULTIPATH", "tcp": {"hdgst": False, "ddgst": False, **tcp}}
        self._create("NvmeRemoteController", "nvme_remote_controller", self.remote, controller)
        self._create("NvmePath", "nvme_path", self.path, path)

    def take_down(self) -> None:
        """In the script's order."""
        for kind, name in (
            ("NvmePath", self.path),
            ("NvmeRemoteController", self.remote),
            ("NvmeNamespace", self.namespace),
            ("NvmeController", self.controller),
            ("NvmeSubsystem", self.subsystem),
        ):
            assert self.call(f"Delete{kind}", {"name": name}) == {}

    def _create(self, kind: str, field: str, name: str, resource: dict[str, Any]) -> None:
        parts = name.split("/")
        parent = {"parent": "/".join(parts[:2])} if len(parts) > 2 else {}
        created = self.call(f"Create{kind}", {**parent, f"{field}_id": parts[-1], field: resource})
        got = self.call(f"Get{kind}", {"name": name})
        assert created["name"] == got["name"] == name
        self.answers += [created, got]


@pytest.mark.parametrize(
    ("number", "controller", "host", "tcp"),
    [
        pytest.param(1, "nvmetcp12", {}, {}, id="plain"),
        pytest.param(2, "nvmetls17", {"hostnqn": HOST_NQN, "psk": TEST_PSK_BASE64}, {"psk": TEST_PSK_BASE64}, id="tls"),
    ],
)
def test_a_part_of_the_script_runs_through(
    daemon: Bridge, paced: Target, number: int, controller: str, host: dict[str, str], tcp: dict[str, str]
) -> None:
    before = paced.inventory()
    part = Part(daemon, number, controller)
    part.export(host, max_namespaces=11 * number, controller_id=2 if number == 1 else 22)

    subsystem = paced.subsystem(part.nqn)
    assert subsystem is not None
    assert (subsystem["serial_number"], subsystem["max_namespaces"]) == (f"myserial{number}", 11 * number)
    assert [address["trsvcid"] for address in subsystem["listen_addresses"]] == [part.port]
    assert [(space["nsid"], space["bdev_name"]) for space in subsystem["namespaces"]] == [(1, "mallocvolume0")]
    assert [entry["nqn"] for entry in subsystem["hosts"]] == [nqn for nqn in [host.get("hostnqn")] if nqn]

    part.attach(tcp)
    assert paced.remote_controller(controller) is not None
    assert paced.bdev(f"{controller}n1") is not None
    assert TEST_PSK_BASE64 not in str(part.answers)

    part.take_down()
    assert paced.inventory() == before


def test_the_script_can_be_run_again(daemon: Bridge, paced: Target) -> None:
    before = paced.inventory()
    for _ in range(2):
        part = Part(daemon, 1, "nvmetcp12")
        part.export({}, max_namespaces=11, controller_id=2)
        part.attach({})
        part.take_down()
    assert paced.inventory() == before
