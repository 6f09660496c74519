"""Encryption on another bdev (module/bdev/crypto): AES-XTS, the tweak is the block's number."""

import hashlib
import uuid
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENODEV
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..accel import CryptoKey, CryptoKeys
from ..reactor import Hops, Thread, Work
from ..registry import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    NVMF_FAILURE,
    PARSE_ERROR,
    Failure,
    MethodTable,
    RpcError,
    errno_error,
)
from .device import Bdev, Descriptor
from .layer import BdevLayer
from .rpc import Name
from .stat import Kind

methods = MethodTable["CryptoModule"](Failure(PARSE_ERROR, "Failed to decode crypto disk create parameters."))

NAMESPACE = uuid.UUID("078e3cf7-f4b4-4545-b2c3-d40045a64ae2")
"""With the base's UUID it gives the UUID of the crypto bdev (UUID version 5)."""
DEFAULT_CIPHER = "AES_CBC"
PASSED_ON = frozenset({"read", "write", "unmap", "flush", "reset"})


class CryptoBdev(Bdev):
    module = "crypto"
    product_name = "crypto"
    destruct_turns = 1

    def __init__(self, name: str, base: Descriptor, key: CryptoKey, keys: CryptoKeys, layer: BdevLayer) -> None:
        below = base.bdev
        super().__init__(
            name,
            below.block_size,
            below.num_blocks,
            identity=str(uuid.UUID(bytes=_sha1_identity(uuid.UUID(below.uuid)))),
            numa_id=below.numa_id,
        )
        self._base = base
        self.below = below
        self._key = key
        self._keys = keys
        self._layer = layer
        self._cipher_key = bytes.fromhex(key.key) + bytes.fromhex(key.key2)
        self.io_types = frozenset(io_type for io_type in PASSED_ON if below.supports(io_type))

    def driver_specific(self) -> dict[str, Any]:
        return {
            "crypto": {"base_bdev_name": self._base.bdev.name, "name": self.name, "key_name": self._key.name},
        }

    def creation(self) -> dict[str, Any]:
        """The call that made it."""
        return {
            "method": "bdev_crypto_create",
            "params": {
                "base_bdev_name": self._base.bdev.name,
                "name": self.name,
                "key_name": self._key.name,
            },
        }

    def channel_opened(self) -> None:
        self._layer.open_channel(self._base.bdev)

    def channel_closed(self) -> None:
        """The module's channel is closed by a message, and then the one to the base by another."""
        closing = Hops(self._layer.reactor, [(Thread.POLL_GROUP, None), (Thread.POLL_GROUP, None)])
        closing.then(partial(self._layer.close_channel, self._base.bdev))

    def record(self, kind: Kind, ops: int, size_bytes: int, latency_ticks: int) -> None:
        super().record(kind, ops, size_bytes, latency_ticks)
        self._base.bdev.record(kind, ops, size_bytes, latency_ticks)

    def record_failures(self, count: int) -> None:
        super().record_failures(count)
        self._base.bdev.record_failures(count)

    async def read(self, offset: int, length: int) -> bytes:
        return self._crypt(offset, await self._base.bdev.read(offset, length), decrypt=True)

    async def write(self, offset: int, content: bytes) -> None:
        await self._base.bdev.write(offset, self._crypt(offset, content, decrypt=False))

    def _crypt(self, offset: int, content: bytes, *, decrypt: bool) -> bytes:
        self._keys.use(self._key, self.name)
        blocks = []
        for start in range(0, len(content), self.block_size):
            lba = (offset + start) // self.block_size
            tweak = bytes(8) + lba.to_bytes(8, "little")
            cipher = Cipher(algorithms.AES(self._cipher_key), modes.XTS(tweak))
            context = cipher.decryptor() if decrypt else cipher.encryptor()
            blocks.append(context.update(content[start : start + self.block_size]) + context.finalize())
        return b"".join(blocks)

    def destruct(self) -> None:
        self._layer.release(self._base)
        self._layer.close(self._base)


