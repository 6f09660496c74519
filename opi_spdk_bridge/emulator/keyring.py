"""The keyring (lib/keyring, module/keyring/file): named keys in files, counted while something holds them."""

import base64
import binascii
import os
import re
import stat
import zlib
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOBUFS, ENOKEY, EPERM
from pathlib import Path
from typing import Any

from .registry import ERRNO_FAILURE, MethodTable, errno_error

methods = MethodTable["Keyring"](ERRNO_FAILURE)

PSK_LENGTH_MAX = 200
_PSK = re.compile(r"NVMeTLSkey-1:([0-9a-fA-F]{1,2}):([^:]+):(?:.*:)?\Z", re.DOTALL)
_PSK_LENGTHS = {0: (32, 48), 1: (32,), 2: (48,)}
"""The bytes a configured PSK may have by the hash it names (TP 8006: none, SHA-256, SHA-384)."""


@dataclass(eq=False)
class Key:
    """A key; the keyring itself is its first holder. `removed` keys live on until the last holder lets go."""

    name: str
    path: Path
    refcnt: int = 1
    removed: bool = False

    def read(self, limit: int) -> bytes:
        """The key's text, read from its file now. Raises OSError."""
        if self.removed:
            raise errno_error(ENOKEY)
        check_path(self.path)
        text = self.path.read_bytes()
        if len(text) > limit:
            raise errno_error(ENOBUFS)
        return text

    def describe(self) -> dict[str, Any]:
        info = {
            "name": self.name,
            "module": "keyring_file",
            "removed": self.removed,
            "probed": False,
            "refcnt": self.refcnt,
        }
        return info if self.removed else {**info, "path": str(self.path)}


class Keyring:
    """All keys by name; `k` and `:k` are one name, other keyrings than the global one do not exist."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._removed: list[Key] = []

    def add(self, name: str, path: str) -> None:
        """Raises OSError: the name is taken, or the file is not absolute, private and the target's own."""
        if ":" in name and not name.startswith(":"):
            raise errno_error(EINVAL)
        if _local_name(name) in self._keys:
            raise errno_error(EEXIST)
        check_path(Path(path))
        self._keys[_local_name(name)] = Key(name, Path(path))

    def remove(self, name: str) -> None:
        """Raises OSError when there is no such key."""
        key = self._keys.pop(_local_name(name), None)
        if key is None:
            raise errno_error(ENOKEY)
        key.removed = True
        self._removed.append(key)
        self.put(key)

    def get(self, name: str) -> Key | None:
        """The key, held once more until `put`; None when there is none."""
        key = self._keys.get(_local_name(name))
        if key is not None:
            key.refcnt += 1
        return key

    def put(self, key: Key | None) -> None:
        if key is None:
            return
        key.refcnt -= 1
        if key.refcnt == 0:
            self._removed.remove(key)

    def describe(self) -> list[dict[str, Any]]:
        return [key.describe() for key in (*self._keys.values(), *self._removed)]

    def config(self) -> list[dict[str, Any]]:
        return [
            {"method": "keyring_file_add_key", "params": {"name": key.name, "path": str(key.path)}}
            for key in self._keys.values()
        ]


def _local_name(name: str) -> str:
    before, separator, after = name.partition(":")
    return after if separator else before


def check_path(path: Path) -> None:
    """Raises OSError unless the file may hold a key: absolute, there, closed to others, owned by the target's user."""
    if not path.is_absolute():
        raise errno_error(EPERM)
    info = path.stat()
    if stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid != os.getuid():
        raise errno_error(EPERM)


def parse_psk(interchange: bytes) -> bytes:
    """The configured PSK in the NVMe TLS PSK interchange format. Raises ValueError."""
    text = interchange.decode("ascii")
    match = _PSK.match(text)
    if match is None or len(text) >= PSK_LENGTH_MAX:
        raise ValueError("not a PSK in interchange format")
    lengths = _PSK_LENGTHS.get(int(match[1], 16))
    try:
        decoded = base64.b64decode(match[2], validate=True)
    except binascii.Error as error:
        raise ValueError("not a PSK in base64") from error
    psk, checksum = decoded[:-4], int.from_bytes(decoded[-4:], "little")
    if lengths is None or len(psk) not in lengths or zlib.crc32(psk) != checksum:
        raise ValueError("a PSK of the wrong length or checksum")
    return psk


@dataclass(frozen=True)
class AddKey:
    name: str
    path: str


@dataclass(frozen=True)
class RemoveKey:
    name: str


@methods.rpc("keyring_file_add_key", AddKey, relaxed=True)
def add_key(keyring: Keyring, params: AddKey) -> None:
    keyring.add(params.name, params.path)


@methods.rpc("keyring_file_remove_key", RemoveKey)
def remove_key(keyring: Keyring, params: RemoveKey) -> None:
    keyring.remove(params.name)


@methods.plain("keyring_get_keys")
def get_keys(keyring: Keyring) -> list[dict[str, Any]]:
    return keyring.describe()
