"""Sockets whose paths would be too long are refused, naming the folder, and leave nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import NQN, World, collection, failing, free_ports, pci
from tests.support.patience import PATIENCE_S
from tests.support.program import started
from tests.support.target import Emulator, Target, emulator, real_target, wait_until

LONGEST = 107
MAKES = "vhost_create_blk_controller", "vhost_create_scsi_controller", "nvmf_subsystem_add_listener"
DEVICES: dict[str, dict[str, Any]] = {
    "VirtioBlk": {"volume_name_ref": "vol", "pcie_id": pci(1)},
    "VirtioScsiController": {"pcie_id": pci(1)},
    "VirtioScsiTarget": {},
}


def deep(folder: Path, length: int) -> Path:
    """A folder whose path has that length."""
    missing = length - len(f"{folder}/")
    assert missing > 0, folder
    found = folder / ("d" * missing)
    found.mkdir()
    return found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Emulator]:
    """A target whose vhost folder leaves room for IDs of 8 letters."""
    if real_target("SPDK"):
        pytest.skip("needs a target with a vhost folder of the test's own: an emulated one")
    with emulator(tmp_path, vhost_dir=deep(tmp_path, LONGEST - len("/12345678"))) as deeply:
        yield deeply


@pytest.fixture
def world(tmp_path: Path, own: Emulator) -> Iterator[World]:
    with KeptBridge(tmp_path, spdk=own.socket, sweep_interval_s=3600) as daemon:
        here = World(daemon, own, tmp_path, lambda: own, [])
        here.null_volume("vol")
        here.subsystem()
        yield here
        here.clear()
        assert here.leftovers() == {}


def asked(own: Emulator) -> list[str]:
    """What the target was asked to make a socket by, since the last time."""
    calls = own.rpc("emulator_call_counts", reset=True)["calls"]
    return [method for method in MAKES if method in calls]


@pytest.mark.parametrize("noun", DEVICES)
class TestVhost:
    def test_a_device_whose_sockets_path_is_too_long_is_refused(self, world: World, own: Emulator, noun: str) -> None:
        problem = failing(lambda: world.make(noun, "123456789", DEVICES[noun]))
        assert problem.code == "FAILED_PRECONDITION"
        assert f"the socket path {own.vhost_dir}/123456789 has 108 bytes, and 107 are the most" in problem.message
        assert "take a shorter ID, or another vhost folder (spdk_tgt -S)" in problem.message
        assert asked(own) == []
        assert failing(lambda: world.get(noun, f"{collection(noun)}/123456789")).code == "NOT_FOUND"

    def test_at_the_limit_it_can_be_connected_to(self, world: World, own: Emulator, noun: str) -> None:
        failing(lambda: world.make(noun, "123456789", DEVICES[noun]))
        world.make(noun, "12345678", DEVICES[noun])
        found = own.vhost("12345678")
        assert found is not None
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(found["socket"])

    def test_where_the_folder_cannot_be_known_it_is_taken_back(self, tmp_path: Path, noun: str) -> None:
        port = free_ports(1)[0]
        folder = deep(tmp_path, LONGEST - len("/12345678"))
        flags = ("--socket", f"127.0.0.1:{port}", "--vhost-dir", str(folder))
        target = started("emulate", *flags, log=tmp_path / "target.log")
        try:
            with KeptBridge(
                tmp_path, spdk=f"127.0.0.1:{port}", connect_grace_s=PATIENCE_S, sweep_interval_s=3600
            ) as daemon:
                world = World(daemon, Target(""), tmp_path, lambda: Target(""), [])
                world.null_volume("vol")
                problem = failing(lambda: world.make(noun, "123456789", DEVICES[noun]))
                assert problem.code == "FAILED_PRECONDITION"
                assert f"the socket path {folder}/123456789 has 108 bytes" in problem.message
                made = world.make(noun, "12345678", DEVICES[noun])["name"]
                assert (folder / "12345678").is_socket(), (
                    "the other one's was cut to the same name, and is out of the way"
                )
                world.delete(noun, made)
        finally:
            target.terminate()
            target.wait(PATIENCE_S)

    def test_the_folder_of_a_target_that_was_restarted_is_learnt_anew(
        self, world: World, own: Emulator, tmp_path: Path, noun: str
    ) -> None:
        failing(lambda: world.make(noun, "123456789", DEVICES[noun]))
        own.kill()
        own._vhost_dir = tmp_path / "v"
        own._vhost_dir.mkdir()
        own.start()
        wait_until(lambda: own.bdev("vol") and own.subsystem(NQN), "what there was is restored")
        world.make(noun, "123456789", DEVICES[noun])
        assert (own.vhost_dir / "123456789").is_socket()


class TestVfioUser:
    def test_the_shared_folders_setting_is_named_and_the_target_is_not_asked(
        self, tmp_path: Path, spdk: Emulator
    ) -> None:
        shared = deep(tmp_path, LONGEST - len("/vfio-user/pf9/cntrl"))
        shared.chmod(0o700)
        with KeptBridge(tmp_path, spdk=spdk.socket, spdk_shared_dir=shared, sweep_interval_s=3600) as daemon:
            world = World(daemon, spdk, tmp_path, lambda: spdk, [])
            world.subsystem()
            spec = {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(10)}
            asked(spdk)
            problem = failing(lambda: world.make("NvmeController", "c", {"spec": spec}, "nvmeSubsystems/sub"))
            assert problem.code == "FAILED_PRECONDITION"
            assert f"{shared}/vfio-user/pf10/cntrl has 108 bytes, and 107 are the most" in problem.message
            assert "--spdk-shared-dir" in problem.message
            assert asked(spdk) == []
            assert list((shared / "vfio-user").iterdir()) == []
            spec["pcie_id"] = pci(9)
            world.make("NvmeController", "c", {"spec": spec}, "nvmeSubsystems/sub")
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(f"{shared}/vfio-user/pf9/cntrl")
            world.clear()

    def test_where_the_target_sees_it_is_what_counts(self, tmp_path: Path, spdk: Emulator) -> None:
        there = "/" + "t" * 100
        with KeptBridge(tmp_path, spdk=spdk.socket, spdk_shared_dir=f"{tmp_path}/shared:{there}") as daemon:
            world = World(daemon, spdk, tmp_path, lambda: spdk, [])
            world.subsystem()
            spec = {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(1)}
            problem = failing(lambda: world.make("NvmeController", "c", {"spec": spec}, "nvmeSubsystems/sub"))
            assert f"{there}/vfio-user/pf1/cntrl has" in problem.message
            world.clear()
