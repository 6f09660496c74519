"""The two kinds of vhost-user controllers: virtio-blk on a bdev, virtio-scsi with up to eight targets."""

import asyncio
import contextlib
import itertools
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EINVAL, EIO, ENOSPC
from pathlib import Path
from typing import Any

from .bdev.device import Descriptor
from .bdev.layer import BdevLayer
from .registry import errno_error

BLK_TRANSPORT = "vhost_user_blk"
SCSI_TARGETS_MAX = 8
IOPS_THRESHOLD_DEFAULT = 60000
PATH_MAX = 4096
SOCKET_PATH_MAX = 107


@dataclass(eq=False)
class Controller:
    """What the two kinds of controllers have in common; `listener` is the vhost-user socket once it is there."""

    name: str
    path: Path
    cpumask: int
    listener: socket.socket | None = None
    delay_base_us: int = 0
    iops_threshold: int = IOPS_THRESHOLD_DEFAULT
    sessions: dict[socket.socket, int] = field(default_factory=dict)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, when the last guest has hung up."""
    _session_ids: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        """Creates the socket, at a path cut off where it is too long. Whatever socket is there gives way.

        The socket is elsewhere then, stays there at the end, and is in the way of the next whose path begins alike
        (create_unix_socket in DPDK's lib/vhost). Raises OSError: EINVAL, EIO.
        """
        if self.listener is not None:
            return
        if len(os.fsencode(self.path)) >= PATH_MAX:
            raise errno_error(EINVAL)
        self._make_way()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(os.fsencode(self.path)[:SOCKET_PATH_MAX])
            listener.listen()
        except OSError:
            listener.close()
            raise errno_error(EIO) from None
        listener.setblocking(False)
        self.listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _accept(self) -> None:
        """A guest's connection is a session until the guest hangs up; what it says is not understood."""
        if self.listener is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            guest, _ = self.listener.accept()
            guest.setblocking(False)
            self.sessions[guest] = next(self._session_ids)
            asyncio.get_running_loop().add_reader(guest, self._read, guest)

    def _read(self, guest: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                if guest.recv(4096):
                    return
            except ConnectionError:
                pass
            self._hang_up(guest)

    def _hang_up(self, guest: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(guest)
        del self.sessions[guest]
        guest.close()
        if not self.sessions:
            self.left.set()
            self.left = asyncio.Event()

    def _make_way(self) -> None:
        try:
            mode = self.path.stat().st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            raise errno_error(EIO)
        try:
            self.path.unlink()
        except OSError:
            raise errno_error(EIO) from None

    def stop(self) -> None:
        if self.listener is not None:
            asyncio.get_running_loop().remove_reader(self.listener)
            self.listener.close()
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.listener = None
        for guest in list(self.sessions):
            self._hang_up(guest)

    def release(self, bdevs: BdevLayer) -> None:
        """Closes the bdevs of the controller."""

    def backend(self) -> dict[str, Any]:
        return {}

    def config(self) -> Iterator[dict[str, Any]]:
        yield from ()

    def describe(self) -> dict[str, Any]:
        return {
            "ctrlr": self.name,
            "cpumask": f"{self.cpumask:#x}",
            "delay_base_us": self.delay_base_us,
            "iops_threshold": self.iops_threshold,
            "socket": str(self.path),
            "sessions": [
                {
                    "vid": number,
                    "id": number,
                    "name": f"{self.name}s{number}",
                    "started": False,
                    "max_queues": 0,
                    "inflight_task_cnt": 0,
                }
                for number in self.sessions.values()
            ],
            "backend_specific": self.backend(),
        }


@dataclass(eq=False)
class BlkController(Controller):
    """A virtio-blk controller. When its bdev goes it stays, without one."""

    descriptor: Descriptor | None = None
    readonly: bool = False

    def release(self, bdevs: BdevLayer) -> None:
        if self.descriptor is not None:
            bdevs.close(self.descriptor)
            self.descriptor = None

    def backend(self) -> dict[str, Any]:
        bdev = self.descriptor.bdev.name if self.descriptor else None
        return {"block": {"readonly": self.readonly, "bdev": bdev, "transport": BLK_TRANSPORT}}

    def config(self) -> Iterator[dict[str, Any]]:
        if self.descriptor is None:
            return
        yield {
            "method": "vhost_create_blk_controller",
            "params": {
                "ctrlr": self.name,
                "dev_name": self.descriptor.bdev.name,
                "cpumask": f"{self.cpumask:x}",
                "readonly": self.readonly,
                "transport": BLK_TRANSPORT,
            },
        }


@dataclass
class ScsiTarget:
    """One SCSI target with one LUN; `device_id` counts SCSI devices of the whole process.

    It is `present` once the sessions have been told of it, and until they are to be told that it goes.
    """

    device_id: int
    descriptor: Descriptor
    present: bool = False


@dataclass(eq=False)
class ScsiController(Controller):
    """A virtio-scsi controller. When a LUN's bdev goes, the target goes with it."""

    targets: dict[int, ScsiTarget] = field(default_factory=dict)

    def release(self, bdevs: BdevLayer) -> None:
        for number in list(self.targets):
            self.remove_target(bdevs, number)

    def remove_target(self, bdevs: BdevLayer, number: int) -> None:
        target = self.targets.pop(number, None)
        if target is not None:
            bdevs.close(target.descriptor)

    def free_number(self) -> int:
        for number in range(SCSI_TARGETS_MAX):
            if number not in self.targets:
                return number
        raise errno_error(ENOSPC)

    def backend(self) -> dict[str, Any]:
        return {
            "scsi": [
                {
                    "scsi_dev_num": number,
                    "id": target.device_id,
                    "target_name": f"Target {number}",
                    "luns": [{"id": 0, "bdev_name": target.descriptor.bdev.name}],
                }
                for number, target in sorted(self.targets.items())
                if target.present
            ]
        }

    def config(self) -> Iterator[dict[str, Any]]:
        yield {
            "method": "vhost_create_scsi_controller",
            "params": {"ctrlr": self.name, "cpumask": f"{self.cpumask:x}", "delay": True},
        }
        for number, target in sorted(self.targets.items()):
            params = {"ctrlr": self.name, "scsi_target_num": number, "bdev_name": target.descriptor.bdev.name}
            yield {"method": "vhost_scsi_controller_add_target", "params": params}
        yield {"method": "vhost_start_scsi_controller", "params": {"ctrlr": self.name}}
