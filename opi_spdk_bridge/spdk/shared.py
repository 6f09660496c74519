"""The folder that the bridge and the target both see: key files for the keyring, folders for vfio-user sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from opi_spdk_bridge import errors
from opi_spdk_bridge.sockets import too_long

VFIO_USER_SOCKET = "cntrl"
"""What the target names the socket in a vfio-user listener's folder."""
_ENTRY = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class SharedFolder:
    """`path` is where the bridge sees it, `target_path` where the target does (elsewhere in another container)."""

    path: Path
    target_path: Path

    @classmethod
    def parse(cls, text: str) -> SharedFolder:
        """Reads BRIDGE_PATH[:TARGET_PATH]."""
        here, _, there = text.partition(":")
        path = Path(here).expanduser().absolute()
        return cls(path, Path(there) if there else path)

    def prepare(self) -> None:
        """Makes the folder if need be and checks that it is writable and 0700; raises FailedPrecondition."""
        try:
            for folder in (self.path, self.path / "keys", self.path / "vfio-user"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.path / "keys" / f".probe-{os.getpid()}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as problem:
            raise errors.FailedPrecondition(
                f"the folder shared with the SPDK target, {self.path}, cannot be used: {problem.strerror}."
                " Give one that the bridge may write with --spdk-shared-dir."
            ) from problem
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077:
            raise errors.FailedPrecondition(
                f"the folder shared with the SPDK target, {self.path}, has mode {mode:04o} but holds keys:"
                f" run `chmod 0700 {self.path}`."
            )

    def require_readable(self, target_uid: int | None) -> None:
        """Raises FailedPrecondition unless a target of that user (None: not known) can read key files in the folder."""
        owner = self.path.stat().st_uid
        if target_uid not in (None, owner):
            raise errors.FailedPrecondition(
                f"the SPDK target runs as uid {target_uid}, but the folder shared with it, {self.path}, belongs to uid"
                f" {owner}: it cannot read key files there. Run both as one user, or give the folder to the target's:"
                f" `chown {target_uid} {self.path} {self.path}/*` (the bridge then has to be root)."
            )

    async def write_key(self, name: str, material: bytes, target_uid: int | None) -> None:
        """Writes the key file that the target's keyring will read (0600, the target's own).

        Raises FailedPrecondition when the file cannot be made readable for `target_uid` (None: not known).
        """
        await asyncio.to_thread(self._write_key, self._key(name), material, target_uid)

    def _write_key(self, path: Path, material: bytes, target_uid: int | None) -> None:
        self.require_readable(target_uid)
        try:
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(material)
                if target_uid is not None and target_uid != os.fstat(file.fileno()).st_uid:
                    os.chown(file.fileno(), target_uid, -1)
        except OSError as problem:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise errors.FailedPrecondition(
                f"the key file for the SPDK target cannot be written in {path.parent}: {problem.strerror}. The target"
                f" reads only key files of its own user (uid {target_uid}): run it and the bridge under one uid."
            ) from problem

    async def has_key(self, name: str, material: bytes) -> bool:
        """Whether the key file is there and has just that."""
        return await asyncio.to_thread(self._has_key, self._key(name), material)

    @staticmethod
    def _has_key(path: Path, material: bytes) -> bool:
        try:
            return path.read_bytes() == material
        except OSError:
            return False

    async def remove_key(self, name: str) -> None:
        """Removes a key file; absent is success. Raises FailedPrecondition where the folder does not let it."""
        path = self._key(name)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as problem:
            raise errors.FailedPrecondition(f"the key file {path} cannot be removed: {problem.strerror}") from problem

    async def make_socket_folder(self, name: str) -> None:
        """Makes the folder in which the target puts a vfio-user socket; raises FailedPrecondition where it cannot."""
        path = self._socket_folder(name)
        try:
            await asyncio.to_thread(path.mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise errors.FailedPrecondition(f"the folder {path} cannot be made: {problem.strerror}") from problem

    async def remove_socket_folder(self, name: str) -> None:
        """Removes such a folder with what the target left in it; absent is success."""
        await asyncio.to_thread(shutil.rmtree, self._socket_folder(name), True)

    def target_key_path(self, name: str) -> str:
        """The key file's path as the target sees it."""
        return str(self.target_path / "keys" / name)

    def require_socket_fits(self, name: str) -> None:
        """Raises FailedPrecondition where the target cannot make the vfio-user socket in a folder of that name."""
        problem = too_long(f"{self.target_socket_folder(name)}/{VFIO_USER_SOCKET}")
        if problem:
            raise errors.FailedPrecondition(f"{problem}: give a shorter folder with --spdk-shared-dir")

    def target_socket_folder(self, name: str) -> str:
        """The socket folder's path as the target sees it."""
        return str(self.target_path / "vfio-user" / name)

    def _key(self, name: str) -> Path:
        return self.path / "keys" / self._entry(name)

    def _socket_folder(self, name: str) -> Path:
        return self.path / "vfio-user" / self._entry(name)

    @staticmethod
    def _entry(name: str) -> str:
        if not _ENTRY.fullmatch(name) or name.startswith("."):
            raise ValueError(name)
        return name
