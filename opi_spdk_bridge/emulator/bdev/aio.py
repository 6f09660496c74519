"""Devices on files and block devices of the host (module/bdev/aio)."""

import array
import asyncio
import fcntl
import os
import stat
from dataclasses import dataclass
from errno import EINVAL, ENODEV, ENOTSUP
from typing import Any

from ..reactor import Work
from ..registry import BDEV_FAILURE, MethodTable, errno_error
from ..schema import U32, Uuid
from .device import Bdev
from .layer import BdevLayer
from .rpc import Name

methods = MethodTable[BdevLayer](BDEV_FAILURE)

BLOCK_SIZE_MIN = 512
_BLKSSZGET = 0x1268


class AioBdev(Bdev):
    module = "aio"
    product_name = "AIO disk"

    def __init__(self, params: "CreateAio", fd: int, block_size: int) -> None:
        super().__init__(params.name, block_size, file_size(fd) // block_size, identity=params.uuid)
        self.fd = fd
        self._params = params
        types = {"read", "write", "flush", "reset"}
        self.io_types = frozenset(types | {"unmap", "write_zeroes"} if params.fallocate else types)

    def _options(self) -> dict[str, Any]:
        return {
            "readonly": self._params.readonly,
            "fallocate": self._params.fallocate,
        }

    def driver_specific(self) -> dict[str, Any]:
        return {
            "aio": {
                "filename": self._params.filename,
                "block_size_override": self._params.block_size != 0,
                **self._options(),
                "nowait": self._params.nowait,
            }
        }

    def config(self) -> dict[str, Any]:
        block_size = {"block_size": self.block_size} if self._params.block_size else {}
        return {
            "method": "bdev_aio_create",
            "params": {
                "name": self.name,
                **block_size,
                "filename": self._params.filename,
                **self._options(),
                "uuid": self.uuid,
                "nowait": self._params.nowait,
            },
        }

    async def read(self, offset: int, length: int) -> bytes:
        return await asyncio.to_thread(os.pread, self.fd, length, offset)

    async def write(self, offset: int, content: bytes) -> None:
        await asyncio.to_thread(os.pwrite, self.fd, content, offset)

    def destruct(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True)
class CreateAio:
    name: str
    filename: str
    block_size: U32 = 0
    readonly: bool = False
    fallocate: bool = False
    uuid: Uuid = None
    nowait: bool = False


def file_size(fd: int) -> int:
    """The size in bytes of a file or block device; 0 for anything else."""
    info = os.fstat(fd)
    if stat.S_ISBLK(info.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


def _detect_block_size(fd: int) -> int:
    """The sector size of a block device; 0 for a file, which has none."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return 0
    size = array.array("i", [0])
    fcntl.ioctl(fd, _BLKSSZGET, size)
    return size[0]


def _choose_block_size(params: CreateAio, fd: int) -> int:
    detected = _detect_block_size(fd)
    block_size = params.block_size or detected
    if block_size < max(BLOCK_SIZE_MIN, detected) or block_size & (block_size - 1):
        raise errno_error(EINVAL)
    if file_size(fd) % block_size:
        raise errno_error(EINVAL)
    return block_size


@methods.rpc("bdev_aio_create", CreateAio)
def create(layer: BdevLayer, params: CreateAio) -> Work[str]:
    fd = os.open(params.filename, os.O_CLOEXEC | (os.O_RDONLY if params.readonly else os.O_RDWR))
    try:
        if params.nowait and not stat.S_ISBLK(os.fstat(fd).st_mode):
            raise errno_error(ENOTSUP)
        layer.register(AioBdev(params, fd, _choose_block_size(params, fd)))
    except OSError:
        os.close(fd)
        raise
    return Work(_examined(layer, params.name))


async def _examined(layer: BdevLayer, name: str) -> str:
    await layer.wait_for_examine()
    return name


@methods.rpc("bdev_aio_rescan", Name)
def rescan(layer: BdevLayer, params: Name) -> None:
    """Takes over the file's size; a file that became empty takes its bdev with it."""
    descriptor = layer.open(params.name, writable=False)
    try:
        bdev = descriptor.bdev
        if not isinstance(bdev, AioBdev):
            raise errno_error(ENODEV)
        size_bytes = file_size(bdev.fd)
        if size_bytes == 0:
            layer.unregister_soon(bdev)
        else:
            layer.resize(bdev, size_bytes // bdev.block_size)
    finally:
        layer.close(descriptor)


@methods.rpc("bdev_aio_delete", Name)
def delete(layer: BdevLayer, params: Name) -> Work[None]:
    return layer.unregister_by_name(params.name, AioBdev.module)
