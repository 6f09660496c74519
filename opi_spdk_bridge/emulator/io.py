"""I/O on demand: methods that no real target has, so rpc_get_methods omits them."""

import base64
import binascii
from collections.abc import Coroutine
from dataclasses import dataclass
from errno import EINVAL
from typing import Any

from .bdev.device import Bdev
from .bdev.layer import BdevLayer
from .bdev.stat import TICKS_PER_SECOND
from .registry import BDEV_FAILURE, MethodTable, errno_error
from .schema import U32, U64

methods = MethodTable[BdevLayer](BDEV_FAILURE)

LATENCY_US_DEFAULT = 50


@dataclass(frozen=True)
class RunIo:
    """How many I/Os of each kind, each of `blocks` blocks and `latency_us` long; `failures` more failed."""

    name: str
    reads: U32 = 0
    writes: U32 = 0
    unmaps: U32 = 0
    copies: U32 = 0
    failures: U32 = 0
    blocks: U32 = 8
    latency_us: U32 = LATENCY_US_DEFAULT


@dataclass(frozen=True)
class Read:
    name: str
    offset_blocks: U64 = 0
    num_blocks: U64 = 1


@dataclass(frozen=True)
class Write:
    name: str
    content: str
    offset_blocks: U64 = 0


def _ticks(latency_us: int) -> int:
    return latency_us * TICKS_PER_SECOND // 1_000_000


def _check_range(bdev: Bdev, offset_blocks: int, size_bytes: int) -> None:
    if size_bytes % bdev.block_size or offset_blocks + size_bytes // bdev.block_size > bdev.num_blocks:
        raise errno_error(EINVAL)


@methods.rpc("emulator_run_io", RunIo)
def run_io(layer: BdevLayer, params: RunIo) -> None:
    """Has counters move as if the I/O had been done, down to the device at the bottom. No data is touched."""
    bdev = layer.find(params.name)
    size_bytes = params.blocks * bdev.block_size
    latency_ticks = _ticks(params.latency_us)
    bdev.record("read", params.reads, params.reads * size_bytes, latency_ticks)
    bdev.record("write", params.writes, params.writes * size_bytes, latency_ticks)
    bdev.record("unmap", params.unmaps, params.unmaps * size_bytes, latency_ticks)
    bdev.record("copy", params.copies, params.copies * size_bytes, latency_ticks)
    bdev.record_failures(params.failures)


@methods.rpc("emulator_read", Read)
def read(layer: BdevLayer, params: Read) -> Coroutine[Any, Any, dict[str, str]]:
    """Answers {"content"}: the blocks in base64. Raises EINVAL beyond the end."""
    bdev = layer.find(params.name)
    _check_range(bdev, params.offset_blocks, params.num_blocks * bdev.block_size)
    return _read(bdev, params.offset_blocks * bdev.block_size, params.num_blocks * bdev.block_size)


async def _read(bdev: Bdev, offset: int, length: int) -> dict[str, str]:
    content = await bdev.read(offset, length)
    bdev.record("read", 1, length, _ticks(LATENCY_US_DEFAULT))
    return {"content": base64.b64encode(content).decode()}


@methods.rpc("emulator_write", Write)
def write(layer: BdevLayer, params: Write) -> Coroutine[Any, Any, None]:
    """Writes whole blocks, given in base64. Raises EINVAL for a part of one, or beyond the end."""
    bdev = layer.find(params.name)
    try:
        content = base64.b64decode(params.content, validate=True)
    except binascii.Error:
        raise errno_error(EINVAL) from None
    _check_range(bdev, params.offset_blocks, len(content))
    return _write(bdev, params.offset_blocks * bdev.block_size, content)


async def _write(bdev: Bdev, offset: int, content: bytes) -> None:
    await bdev.write(offset, content)
    bdev.record("write", 1, len(content), _ticks(LATENCY_US_DEFAULT))
