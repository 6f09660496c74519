"""A virtual machine that the tests of a module share; each finds a target, a bridge and a machine without devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kinds.world import World
from tests.qemu.guest import Boot, Disks, Qemu, boot_files
from tests.support.bridge import Bridge, bridge
from tests.support.target import Emulator

SIZE = 64 * 1024 * 1024


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Kernel and initramfs."""
    return boot_files(tmp_path_factory.mktemp("boot"))


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """Served disks `blk` and `second`."""
    served = Disks(tmp_path_factory.mktemp("disks"), ("blk", "second"), SIZE)
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory, boot: Boot) -> Iterator[Qemu]:
    """A machine whose guest is up."""
    machine = Qemu(tmp_path_factory.mktemp("qemu"), boot)
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture
def plugging(tmp_path: Path, spdk: Emulator, disks: Disks, qemu: Qemu) -> Iterator[Bridge]:
    """A bridge that plugs into `qemu`, where the disks that are served stand for the target's sockets."""
    with bridge(
        tmp_path,
        spdk=spdk.socket,
        state=f"sqlite:{tmp_path}/state.sqlite",
        qmp=qemu.monitor,
        qmp_buses="pci.0,b1",
        qmp_folders=f"{spdk.vhost_dir}:{disks.folder}",
        qmp_unplug_s=3,
        sweep_interval_s=1,
    ) as daemon:
        yield daemon


@pytest.fixture
def world(plugging: Bridge, spdk: Emulator, tmp_path: Path) -> World:
    """Short ways to make resources, with a volume `vol` to make devices of."""
    here = World(plugging, spdk, tmp_path, lambda: spdk, [])
    here.null_volume("vol")
    return here
