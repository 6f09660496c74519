"""A virtual machine of software alone: Debian's kernel, busybox, and an init that tells on the console what it sees."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.patience import PATIENCE_S
from tests.support.target import wait_until

_ROOTS = (os.environ.get("QEMU_GUEST"), Path(__file__).parents[2] / ".venv" / "guest", "/")
"""Where a Debian kernel package may be unpacked (.ci/run) or installed."""
_MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
_INIT = f"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in {" ".join(_MODULES)}; do $b insmod /modules/$module.ko; done
seen=none
while :; do
    now=
    for disk in /sys/block/vd*; do
        at=$($b readlink -f $disk/device/..) && size=$($b cat $disk/size) && now="$now $($b basename $at)=$size"
    done
    [ "$now" = "$seen" ] || echo "DISKS$now;"
    seen=$now
    $b usleep 20000
done
"""


@dataclass(frozen=True)
class Boot:
    """What QEMU starts the guest from."""

    kernel: Path
    initramfs: Path


def program(name: str, package: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def boot_files(folder: Path) -> Boot:
    """A kernel, and an initramfs made for it; skips the test where there is none."""
    for root in (Path(given) for given in _ROOTS if given):
        for modules in sorted(root.glob("lib/modules/*/kernel")):
            kernel = root / "boot" / f"vmlinuz-{modules.parent.name}"
            if kernel.exists() and next(modules.rglob("virtio_blk.ko"), None) is not None:
                return Boot(kernel, _initramfs(folder, modules))
    pytest.skip(
        "there is no Debian kernel for a guest: unpack linux-image-cloud-amd64 into .venv/guest, as .ci/run does"
    )


def _initramfs(folder: Path, modules: Path) -> Path:
    root = folder / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(program("busybox", "busybox-static"), root / "bin" / "busybox")
    for module in _MODULES:
        for file in modules.rglob(f"{module}.ko"):
            shutil.copy(file, root / "modules")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    pack = [program("cpio", "cpio"), "-o", "-H", "newc", "--quiet"]
    packed = subprocess.run(pack, cwd=root, input=names.encode(), stdout=subprocess.PIPE, check=True)
    image = folder / "initramfs.gz"
    image.write_bytes(gzip.compress(packed.stdout, 1))
    return image


class Qemu:
    """A virtual machine with a monitor for the bridge and one for the test; buses pci.0 and b1 take functions."""

    def __init__(self, folder: Path, boot: Boot) -> None:
        self._folder = folder
        self._boot = boot
        self._console = folder / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.monitor = str(folder / "qmp.sock")
        self._own_monitor = str(folder / "own.sock")

    def start(self, *, paused: bool = False) -> None:
        """Starts it and waits until the guest is up or, `paused`, until the monitor answers."""
        self._console.unlink(missing_ok=True)
        arguments: Sequence[str] = [
            program("qemu-system-x86_64", "qemu-system-x86"),
            "-machine", "pc,accel=tcg,memory-backend=memory", "-m", "128",
            "-object", "memory-backend-memfd,id=memory,size=128M,share=on",
            "-nodefaults", "-no-user-config", "-display", "none",
            "-device", "pci-bridge,id=b1,chassis_nr=1,addr=0x2",
            "-serial", f"file:{self._console}",
            "-qmp", f"unix:{self.monitor},server=on,wait=off", "-qmp", f"unix:{self._own_monitor},server=on,wait=off",
            "-kernel", str(self._boot.kernel), "-initrd", str(self._boot.initramfs),
            "-append", "console=ttyS0 quiet panic=-1", *(["-S"] if paused else []),
        ]  # fmt: skip
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)
        wait_until(
            self._answers if paused else lambda: "DISKS" in self.console, "the guest is up", seconds=5 * PATIENCE_S
        )

    def stop(self) -> None:
        """Ends it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    @property
    def console(self) -> str:
        """What the guest has printed."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    @property
    def disks(self) -> dict[str, int]:
        """The disks that the guest sees: sizes in bytes by PCI address."""
        last = re.findall(r"DISKS(.*);", self.console)[-1:]
        pairs = [item.split("=") for item in " ".join(last).split()]
        return {address: int(sectors) * 512 for address, sectors in pairs}

    def sees(self, **disks: int) -> None:
        """Waits until the guest sees these disks and no others: sizes by slot, as in s05 (pci.0) or b05 (b1)."""
        wanted = {f"0000:{'00' if slot[0] == 's' else '01'}:{slot[1:]}.0": size for slot, size in disks.items()}
        wait_until(lambda: self.disks == wanted, f"the guest sees {wanted}, not {self.disks}")

    def ask(self, command: str, **arguments: Any) -> Any:
        """QEMU's answer, over the test's own monitor."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(self._own_monitor)
            stream = connection.makefile("rw")
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(request))
                stream.flush()
            answers = (json.loads(line) for line in stream)
            results = [answer for answer in (next(answers) for _ in range(3)) if "event" not in answer]
        assert "return" in results[-1], results
        return results[-1]["return"]

    @property
    def plugged(self) -> set[str]:
        """The IDs of the bridge's devices and character devices."""
        devices = {item["name"] for item in self.ask("qom-list", path="/machine/peripheral")}
        chardevs = {item["label"] for item in self.ask("query-chardev")}
        return {name for name in devices | chardevs if name.startswith("opi-")}

    def _answers(self) -> bool:
        try:
            return bool(self.ask("query-status"))
        except OSError:
            return False


class Disks:
    """`qemu-storage-daemon`, which serves vhost-user-blk sockets in `folder`, as the target would; `size` in bytes."""

    def __init__(self, folder: Path, names: Sequence[str], size: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.size = size
        self._names = names
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until the sockets are there."""
        arguments = [program("qemu-storage-daemon", "qemu-system-common")]
        for name in self._names:
            socket_path = self.folder / name
            arguments += ["--blockdev", f"driver=null-co,node-name={name},size={self.size},read-zeroes=on"]
            arguments += ["--export", f"type=vhost-user-blk,id={name},node-name={name},writable=on,"
                          f"addr.type=unix,addr.path={socket_path}"]  # fmt: skip
        self._process = subprocess.Popen(arguments)
        wait_until(lambda: all((self.folder / name).is_socket() for name in self._names), "disks are served")

    def stop(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None
        for name in self._names:
            (self.folder / name).unlink(missing_ok=True)
