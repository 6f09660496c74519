"""RAM disks (module/bdev/malloc). A block takes memory once it has been written."""

from dataclasses import dataclass
from errno import EINVAL, ENOMEM
from typing import Any

from ..reactor import Work
from ..registry import BDEV_FAILURE, MethodTable, errno_error
from ..schema import I32, U32, U64, Uuid
from .device import ANY_NUMA_ID, Bdev, Metadata
from .layer import BdevLayer
from .rpc import Name

methods = MethodTable["MallocModule"](BDEV_FAILURE)

METADATA_SIZES = (0, 8, 16, 32, 64, 128)
MEMORY_BYTES_MAX = 1 << 40
CHUNK_BYTES = 4096


class MallocBdev(Bdev):
    module = "malloc"
    product_name = "Malloc disk"
    io_types = frozenset(
        {"read", "write", "unmap", "flush", "reset", "write_zeroes", "zcopy", "compare", "abort", "copy"}
    )

    def __init__(self, params: "CreateMalloc", name: str) -> None:
        interleaved = params.md_size if params.md_interleave else 0
        super().__init__(
            name,
            params.block_size + interleaved,
            params.num_blocks,
            identity=params.uuid,
            numa_id=params.numa_id,
            metadata=Metadata(
                params.md_size,
                params.md_interleave,
                params.dif_type,
                params.dif_is_head_of_md,
                params.dif_pi_format,
            ),
        )
        self.physical_block_size = params.physical_block_size or params.block_size
        self.optimal_io_boundary = params.optimal_io_boundary
        self._chunks: dict[int, bytearray] = {}

    async def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length:
            index, start = divmod(offset, CHUNK_BYTES)
            size = min(length, CHUNK_BYTES - start)
            chunk = self._chunks.get(index)
            parts.append(bytes(chunk[start : start + size]) if chunk else bytes(size))
            offset, length = offset + size, length - size
        return b"".join(parts)

    async def write(self, offset: int, content: bytes) -> None:
        position = 0
        while position < len(content):
            index, start = divmod(offset + position, CHUNK_BYTES)
            size = min(len(content) - position, CHUNK_BYTES - start)
            chunk = self._chunks.setdefault(index, bytearray(CHUNK_BYTES))
            chunk[start : start + size] = content[position : position + size]
            position += size

    def config(self) -> dict[str, Any]:
        return {
            "method": "bdev_malloc_create",
            "params": {
                "name": self.name,
                "num_blocks": self.num_blocks,
                "block_size": self.block_size,
                "physical_block_size": self.physical_block_size,
                "uuid": self.uuid,
                "optimal_io_boundary": self.optimal_io_boundary,
                "md_size": self.metadata.size,
                "dif_type": self.metadata.dif_type,
                "dif_is_head_of_md": self.metadata.dif_is_head_of_md,
                "dif_pi_format": self.metadata.dif_pi_format,
                "numa_id": self.numa_id,
            },
        }


class MallocModule:
    """Names the RAM disks that were given no name."""

    def __init__(self, layer: BdevLayer) -> None:
        self.layer = layer
        self._named = 0

    def next_name(self) -> str:
        self._named += 1
        return f"Malloc{self._named - 1}"


@dataclass(frozen=True)
class CreateMalloc:
    block_size: U32
    num_blocks: U64
    name: str | None = None
    uuid: Uuid = None
    optimal_io_boundary: U32 = 0
    md_size: U32 = 0
    md_interleave: bool = False
    dif_type: I32 = 0
    dif_is_head_of_md: bool = False
    physical_block_size: U32 = 0
    dif_pi_format: U32 = 0
    numa_id: I32 = ANY_NUMA_ID


def check_blocks(num_blocks: int, block_size: int, physical_block_size: int, md_size: int) -> None:
    """What malloc and null bdevs demand of their sizes. Raises OSError EINVAL."""
    if not num_blocks or block_size % 512 or physical_block_size % 512 or md_size not in METADATA_SIZES:
        raise errno_error(EINVAL)


@methods.rpc("bdev_malloc_create", CreateMalloc)
def create(module: MallocModule, params: CreateMalloc) -> str:
    check_blocks(params.num_blocks, params.block_size, params.physical_block_size, params.md_size)
    if params.numa_id not in (ANY_NUMA_ID, 0):
        raise errno_error(EINVAL)
    interleaved = params.md_size if params.md_interleave else 0
    size_bytes = params.num_blocks * (params.block_size + interleaved) % 2**64  # as the target multiplies
    if not 0 < size_bytes <= MEMORY_BYTES_MAX:
        raise errno_error(ENOMEM)
    if params.dif_type not in (0, 1, 2, 3) or (params.dif_type and params.md_size < 8):
        raise errno_error(EINVAL)
    bdev = MallocBdev(params, module.next_name() if params.name is None else params.name)
    module.layer.register(bdev)
    return bdev.name


@methods.rpc("bdev_malloc_delete", Name)
def delete(module: MallocModule, params: Name) -> Work[None]:
    return module.layer.unregister_by_name(params.name, MallocBdev.module)
