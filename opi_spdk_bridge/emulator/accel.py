"""Data encryption keys (lib/accel): made by name, used by crypto bdevs."""

import binascii
from dataclasses import dataclass
from errno import EEXIST, EINVAL
from typing import Any, Literal

from .crash import segmentation_fault
from .registry import ACCEL_FAILURE, INVALID_PARAMS, MethodTable, RpcError, errno_error

methods = MethodTable["CryptoKeys"](ACCEL_FAILURE)

SOFTWARE_KEY_SIZES = (16, 32)
"""Bytes of one AES-XTS half that the software module supports."""


@dataclass(frozen=True)
class CryptoKey:
    """A data encryption key; both halves as they were given, in hex."""

    name: str
    cipher: str
    key: str
    key2: str
    tweak_mode: str

    def describe(self) -> dict[str, str]:
        return {
            "name": self.name,
            "cipher": self.cipher,
            "key": self.key,
            "key2": self.key2,
            "tweak_mode": self.tweak_mode,
        }


class CryptoKeys:
    """All data encryption keys by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, CryptoKey] = {}

    def create(self, name: str, cipher: str, key: str | None, key2: str | None, tweak_mode: str) -> CryptoKey:
        """Raises OSError: EINVAL for a key the software module does not take, EEXIST for a name in use."""
        first, second = _unhexlify(key), _unhexlify(key2)
        if cipher != "AES_XTS" or tweak_mode != "SIMPLE_LBA" or key is None or key2 is None:
            raise errno_error(EINVAL)
        if len(first) not in SOFTWARE_KEY_SIZES or len(first) != len(second) or first == second:
            raise errno_error(EINVAL)
        if name in self.by_name:
            raise errno_error(EEXIST)
        self.by_name[name] = CryptoKey(name, cipher, key, key2, tweak_mode)
        return self.by_name[name]

    def use(self, key: CryptoKey, user: str) -> None:
        """What a crypto bdev's I/O does with its key; ends the process when that was destroyed: it is freed memory."""
        if self.by_name.get(key.name) is not key:
            segmentation_fault(f"crypto bdev {user} uses its key {key.name}, which accel_crypto_key_destroy has freed")

    def config(self) -> list[dict[str, Any]]:
        return [{"method": "accel_crypto_key_create", "params": key.describe()} for key in self.by_name.values()]


def _unhexlify(text: str | None) -> bytes:
    try:
        return binascii.unhexlify(text or "")
    except ValueError:
        raise errno_error(EINVAL) from None


@dataclass(frozen=True)
class CreateKey:
    cipher: Literal["AES_CBC", "AES_XTS"]
    key: str
    name: str
    key2: str | None = None
    tweak_mode: Literal["SIMPLE_LBA", "JOIN_NEG_LBA_WITH_LBA", "INCR_512_FULL_LBA", "INCR_512_UPPER_LBA"] = "SIMPLE_LBA"


@dataclass(frozen=True)
class DestroyKey:
    key_name: str


@dataclass(frozen=True)
class GetKeys:
    key_name: str | None = None


@methods.rpc("accel_crypto_key_create", CreateKey)
def create_key(keys: CryptoKeys, params: CreateKey) -> None:
    try:
        keys.create(params.name, params.cipher, params.key, params.key2, params.tweak_mode)
    except OSError as error:
        raise RpcError(INVALID_PARAMS, f"failed to create DEK, rc -{error.errno}") from None


@methods.rpc("accel_crypto_key_destroy", DestroyKey)
def destroy_key(keys: CryptoKeys, params: DestroyKey) -> None:
    if keys.by_name.pop(params.key_name, None) is None:
        raise RpcError(INVALID_PARAMS, "No key object found")


@methods.rpc("accel_crypto_keys_get", GetKeys)
def get_keys(keys: CryptoKeys, params: GetKeys) -> list[dict[str, str]]:
    if params.key_name is None:
        return [key.describe() for key in keys.by_name.values()]
    if params.key_name not in keys.by_name:
        raise RpcError(INVALID_PARAMS, "key was not found")
    return [keys.by_name[params.key_name].describe()]
