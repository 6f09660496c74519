"""The calls of the reference bridge's CI script (scripts/tests.sh), as curl makes them, in its order."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.http.web import Web
from tests.kinds.world import FAR_NQN, World, path_to
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

_HOST = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"


class Curl:
    """Calls with `curl -f`: like the script, bodies go out as form data."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, http_method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = ["-d", json.dumps(body)] if body is not None else []
        command = ["curl", "-s", "-S", "-X", http_method, "--fail-with-body", f"{self._url}/v1/{path}", *data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)


@pytest.fixture
def curl(served: Web) -> Curl:
    return Curl(served.url)


def test_the_inventory(curl: Curl) -> None:
    assert curl("GET", "inventory/1/inventory/2")["processor"]["totalThreads"] > 0


def test_the_back_end(curl: Curl, place: World) -> None:
    place.array()
    controller, path = "nvmeRemoteControllers/nvmetcp12", "nvmeRemoteControllers/nvmetcp12/nvmePaths/nvmetcp12path0"
    multipath = {"multipath": "NVME_MULTIPATH_MULTIPATH"}
    tcp = path_to(place.ports[0], hostnqn=_HOST)

    assert curl("POST", "nvmeRemoteControllers?nvme_remote_controller_id=nvmetcp12", multipath)["name"] == controller
    assert curl("POST", f"{controller}/nvmePaths?nvme_path_id=nvmetcp12path0", tcp)["name"] == path
    assert curl("GET", controller)["multipath"] == "NVME_MULTIPATH_MULTIPATH"
    assert curl("GET", path)["fabrics"]["subnqn"] == FAR_NQN
    assert curl("GET", "nvmeRemoteControllers")["nvmeRemoteControllers"][0]["name"] == controller
    assert curl("GET", f"{controller}/nvmePaths")["nvmePaths"][0]["name"] == path
    assert "readBytesCount" in curl("GET", f"{controller}:stats")["stats"]
    assert "readBytesCount" in curl("GET", f"{path}:stats")["stats"]
    assert curl("PATCH", controller, multipath)["name"] == controller
    assert curl("PATCH", path, tcp)["name"] == path
    assert curl("DELETE", path) == {}
    assert curl("DELETE", controller) == {}


def test_the_front_end(curl: Curl) -> None:
    subsystem = "nvmeSubsystems/subsys0"
    namespace, controller = f"{subsystem}/nvmeNamespaces/namespace0", f"{subsystem}/nvmeControllers/ctrl0"
    in_ten = {"spec": {"volume_name_ref": "mallocvolume0", "host_nsid": 10}}
    fabrics = {"traddr": "127.0.0.1", "trsvcid": str(free_ports(1)[0]), "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}
    tcp = {"spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics}}

    volume = {"block_size": 512, "blocks_count": 32}  # which the script makes over gRPC
    curl("POST", "mallocVolumes?malloc_volume_id=mallocvolume0", volume)
    nqn = {"spec": {"nqn": "nqn.2022-09.io.spdk:opitest1"}}
    assert curl("POST", "nvmeSubsystems?nvme_subsystem_id=subsys0", nqn)["name"] == subsystem
    assert curl("POST", f"{subsystem}/nvmeNamespaces?nvme_namespace_id=namespace0", in_ten)["name"] == namespace
    assert curl("POST", f"{subsystem}/nvmeControllers?nvme_controller_id=ctrl0", tcp)["name"] == controller
    assert curl("GET", subsystem)["spec"]["nqn"] == nqn["spec"]["nqn"]
    assert curl("GET", namespace)["spec"]["hostNsid"] == 10
    assert curl("GET", controller)["status"]["active"] is True
    assert [item["name"] for item in curl("GET", "nvmeSubsystems")["nvmeSubsystems"]] == [subsystem]
    assert [item["name"] for item in curl("GET", f"{subsystem}/nvmeNamespaces")["nvmeNamespaces"]] == [namespace]
    assert [item["name"] for item in curl("GET", f"{subsystem}/nvmeControllers")["nvmeControllers"]] == [controller]
    for name in (subsystem, namespace, controller):
        assert curl("GET", f"{name}:stats")["stats"]["writeOpsCount"] == 0
    assert curl("PATCH", subsystem, nqn)["name"] == subsystem
    assert curl("PATCH", namespace, in_ten)["name"] == namespace
    assert curl("PATCH", controller, tcp)["name"] == controller
    for name in (controller, namespace, subsystem, "mallocVolumes/mallocvolume0"):
        assert curl("DELETE", name) == {}
