"""Stores by their address, and the master key from where the operator put it."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path

from opi_spdk_bridge import errors
from opi_spdk_bridge.store.base import Store
from opi_spdk_bridge.store.memory import MemoryStore
from opi_spdk_bridge.store.seal import MasterKey, SealedStore
from opi_spdk_bridge.store.sqlite import SqliteStore
from opi_spdk_bridge.telemetry.redact import MASK

KEY_VARIABLE = "OPI_BRIDGE_MASTER_KEY"
_USER = re.compile(r"(?<=://)[^/@]+(?=@)")
_CREDENTIAL = "opi-spdk-bridge.key"  # under systemd's LoadCredential=


def open_store(address: str, folder: Path, key_file: Path | None, *, read_only: bool = False) -> Store:
    """The store at sqlite:PATH, redis://… or memory:, its secrets sealed; not opened yet.

    The key: `key_file`, else systemd's credential, else the environment, else a file beside the state (in `folder`
    where the state is in no file). Raises InvalidArgument for another address, FailedPrecondition about the key.
    """
    scheme, _, place = address.partition(":")
    if scheme == "memory" and not place:
        return MemoryStore()
    if path := sqlite_path(address):
        return SealedStore(SqliteStore(path, read_only=read_only), master_key(key_file, beside(path)))
    if scheme in ("redis", "rediss", "unix") and place.startswith("//"):
        try:
            from opi_spdk_bridge.store.redis import RedisStore
        except ImportError:
            text = "state in Redis needs the package's extra: pip install 'opi-spdk-bridge[redis]'"
            raise errors.FailedPrecondition(text, field="state") from None
        return SealedStore(RedisStore(address, read_only=read_only), master_key(key_file, folder / "redis.key"))
    raise errors.InvalidArgument(
        f"--state {shown(address)!r} is none of sqlite:PATH, redis://HOST and memory:", field="state"
    )


def shown(address: str) -> str:
    """The address as it may be told: without the user and password of a URL."""
    return _USER.sub(MASK, address)


def sqlite_path(address: str) -> Path | None:
    """The file of sqlite:PATH; None for other addresses."""
    scheme, _, place = address.partition(":")
    return Path(place).expanduser().absolute() if scheme == "sqlite" and place else None


def beside(state: Path) -> Path:
    """Where the key of a state file is by default."""
    return state.with_name(f"{state.name}.key")


def master_key(key_file: Path | None, default: Path) -> MasterKey:
    """The key from the first place that has one; the file `default` is made where there is none."""
    if key_file is not None:
        return MasterKey.from_file(key_file)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (Path(credentials) / _CREDENTIAL).exists():
        path = Path(credentials) / _CREDENTIAL
        return MasterKey.from_bytes(path.read_bytes(), str(path))
    if given := os.environ.get(KEY_VARIABLE):
        try:
            material = b"".join(base64.b64decode(part, validate=True) for part in given.split(","))
        except binascii.Error:
            raise errors.FailedPrecondition(f"the master key in {KEY_VARIABLE} is not base64") from None
        return MasterKey.from_bytes(material, f"in {KEY_VARIABLE}")
    return MasterKey.from_file(default)