def _sha1_identity(base: uuid.UUID) -> bytes:
    """The version 5 UUID of a base's UUID, taken as bytes (spdk_uuid_generate_sha1)."""
    digest = bytearray(hashlib.sha1(NAMESPACE.bytes + base.bytes, usedforsecurity=False).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x50
    digest[8] = (digest[8] & 0x3F) | 0x80
    return bytes(digest)


@dataclass(frozen=True)
class _Wanted:
    base: str
    key: CryptoKey
    owns_key: bool


class CryptoModule:
    """The crypto bdevs that were asked for, in order; one is made when its base is there, now or later.

    What was asked for outlives a base that goes: when a bdev of that name comes back, so does the crypto bdev, with the
    key that was given then, whatever has become of it. Only a successful bdev_crypto_delete forgets it.
    """

    def __init__(self, layer: BdevLayer, keys: CryptoKeys) -> None:
        self.layer = layer
        self.keys = keys
        self._wanted: dict[str, _Wanted] = {}
        layer.examiners.append(self._examine)

    def create(self, name: str, base: str, key: CryptoKey, *, owns_key: bool) -> None:
        """Raises OSError: EEXIST for a name asked for before, EPERM for a base that is claimed, EINVAL."""
        if name in self._wanted:
            raise errno_error(EEXIST)
        self._wanted[name] = _Wanted(base, key, owns_key)
        try:
            self._claim(base)
        except OSError as error:
            if error.errno != ENODEV:
                del self._wanted[name]
                raise

    def forget(self, name: str) -> None:
        wanted = self._wanted.pop(name, None)
        if wanted is not None and wanted.owns_key:
            self.keys.by_name.pop(wanted.key.name, None)

    def config(self) -> list[dict[str, Any]]:
        return [bdev.creation() for bdev in self.layer if isinstance(bdev, CryptoBdev)]

    def _examine(self, bdev: Bdev) -> None:
        try:
            self._claim(bdev.name)
        except OSError:
            return

    def _claim(self, base: str) -> None:
        """Makes the first crypto bdev that was asked for on `base`."""
        for name, wanted in self._wanted.items():
            if wanted.base != base:
                continue
            descriptor = self.layer.open(base, writable=True)
            bdev = CryptoBdev(name, descriptor, wanted.key, self.keys, self.layer)
            descriptor.on_remove = partial(self.layer.unregister_soon, bdev)
            self.layer.claim(descriptor, CryptoBdev.module)
            try:
                self.layer.register(bdev)
            except OSError:
                bdev.destruct()
                raise errno_error(EINVAL) from None
            self.keys.use(wanted.key, name)  # gpt, lvol and raid read the new bdev at once
            return


@dataclass(frozen=True)
class CreateCrypto:
    base_bdev_name: str
    name: str
    crypto_pmd: str | None = None
    key: str | None = None
    cipher: str | None = None
    key2: str | None = None
    key_name: str | None = None


@methods.rpc("bdev_crypto_create", CreateCrypto)
def create(module: CryptoModule, params: CreateCrypto) -> str:
    keys = module.keys
    if params.key_name is not None and params.key_name not in keys.by_name:
        raise RpcError(INVALID_PARAMS, "Key was not found")
    cipher = params.cipher or DEFAULT_CIPHER
    key_name = params.key_name or f"{params.name}_{cipher}"
    key, owned = keys.by_name.get(key_name), False
    if key is None:
        try:
            key, owned = keys.create(key_name, cipher, params.key, params.key2, "SIMPLE_LBA"), True
        except OSError:
            raise RpcError(INTERNAL_ERROR, "No key was found") from None
    try:
        module.create(params.name, params.base_bdev_name, key, owns_key=owned)
    except OSError:
        if owned:
            del keys.by_name[key_name]
        raise
    return params.name


@methods.rpc("bdev_crypto_delete", Name, failure=NVMF_FAILURE)
def delete(module: CryptoModule, params: Name) -> Work[None]:
    return Work(_delete(module, params.name, module.layer.unregister_by_name(params.name, CryptoBdev.module)))


async def _delete(module: CryptoModule, name: str, removal: Work[None]) -> None:
    await removal
    module.forget(name)
