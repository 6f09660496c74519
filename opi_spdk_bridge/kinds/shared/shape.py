"""The shape of volumes, the sizes of their blocks and of the metadata in them: what hosts can use, and through what."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Shape, Volume
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.kinds.shared.underlying import OnVolume

SMALLEST_BLOCK_BYTES, LARGEST_BLOCK_BYTES = 512, 65536
"""LBA formats are powers of two (NVMe Base Specification 2.0, figure 280: LBADS), SCSI and virtio disks as well; what
is not the target rounds down. Linux takes no more than 64 KiB."""
_UINT64_MAX = 2**64 - 1


@dataclass(frozen=True)
class Use:
    """What a volume is for. `metadata_bytes` is the most that each block may have along with its data."""

    what: str
    metadata_bytes: int
    metadata_apart: bool
    """Whether metadata that is kept apart from the data does not matter."""


NAMESPACE = Use("an NVMe namespace", 64, False)  # SPDK_BDEV_MAX_INTERLEAVED_MD_SIZE
VIRTIO = Use("a virtio device", 0, True)  # vhost counts in blocks of data alone
ENCRYPTION = Use("an encrypted volume", 0, True)  # its blocks would be data and metadata together


def check_block_size(block_size: int) -> None:
    """Raises InvalidArgument for blocks that no host can use."""
    rules.within(block_size, SMALLEST_BLOCK_BYTES, LARGEST_BLOCK_BYTES, "block_size")
    if block_size & (block_size - 1):
        text = f"block_size is {block_size}; it must be a power of two, as the blocks of all disks that hosts know are"
        raise errors.InvalidArgument(text, field="block_size")


def check_geometry(block_size: int, blocks_count: int, metadata_size: int = 0) -> None:
    """Sizes that hosts can use and the target can count: the bytes of all blocks in 64 bits, where it does not look."""
    check_block_size(block_size)
    rules.within(blocks_count, 1, _UINT64_MAX // (block_size + metadata_size), "blocks_count")


def require_usable(volume: Volume, before: Record[Message, OnVolume] | None, use: Use, field: str) -> None:
    """Raises FailedPrecondition where no host could use the volume in that way; not for what it is used for already."""
    if volume.shape is None or (before is not None and before.own.bdev == volume.bdev):
        return
    why = _why_unusable(volume.shape, use)
    if why:
        text = f"bdev {volume.bdev} cannot be used for {use.what}: {why}"
        raise errors.FailedPrecondition(text, field=field, resource=volume.resource or volume.bdev)


def _why_unusable(shape: Shape, use: Use) -> str:
    along = shape.md_size if shape.md_interleave else 0
    data_bytes = shape.block_size - along
    if data_bytes & (data_bytes - 1) or not SMALLEST_BLOCK_BYTES <= data_bytes <= LARGEST_BLOCK_BYTES:
        return (
            f"its blocks have {data_bytes} bytes, and hosts take powers of two from {SMALLEST_BLOCK_BYTES} to"
            f" {LARGEST_BLOCK_BYTES}"
        )
    if along > use.metadata_bytes:
        return (
            f"its blocks have {along} bytes of metadata, and {use.metadata_bytes or 'none'} is the most that it takes"
        )
    if shape.md_size > along and not use.metadata_apart:
        return "its metadata is kept apart from its data"
    return ""
