"""One resource of every kind, made over HTTP."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.http.web import Web
from tests.support.ports import free_ports


@dataclass(frozen=True)
class Made:
    """A resource that was created over HTTP: what was sent, and the answer."""

    name: str
    body: dict[str, Any]
    answer: dict[str, Any]

    @property
    def collection(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def id(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def parent(self) -> dict[str, str]:
        return {"parent": self.collection.rpartition("/")[0]} if self.collection.count("/") else {}


def bodies(folder: Path, array: dict[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each kind's noun, in dependency order, a name and what to send."""
    file = folder / "aio"
    file.write_bytes(bytes(1 << 20))
    tcp = "NVME_TRANSPORT_TYPE_TCP"
    ipv4 = "NVME_ADDRESS_FAMILY_IPV4"
    fabrics = {"traddr": "127.0.0.1", "trsvcid": str(free_ports(1)[0]), "adrfam": ipv4}
    blocks = {"block_size": 512, "blocks_count": 2048}
    path = {"subnqn": array["nqn"], "trsvcid": int(array["trsvcid"]), "adrfam": ipv4}
    key = base64.b64encode(bytes(range(32))).decode()
    pci = {"port_id": 0, "physical_function": 1, "virtual_function": 0}
    return {
        "MallocVolume": ("mallocVolumes/same-malloc", blocks),
        "NullVolume": ("nullVolumes/same-null", blocks),
        "AioVolume": ("aioVolumes/same-aio", {**blocks, "filename": str(file)}),
        "NvmeRemoteController": ("nvmeRemoteControllers/same", {"multipath": "NVME_MULTIPATH_MULTIPATH"}),
        "NvmePath": (
            "nvmeRemoteControllers/same/nvmePaths/path",
            {"trtype": tcp, "traddr": array["traddr"], "fabrics": path},
        ),
        "EncryptedVolume": (
            "encryptedVolumes/same-crypto",
            {"volume_name_ref": "same-malloc", "key": key, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"},
        ),
        "QosVolume": (
            "qosVolumes/same-qos",
            {"volume_name_ref": "same-null", "limits": {"max": {"rw_iops_kiops": 10}}},
        ),
        "NvmeSubsystem": ("nvmeSubsystems/same", {"spec": {"nqn": "nqn.2022-09.io.spdk:same"}}),
        "NvmeController": (
            "nvmeSubsystems/same/nvmeControllers/tcp",
            {"spec": {"trtype": tcp, "fabrics_id": fabrics, "max_nsq": 5}},
        ),
        "NvmeNamespace": ("nvmeSubsystems/same/nvmeNamespaces/ns", {"spec": {"volume_name_ref": "same-crypto"}}),
        "VirtioBlk": ("virtioBlks/same-blk", {"pcie_id": pci, "volume_name_ref": "same-aio"}),
        "VirtioScsiTarget": ("virtioScsiTargets/same-target", {"max_luns": 2}),
        "VirtioScsiController": (
            "virtioScsiControllers/same-scsi",
            {"pcie_id": {"port_id": 3, "physical_function": 1, "virtual_function": 2}},
        ),
        "VirtioScsiLun": (
            "virtioScsiLuns/same-lun",
            {"target_name_ref": "virtioScsiControllers/same-scsi", "volume_name_ref": "same-null"},
        ),
    }


def snake(noun: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in noun).lstrip("_")


def create(served: Web, array: dict[str, str], folder: Path) -> dict[str, Made]:
    """Makes them and returns them by their noun."""
    made = {}
    for noun, (name, body) in bodies(folder, array).items():
        collection, _, resource_id = name.rpartition("/")
        answer = served.http.post(f"/v1/{collection}?{snake(noun)}_id={resource_id}", json=body)
        assert answer.status_code == 200, answer.text
        made[noun] = Made(name, body, answer.json())
    return made


def delete(served: Web, made: dict[str, Made]) -> None:
    """Takes away what is left of them."""
    for item in reversed(made.values()):
        answer = served.http.delete(f"/v1/{item.name}?allow_missing=true")
        assert answer.status_code == 200, answer.text
