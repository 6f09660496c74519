"""A virtual machine, a target and a bridge that the tests on a real QEMU share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kinds.daemon import KeptBridge
from tests.kinds.world import World
from tests.qemu.guest import Boot, Disks, Qemu, boot_files
from tests.support.patience import HOUR_S
from tests.support.target import Emulator, emulator, wait_until

SIZE = 64 * 1024 * 1024


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Kernel and initramfs."""
    return boot_files(tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is."""
    return tmp_path_factory.mktemp("qemu")


@pytest.fixture(scope="module")
def disks(folder: Path) -> Iterator[Disks]:
    """Served disks `blk` and `second`."""
    served = Disks(folder / "disks", ("blk", "second"), SIZE)
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def qemu(folder: Path, boot: Boot) -> Iterator[Qemu]:
    """A machine whose guest is up; each test must leave it so, with nothing plugged in."""
    machine = Qemu(folder, boot)
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture(scope="module")
def spdk(folder: Path) -> Iterator[Emulator]:
    """The target."""
    with emulator(folder) as own:
        yield own


@pytest.fixture(scope="module")
def plugging(folder: Path, spdk: Emulator, disks: Disks, qemu: Qemu) -> Iterator[KeptBridge]:
    """A bridge that plugs into `qemu`, where the disks that are served stand for the target's sockets."""
    with KeptBridge(
        folder,
        spdk=spdk.socket,
        qmp=qemu.monitor,
        qmp_buses="pci.0,b1",
        qmp_folders=f"{spdk.vhost_dir}:{disks.folder}",
        qmp_unplug_s=HOUR_S,
        sweep_interval_s=HOUR_S,
    ) as daemon:
        yield daemon


@pytest.fixture
def world(plugging: KeptBridge, spdk: Emulator, qemu: Qemu, folder: Path) -> Iterator[World]:
    """Short ways to make resources, with a volume `vol` to make devices of."""
    here = World(plugging, spdk, folder, lambda: spdk, [])
    here.null_volume("vol")
    yield here
    here.clear()
    wait_until(lambda: qemu.plugged == set(), "nothing is left in QEMU")
    assert here.leftovers() == {}
