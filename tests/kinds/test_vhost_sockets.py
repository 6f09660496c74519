"""The socket of a virtio device: it takes nobody else's place, and the device stays while a guest is connected.

A target unlinks whatever socket has the path of a new one.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import World, failing, free_ports, pci
from tests.support.target import Emulator, emulator, real_target, wait_until


def _blk(world: World, device: str) -> str:
    return str(world.make("VirtioBlk", device, {"volume_name_ref": "vol", "pcie_id": pci(1)})["name"])


def _scsi_target(world: World, device: str) -> str:
    return str(world.make("VirtioScsiTarget", device, {})["name"])


def _scsi_controller(world: World, device: str) -> str:
    return str(world.make("VirtioScsiController", device, {"pcie_id": pci(1)})["name"])


DEVICES = pytest.mark.parametrize(
    "make", [_blk, _scsi_target, _scsi_controller], ids=["VirtioBlk", "VirtioScsiTarget", "VirtioScsiController"]
)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[World]:
    """A target whose vhost folder is the one with its RPC socket, to which the bridge goes through a link."""
    if real_target("SPDK"):
        pytest.skip("needs a target with a vhost folder of the test's choice: an emulated one")
    folder = tmp_path / "run"
    folder.mkdir()
    link = tmp_path / "link.sock"
    with emulator(folder, vhost_dir=folder) as own:
        link.symlink_to(own.socket)
        with KeptBridge(tmp_path, spdk=str(link)) as daemon:
            world = World(daemon, own, folder, lambda: own, free_ports(1))
            world.null_volume("vol")
            yield world


@pytest.fixture
def listener(crowded: World) -> Iterator[socket.socket]:
    """Another program's socket in the folder."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(crowded.folder / "theirs.sock"))
        listening.listen()
        yield listening


@DEVICES
@pytest.mark.parametrize("name", ["spdk.sock", "link.sock"])
def test_the_targets_rpc_socket_stays(crowded: World, make: Callable[[World, str], str], name: str) -> None:
    problem = failing(lambda: make(crowded, name))
    assert problem.code == "INVALID_ARGUMENT"
    assert name in problem.message
    assert crowded.target.rpc("vhost_get_controllers") == []
    make(crowded, "spdk")


@DEVICES
@pytest.mark.parametrize("first", [True, False], ids=["the first device", "a later one"])
def test_another_programs_socket_stays(
    crowded: World, listener: socket.socket, make: Callable[[World, str], str], first: bool
) -> None:
    if not first:
        crowded.make("VirtioScsiTarget", "before", {})
    problem = failing(lambda: make(crowded, "theirs.sock"))
    assert problem.code == "FAILED_PRECONDITION"
    assert str(crowded.folder / "theirs.sock") in problem.message
    assert crowded.all("VirtioBlk") == []
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.connect(str(crowded.folder / "theirs.sock"))
    assert (crowded.target.vhost("before") is None) == first
    assert crowded.target.vhost("theirs.sock") is None


@DEVICES
@pytest.mark.parametrize("put", [Path.touch, Path.mkdir, lambda path: path.symlink_to("spdk.sock")])
def test_what_is_no_socket_is_named(
    crowded: World, make: Callable[[World, str], str], put: Callable[[Path], Any]
) -> None:
    put(crowded.folder / "theirs")
    problem = failing(lambda: make(crowded, "theirs"))
    assert problem.code == "FAILED_PRECONDITION"
    assert str(crowded.folder / "theirs") in problem.message
    assert (crowded.folder / "theirs").exists()


@DEVICES
def test_a_socket_that_nobody_listens_at_gives_way(crowded: World, make: Callable[[World, str], str]) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(crowded.folder / "dev"))
    make(crowded, "dev")
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(crowded.folder / "dev"))


def test_a_target_that_died_gets_its_devices_back(crowded: World) -> None:
    assert isinstance(crowded.target, Emulator)
    _blk(crowded, "blk")
    crowded.make("VirtioScsiTarget", "tgt", {})
    crowded.target.kill()
    assert (crowded.folder / "blk").is_socket()
    crowded.target.start()
    wait_until(lambda: crowded.target.vhost("blk") and crowded.target.vhost("tgt"), "the devices are back")


def test_a_device_does_not_come_back_at_the_cost_of_a_socket_that_came_meanwhile(crowded: World) -> None:
    assert isinstance(crowded.target, Emulator)
    assert isinstance(crowded.opi, KeptBridge)
    _blk(crowded, "blk")
    crowded.target.kill()
    (crowded.folder / "blk").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(crowded.folder / "blk"))
        listening.listen()
        crowded.target.start()
        log = crowded.opi
        wait_until(lambda: "virtioBlks/blk cannot be brought to what was asked" in log.log, "it was tried")
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.connect(str(crowded.folder / "blk"))
    wait_until(lambda: crowded.target.vhost("blk"), "the device is back")


def test_a_path_that_is_longer_than_a_sockets_is_refused(tmp_path: Path) -> None:
    if real_target("SPDK"):
        pytest.skip("needs a target with a vhost folder of the test's choice: an emulated one")
    folder = tmp_path / ("f" * max(1, 90 - len(str(tmp_path))))
    folder.mkdir()
    with emulator(tmp_path, vhost_dir=folder) as own, KeptBridge(tmp_path, spdk=own.socket) as daemon:
        world = World(daemon, own, tmp_path, lambda: own, free_ports(1))
        problem = failing(lambda: _scsi_target(world, "x" * 40))
        assert problem.code == "FAILED_PRECONDITION"
        assert "107" in problem.message
        assert list(folder.iterdir()) == []
        _scsi_target(world, "x")


# A guest


@contextlib.contextmanager
def guest(world: World, device: str) -> Iterator[None]:
    """Somebody is connected to the device."""
    found = world.target.vhost(device)
    assert found is not None
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(found["socket"])
        wait_until(lambda: (world.target.vhost(device) or {})["sessions"], "the target knows of its guest")
        yield
    wait_until(lambda: not (world.target.vhost(device) or {})["sessions"], "the target knows that its guest has gone")


@DEVICES
def test_a_device_stays_while_a_guest_is_connected(world: World, make: Callable[[World, str], str]) -> None:
    world.null_volume("vol")
    name = make(world, "dev")
    noun = f"V{name.partition('/')[0][1:-1]}"
    with guest(world, "dev"):
        problem = failing(lambda: world.delete(noun, name))
        assert problem.code == "FAILED_PRECONDITION"
        assert "guest" in problem.message
        assert world.get(noun, name)
    world.delete(noun, name)
    assert world.target.vhost("dev") is None


def test_a_volume_stays_under_a_guest(world: World) -> None:
    for volume in ("vol", "other"):
        world.null_volume(volume)
    name = _blk(world, "dev")
    before = world.get("VirtioBlk", name)
    with guest(world, "dev"):
        problem = failing(lambda: world.update("VirtioBlk", {"name": name, "volume_name_ref": "other"}))
        assert problem.code == "FAILED_PRECONDITION"
        assert "guest" in problem.message
        assert world.get("VirtioBlk", name) == before
    world.update("VirtioBlk", {"name": name, "volume_name_ref": "other"})
