"""Secrets at rest: each row's secrets are sealed with AES-256-GCM before a store sees them.

The row's name is authenticated with them, so one row's secrets cannot be passed off as another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from opi_spdk_bridge import errors
from opi_spdk_bridge.store.base import Change, Row, Store

KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class MasterKey:
    """The keys of a state, each 32 bytes: the first seals, any of them opens. More than one only during a rotation."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    @classmethod
    def from_bytes(cls, material: bytes, source: str) -> MasterKey:
        """Reads one or more keys laid end to end; raises FailedPrecondition naming the source."""
        if not material or len(material) % KEY_BYTES:
            text = f"the master key {source} has {len(material)} bytes and not {KEY_BYTES}: put back the right one"
            raise errors.FailedPrecondition(text)
        return cls([material[start : start + KEY_BYTES] for start in range(0, len(material), KEY_BYTES)])

    @classmethod
    def from_file(cls, path: Path) -> MasterKey:
        """Reads the file, or makes it (0600) on first use; raises FailedPrecondition saying what to do."""
        try:
            if not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_key_file(path, [os.urandom(KEY_BYTES)])
            mode = stat.S_IMODE(path.stat().st_mode)
            material = path.read_bytes()
        except OSError as problem:
            raise errors.FailedPrecondition(f"the master key {path} cannot be used: {problem.strerror}") from problem
        if mode & 0o077:
            raise errors.FailedPrecondition(f"the master key {path} has mode {mode:04o}: run `chmod 0600 {path}`")
        return cls.from_bytes(material, str(path))

    def seal(self, name: str, secret: bytes) -> bytes:
        """Encrypts `secret` for the row `name`."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + self._ciphers[0].encrypt(nonce, secret, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Decrypts; raises FailedPrecondition for another key or a changed row."""
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        readable = sealed[:1] == _FORMAT and len(nonce) == _NONCE_BYTES
        for cipher in self._ciphers if readable else ():
            with contextlib.suppress(InvalidTag):
                return cipher.decrypt(nonce, text, name.encode())
        raise errors.FailedPrecondition(
            f"the secrets of {name} cannot be read with this master key: put back the key that belongs to the state"
        )


def write_key_file(path: Path, keys: Sequence[bytes]) -> None:
    """Puts the keys in a file (0600) in one step: a crash leaves the old file or the new. Raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(keys))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class SealedStore(Store):
    """A store whose rows' secrets are sealed on the way in and opened on the way out."""

    def __init__(self, store: Store, key: MasterKey) -> None:
        self._store = store
        self._key = key

    @property
    def address(self) -> str:
        return self._store.address

    @property
    def lost(self) -> asyncio.Event:
        return self._store.lost

    async def open(self) -> None:
        await self._store.open()

    async def load(self) -> list[Row]:
        return [
            replace(row, secrets=self._key.open(row.name, row.secrets)) if row.secrets else row
            for row in await self._store.load()
        ]

    async def write(self, change: Change) -> None:
        sealed = [
            replace(row, secrets=self._key.seal(row.name, row.secrets)) if row.secrets else row for row in change.puts
        ]
        await self._store.write(Change(sealed, change.deletes))

    def sync(self) -> asyncio.Future[None]:
        return self._store.sync()

    async def get_setting(self, key: str) -> str | None:
        return await self._store.get_setting(key)

    async def put_setting(self, key: str, value: str) -> None:
        await self._store.put_setting(key, value)

    async def close(self) -> None:
        await self._store.close()
