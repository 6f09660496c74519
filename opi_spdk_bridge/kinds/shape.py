"""The shape of volumes, the sizes of their blocks and of the metadata in them: what hosts can use, and through what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Phase, Record, Volume
from opi_spdk_bridge.kinds import rules
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.pb.storage.backend_malloc_pb2 import MallocVolume
from opi_spdk_bridge.spdk.model import Bdev

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


async def require_usable(kind: SpdkKind[Any, Any], volume: Volume, before: Record | None, use: Use, field: str) -> None:
    """Raises FailedPrecondition where no host could use the volume in that way; not for what it is used for already."""
    if before is not None and before.private["bdev"] == volume.bdev:
        return
    owners = [owner for owner in kind.graph.holders(f"bdev:{volume.bdev}") if owner.phase is not Phase.DELETED]
    shape = _of(owners[0]) if owners else await kind.target.view().bdev(volume.bdev)
    why = _why_unusable(shape, use) if shape is not None else ""
    if why:
        text = f"bdev {volume.bdev} cannot be used for {use.what}: {why}"
        raise errors.FailedPrecondition(text, field=field, resource=volume.resource or volume.bdev)


def _of(owner: Record) -> Bdev | None:
    """The shape of a volume of the bridge; None where it is one that everything can use."""
    volume = owner.desired
    if not isinstance(volume, MallocVolume):
        return None
    size, metadata = volume.block_size, volume.metadata_size
    return Bdev(
        name=owner.id, block_size=size + metadata, num_blocks=volume.blocks_count, md_size=metadata, md_interleave=True
    )


def _why_unusable(bdev: Bdev, use: Use) -> str:
    along = bdev.md_size if bdev.md_interleave else 0
    data_bytes = bdev.block_size - along
    if data_bytes & (data_bytes - 1) or not SMALLEST_BLOCK_BYTES <= data_bytes <= LARGEST_BLOCK_BYTES:
        return (
            f"its blocks have {data_bytes} bytes, and hosts take powers of two from {SMALLEST_BLOCK_BYTES} to"
            f" {LARGEST_BLOCK_BYTES}"
        )
    if along > use.metadata_bytes:
        return (
            f"its blocks have {along} bytes of metadata, and {use.metadata_bytes or 'none'} is the most that it takes"
        )
    if bdev.md_size > along and not use.metadata_apart:
        return "its metadata is kept apart from its data"
    return ""
