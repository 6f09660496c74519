"""The target's folder of vhost sockets, in which a controller is a socket of its name.

A target that makes a controller first unlinks whatever socket has that path, its own RPC socket as well. So the bridge
looks before, as far as it sees the folder. Where that is any controller tells; before there is one, how a target that
runs on this machine was started.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import stat
from pathlib import Path

from opi_spdk_bridge import errors
from opi_spdk_bridge.sockets import too_long
from opi_spdk_bridge.spdk.client import Client
from opi_spdk_bridge.spdk.view import LiveView

_SPDK_PROGRAMS = ("spdk_tgt", "vhost")
"""They have the folder in -S, else it is where they were started."""
_FLAGS = ("-S", "--vhost-dir")


class VhostFolder:
    """Learnt on each connection, when it is first needed."""

    def __init__(self, client: Client, view: LiveView) -> None:
        self._client = client
        self._view = view
        self._path: Path | None = None
        client.on_connected.append(self._forget)

    def _forget(self) -> None:
        self._path = None

    async def require_free(self, name: str) -> None:
        """Raises where a controller of that name, which the target does not have, would cost somebody a file.

        InvalidArgument for the target's RPC socket, FailedPrecondition for any other file but a socket that nobody
        listens at: such a one was the controller's, on a target that ended without taking it away.
        """
        address = self._client.address
        if "/" not in address:
            return  # the target, and its folder, may be on another machine
        if name in _names(address):
            raise errors.InvalidArgument(f"{name} cannot be a virtio device's ID: the target's RPC socket is named so")
        if self._path is None:
            self._path = await self._learn()
        if self._path is not None:
            await asyncio.to_thread(_require_free, self._path / name)

    async def require_found(self, name: str) -> None:
        """Raises FailedPrecondition where nobody finds the socket of a controller that has just been made.

        That asks nothing where the folder was known before it was made.
        """
        if self._path is not None:
            return
        seen = await self._view.vhost(name)
        if seen is not None:
            _require_short(seen.socket)

    async def _learn(self) -> Path | None:
        """Where the folder is; None where that cannot be known."""
        for device in await self._view.vhosts():
            path = Path(device.socket)
            return path.parent if path.is_absolute() else None
        pid = self._client.peer_pid
        return await asyncio.to_thread(_as_started, pid) if pid else None


def _as_started(pid: int) -> Path | None:
    """The folder by the command line of a process; None where that does not tell it, or is not to be seen."""
    process = Path("/proc") / str(pid)
    try:
        program, *words = (process / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        folder = next((word for flag, word in itertools.pairwise(words) if flag in _FLAGS), None)
        if folder is None and os.path.basename(program) in _SPDK_PROGRAMS:
            folder = ""
        return (process / "cwd").readlink() / folder if folder is not None else None
    except OSError:
        return None


def _names(path: str) -> set[str]:
    """The names of a file, and of what it is a link to."""
    return {os.path.basename(path), os.path.basename(os.path.realpath(path))}


def _require_free(path: Path) -> None:
    _require_short(path)
    try:
        what = _occupant(path)
    except OSError:
        return  # not to be seen from here
    if what:
        text = f"the device's socket would be {path}, which is {what}: take another ID, or remove what is there"
        raise errors.FailedPrecondition(text)


def _require_short(path: str | Path) -> None:
    wrong = too_long(path)  # a target cuts it off without a word
    if wrong:
        raise errors.FailedPrecondition(f"{wrong}: take a shorter ID, or another vhost folder (spdk_tgt -S)")


def _occupant(path: Path) -> str:
    """What is at the path; "" for nothing, and for a socket that nobody listens at. Raises OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ""
    if not stat.S_ISSOCK(mode):
        return "a file, and no socket"
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.setblocking(False)
        try:
            knocking.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return ""
        except PermissionError:
            raise
        except OSError:
            pass  # its queue is full, or it is of another type
    return "a socket that another program listens at"
