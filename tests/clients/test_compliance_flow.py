"""The run of the OPI compliance client (`godpu storage test`), call by call.

The client gives 10 s to the whole run and sleeps for 7 of them: its 160 calls have 3 s. Its first error ends it.
How long a call takes is up to the machine, so what counts here is how often the target has to look at its socket.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.array import HOST_NQN, TEST_PSK_BASE64, Array
from tests.support.bridge import Bridge, CallError, bridge
from tests.support.patience import HOUR_S
from tests.support.ports import free_ports
from tests.support.target import Target

SECONDS_FOR_ALL_CALLS = 3.0
SECONDS_FOR_ONE_LOOK = 0.008
"""What arrives at a target together is answered together, within two of its intervals."""
MALLOC1_BLOCKS = 131072

_COLLECTIONS = {
    "NullVolume": "nullVolumes",
    "AioVolume": "aioVolumes",
    "EncryptedVolume": "encryptedVolumes",
    "QosVolume": "qosVolumes",
    "VirtioBlk": "virtioBlks",
    "VirtioScsiController": "virtioScsiControllers",
    "VirtioScsiLun": "virtioScsiLuns",
}


def snake(name: str) -> str:
    """`NvmePath` as fields of requests are named: `nvme_path`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class ComplianceClient:
    """Makes the client's calls and its checks; an unexpected error ends the run, as it ends the client's."""

    def __init__(self, daemon: Bridge, style: str, array: Array, aio_file: Path) -> None:
        self._bridge = daemon
        self._style = style
        self._array = array
        self._aio_file = aio_file
        self._port = str(free_ports(1)[0])
        self.calls = 0
        self.tolerated: list[str] = []

    def run(self) -> None:
        """All of it, in the client's order."""
        self._subsystems()
        self._controllers()
        self._namespaces()
        self._virtio_blk()
        self._virtio_scsi_controllers()
        self._virtio_scsi_lun()
        self._remote_controllers()
        self._paths(tls=False)
        self._paths(tls=True)
        self._volumes()
        self._encrypted_volumes()
        self._qos_volumes()

    def call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """One call."""
        self.calls += 1
        return self._bridge.call(method, request)

    def expected_name(self, kind: str, own_id: str, parent: str) -> str:
        """The name that the client compares with; it knows only the legacy ones of volumes and virtio devices."""
        collection = _COLLECTIONS.get(kind)
        if collection is None:
            own = f"{kind[0].lower()}{kind[1:]}s/{own_id}"
            return f"{parent}/{own}" if parent else own
        return f"volumes/{own_id}" if self._style == "legacy" else f"{collection}/{own_id}"

    def create(self, kind: str, own_id: str, resource: dict[str, Any], parent: str = "") -> str:
        """Creates it and returns its name, checked as the client does: a generated ID is a UUID in lower case."""
        request = {f"{snake(kind)}_id": own_id, snake(kind): resource, **({"parent": parent} if parent else {})}
        name = str(self.call(f"Create{kind}", request)["name"])
        if not own_id:
            own_id = name.rpartition("/")[2]
            assert own_id == str(uuid.UUID(own_id))
        assert name == self.expected_name(kind, own_id, parent)
        return name

    def both_ways(
        self,
        kind: str,
        own_id: str,
        resource: dict[str, Any],
        update: dict[str, Any] | None,
        *,
        parent: str = "",
        list_parent: str = "",
        reset: bool = False,
        tolerant: bool = False,
    ) -> None:
        """With an ID and without: create, update by "*", list, get, stats, delete."""
        for given in (own_id, ""):
            name = self.create(kind, given, resource, parent)
            if reset:
                self.call(f"Reset{kind}", {"name": name})
            if update is not None:
                self._update(kind, name, update, tolerant)
            below = parent or list_parent
            listed = self.call(f"List{kind}s", {"parent": below} if below else {})
            assert [item["name"] for item in listed[f"{snake(kind)}s"]] == [name]
            got = self.call(f"Get{kind}", {"name": name})
            assert got["name"] == name
            assert ("spec" in got) == ("spec" in resource)
            self.call(f"Stats{kind}", {"name": name})
            self.call(f"Delete{kind}", {"name": name})

    def _update(self, kind: str, name: str, update: dict[str, Any], tolerant: bool) -> None:
        request = {"update_mask": "*", snake(kind): {"name": name, **update}}
        try:
            updated = self.call(f"Update{kind}", request)
        except CallError as problem:
            if not tolerant:
                raise
            self.tolerated.append(f"{kind} {problem.code} {problem.field}")
        else:
            assert updated["name"] == name

    # Front ends

    def _subsystem(self, nqn: str) -> dict[str, Any]:
        identity = {"model_number": "OPI Model", "serial_number": "OPI SN", "max_namespaces": 10}
        return {"spec": {**identity, "hostnqn": HOST_NQN, "nqn": nqn}}

    def _controller(self, queues: tuple[int, int, int, int]) -> dict[str, Any]:
        fabrics = {"traddr": "127.0.0.1", "trsvcid": self._port, "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}
        sizes = dict(zip(("max_nsq", "max_ncq", "sqes", "cqes"), queues, strict=True))
        return {"spec": {"fabrics_id": fabrics, "trtype": "NVME_TRANSPORT_TYPE_TCP", "nvme_controller_id": 1, **sizes}}

    def _subsystems(self) -> None:
        nqn = "nqn.2022-09.io.spdk:opi3"
        only_nqn = {"spec": {"nqn": nqn}}
        self.both_ways("NvmeSubsystem", "subsystem-test", self._subsystem(nqn), only_nqn, tolerant=True)

    def _controllers(self) -> None:
        parent = self.create("NvmeSubsystem", "controller-test-ss", self._subsystem("nqn.2022-09.io.spdk:opi2"))
        before, after = self._controller((5, 6, 7, 8)), self._controller((8, 7, 6, 5))
        self.both_ways("NvmeController", "controller-test", before, after, parent=parent)
        self.call("DeleteNvmeSubsystem", {"name": parent})

    def _namespaces(self) -> None:
        parent = self.create("NvmeSubsystem", "namespace-test-ss", self._subsystem("nqn.2022-09.io.spdk:opi1"))
        controller = self.create("NvmeController", "namespace-test-ctrler", self._controller((5, 6, 7, 8)), parent)
        dashed = "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb"
        identity = {"uuid": dashed, "nguid": dashed, "eui64": 1967554867335598546, "host_nsid": 1}
        namespace = {"spec": {"volume_name_ref": "Malloc1", **identity}}
        self.both_ways("NvmeNamespace", "namespace-test", namespace, namespace, parent=parent)
        self.call("DeleteNvmeController", {"name": controller})
        self.call("DeleteNvmeSubsystem", {"name": parent})

    def _virtio_blk(self) -> None:
        function = {"physical_function": 1, "virtual_function": 0, "port_id": 0}
        device = {"volume_name_ref": "Malloc1", "pcie_id": function}
        self.both_ways("VirtioBlk", "opi-virtio-blk8", device, {}, tolerant=True)

    def _scsi_device(self) -> dict[str, Any]:
        return {"pcie_id": {"physical_function": 1, "virtual_function": 2, "port_id": 3}}

    def _virtio_scsi_controllers(self) -> None:
        device = self._scsi_device()
        self.both_ways("VirtioScsiController", "opi-virtio-scsi8", device, device, list_parent="todo")

    def _virtio_scsi_lun(self) -> None:
        shared_id = "opi-virtio-scsi8"
        controller = self.create("VirtioScsiController", shared_id, self._scsi_device())
        lun = {"target_name_ref": shared_id, "volume_name_ref": "Malloc1"}
        name = self.create("VirtioScsiLun", shared_id, lun)
        self._update("VirtioScsiLun", name, lun, tolerant=False)
        self.call("ListVirtioScsiLuns", {"parent": name})
        assert self.call("GetVirtioScsiLun", {"name": name})["volume_name_ref"] == "Malloc1"
        self.call("StatsVirtioScsiLun", {"name": name})
        self.call("DeleteVirtioScsiLun", {"name": name})
        # The client has only the LUN's name, which in the legacy style is the controller's too.
        self.call("DeleteVirtioScsiController", {"name": name if self._style == "legacy" else controller})

    # Back ends

    def _remote_controller(self, psk: str = "") -> dict[str, Any]:
        tcp = {"hdgst": False, "ddgst": False, **({"psk": psk} if psk else {})}
        return {"multipath": "NVME_MULTIPATH_MULTIPATH", "tcp": tcp}

    def _remote_controllers(self) -> None:
        self.both_ways("NvmeRemoteController", "opi-nvme8", self._remote_controller(), None, reset=True)

    def _paths(self, *, tls: bool) -> None:
        controller = self._remote_controller(TEST_PSK_BASE64 if tls else "")
        parent = self.create("NvmeRemoteController", "opi-nvme8", controller)
        path = self._array.path(tls=tls)
        self.both_ways("NvmePath", "opi-nvme8-path", path, path, parent=parent)
        self.call("DeleteNvmeRemoteController", {"name": parent})

    def _volumes(self) -> None:
        small, large = ({"block_size": 512, "blocks_count": blocks} for blocks in (64, 128))
        self.both_ways("NullVolume", "opi-null9", small, large)
        file = {"filename": str(self._aio_file)}
        self.both_ways("AioVolume", "opi-aio4", {"block_size": 512, "blocks_count": 12, **file}, file)

    # Between

    def _encrypted_volumes(self) -> None:
        def volume(key: bytes) -> dict[str, Any]:
            text = base64.b64encode(key).decode()
            return {"volume_name_ref": "Malloc1", "key": text, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}

        first, second = volume(b"0123456789abcdef0123456789abcdee"), volume(b"0123456789abcdef0123456789abcdff")
        self.both_ways("EncryptedVolume", "opi-encrypted-volume3", first, second, list_parent="todo")

    def _qos_volumes(self) -> None:
        first, second = (
            {"volume_name_ref": "Malloc1", "limits": {"max": {limit: 2}}}
            for limit in ("rw_bandwidth_mbs", "rd_bandwidth_mbs")
        )
        self.both_ways("QosVolume", "opi-qos-volume3", first, second, list_parent="todo")


@pytest.fixture(scope="module")
def malloc1(paced: Target) -> Target:
    """The near target with the free bdev that the client takes again and again.

    And with a vhost device: the removal of its last one takes a real target a second.
    """
    paced.rpc("bdev_malloc_create", name="Malloc1", block_size=512, num_blocks=MALLOC1_BLOCKS)
    paced.rpc("vhost_create_scsi_controller", ctrlr="spare")
    return paced


@pytest.fixture(params=["legacy", "canonical"])
def client(request: pytest.FixtureRequest, malloc1: Target, array: Array, tmp_path: Path) -> Iterator[ComplianceClient]:
    """The client on a bridge of that name style."""
    aio_file = tmp_path / "aio_bdev_file"
    aio_file.write_bytes(bytes(64 * 512))
    flags = {"spdk": malloc1.socket, "state": f"sqlite:{tmp_path}/state.sqlite", "resource_names": request.param}
    with bridge(tmp_path, sweep_interval_s=HOUR_S, notifications_s=HOUR_S, **flags) as daemon:
        yield ComplianceClient(daemon, request.param, array, aio_file)


def test_the_compliance_client_runs_through_in_its_time(client: ComplianceClient, malloc1: Target) -> None:
    before = malloc1.inventory()
    if malloc1.emulated:
        malloc1.rpc("emulator_call_counts", reset=True)
    client.run()
    if malloc1.emulated:
        looks = malloc1.rpc("emulator_call_counts")["looks"]
        assert looks * SECONDS_FOR_ONE_LOOK < SECONDS_FOR_ALL_CALLS / 2, "the other half is for bridge and client"
    assert client.calls >= 160
    assert client.tolerated == [
        *["NvmeSubsystem INVALID_ARGUMENT nvme_subsystem.spec.model_number"] * 2,
        *["VirtioBlk INVALID_ARGUMENT virtio_blk.pcie_id"] * 2,
    ]
    assert malloc1.inventory() == before  # every test gave back what it took
