"""Devices that read as zeroes and forget what is written (module/bdev/null)."""

from dataclasses import dataclass
from errno import EINVAL
from typing import Any

from ..reactor import Work
from ..registry import BDEV_FAILURE, MethodTable, errno_error
from ..schema import I32, U32, U64, Uuid
from .device import Bdev, Geometry, Metadata
from .layer import BdevLayer
from .malloc import check_blocks
from .rpc import Name

methods = MethodTable[BdevLayer](BDEV_FAILURE)

MIB = 1024 * 1024


class NullBdev(Bdev):
    module = "null"
    product_name = "Null disk"
    io_types = frozenset({"read", "write", "reset", "write_zeroes", "abort"})

    def __init__(self, params: "CreateNull") -> None:
        super().__init__(
            params.name,
            params.block_size + params.md_size,
            params.num_blocks,
            identity=params.uuid,
            geometry=Geometry(
                params.preferred_write_alignment,
                params.preferred_write_granularity,
                params.optimal_write_size,
                params.preferred_unmap_alignment,
                params.preferred_unmap_granularity,
            ),
            metadata=Metadata(params.md_size, True, params.dif_type, params.dif_is_head_of_md, params.dif_pi_format),
        )
        self.physical_block_size = params.physical_block_size or params.block_size

    def config(self) -> dict[str, Any]:
        geometry = self.geometry
        return {
            "method": "bdev_null_create",
            "params": {
                "name": self.name,
                "num_blocks": self.num_blocks,
                "block_size": self.block_size,
                "physical_block_size": self.physical_block_size,
                "md_size": self.metadata.size,
                "dif_type": self.metadata.dif_type,
                "dif_is_head_of_md": self.metadata.dif_is_head_of_md,
                "dif_pi_format": self.metadata.dif_pi_format,
                "uuid": self.uuid,
                "preferred_write_granularity": geometry.preferred_write_granularity,
                "preferred_write_alignment": geometry.preferred_write_alignment,
                "optimal_write_size": geometry.optimal_write_size,
                "preferred_unmap_granularity": geometry.preferred_unmap_granularity,
                "preferred_unmap_alignment": geometry.preferred_unmap_alignment,
            },
        }


@dataclass(frozen=True)
class CreateNull:
    name: str
    block_size: U32
    num_blocks: U64
    uuid: Uuid = None
    physical_block_size: U32 = 0
    md_size: U32 = 0
    dif_type: I32 = 0
    dif_pi_format: U32 = 0
    dif_is_head_of_md: bool = False
    preferred_write_granularity: U32 = 0
    preferred_write_alignment: U32 = 0
    optimal_write_size: U32 = 0
    preferred_unmap_granularity: U32 = 0
    preferred_unmap_alignment: U32 = 0


@dataclass(frozen=True)
class ResizeNull:
    name: str
    new_size: U64


@methods.rpc("bdev_null_create", CreateNull)
def create(layer: BdevLayer, params: CreateNull) -> str:
    check_blocks(params.num_blocks, params.block_size, params.physical_block_size, params.md_size)
    if params.dif_type not in (0, 1, 2, 3) or (params.dif_type and params.md_size < 8):
        raise errno_error(EINVAL)
    bdev = NullBdev(params)
    layer.register(bdev)
    return bdev.name


@methods.rpc("bdev_null_delete", Name)
def delete(layer: BdevLayer, params: Name) -> Work[None]:
    return layer.unregister_by_name(params.name, NullBdev.module)


@methods.rpc("bdev_null_resize", ResizeNull)
def resize(layer: BdevLayer, params: ResizeNull) -> None:
    """`new_size` counts MiB. The call's own opening of the bdev is what forbids to shrink it below a whole MiB."""
    descriptor = layer.open(params.name, writable=False)
    try:
        bdev = descriptor.bdev
        if bdev.module != NullBdev.module or params.new_size < bdev.block_size * bdev.num_blocks // MIB:
            raise errno_error(EINVAL)
        layer.resize(bdev, params.new_size * MIB // bdev.block_size)
    finally:
        layer.close(descriptor)
