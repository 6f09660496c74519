"""The first things a user does, from a volume to a namespace and back."""

from __future__ import annotations

from tests.support.bridge import Bridge
from tests.support.target import Target

NQN = "nqn.2022-09.io.spdk:opitest1"


def test_a_volume_becomes_a_namespace_and_goes_again(opi: Bridge, target: Target) -> None:
    volume = opi.call(
        "CreateNullVolume",
        {"null_volume_id": "disk0", "null_volume": {"block_size": 512, "blocks_count": 2048}},
    )
    assert volume["name"] == "nullVolumes/disk0"
    opi.call("CreateNvmeSubsystem", {"nvme_subsystem_id": "s0", "nvme_subsystem": {"spec": {"nqn": NQN}}})
    namespace = opi.call(
        "CreateNvmeNamespace",
        {
            "parent": "nvmeSubsystems/s0",
            "nvme_namespace_id": "n0",
            "nvme_namespace": {"spec": {"volume_name_ref": "nullVolumes/disk0"}},
        },
    )
    subsystem = target.subsystem(NQN)
    assert subsystem is not None
    assert subsystem["namespaces"][0]["nguid"] == namespace["spec"]["nguid"]
    opi.call("DeleteNvmeNamespace", {"name": namespace["name"]})
    opi.call("DeleteNvmeSubsystem", {"name": "nvmeSubsystems/s0"})
    opi.call("DeleteNullVolume", {"name": "nullVolumes/disk0"})
    assert target.inventory()["bdevs"] == target.inventory()["subsystems"] == []
