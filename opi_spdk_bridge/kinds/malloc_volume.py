"""MallocVolume: a volume in the target's memory. Its data goes with the target."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Settled, Volume
from opi_spdk_bridge.core.line import Line, said_size
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.kinds.shared.bdev import Identified, IdentifiedVolumeKind, uuid_of
from opi_spdk_bridge.kinds.shared.shape import check_geometry
from opi_spdk_bridge.pb.storage.backend_malloc_pb2 import MallocVolume

_METADATA_SIZES = (0, 8, 16, 32, 64, 128)
_MOST_BYTES = 2**46
"""Half of an address space. Far above it, the sums that the target makes of sizes come round to small ones."""


@dataclass(frozen=True)
class _WithMetadata:
    """The shape of a malloc volume: its metadata is along with its data."""

    block_size: int
    md_size: int
    md_interleave: bool = True


class MallocVolumeKind(IdentifiedVolumeKind[MallocVolume, Identified]):
    """Every field is fixed: another size would be another, empty, volume."""

    message = MallocVolume
    title = "Malloc volumes"
    own = Identified
    volatile = True
    immutable: ClassVar[tuple[str, ...]] = ("block_size", "blocks_count", "metadata_size", "uuid")

    def line(self, resource: MallocVolume) -> Line:
        return Line((said_size(resource.blocks_count, resource.block_size),))

    def check(self, resource: MallocVolume) -> None:
        if resource.metadata_size not in _METADATA_SIZES:
            text = f"metadata_size is {resource.metadata_size}; the target takes {_METADATA_SIZES}"
            raise errors.InvalidArgument(text, field="metadata_size")
        check_geometry(resource.block_size, resource.blocks_count, resource.metadata_size)
        most = _MOST_BYTES // (resource.block_size + resource.metadata_size)
        rules.within(resource.blocks_count, 1, most, "blocks_count", "the volume is memory of the target")

    async def settle(
        self,
        name: str,
        resource: MallocVolume,
        before: Record[MallocVolume, Identified] | None,
        taken: Collection[Any] = (),
    ) -> Settled[Identified]:
        return Settled(Identified(uuid=None if resource.uuid else str(uuid.uuid4())))

    def volume(self, record: Record[MallocVolume, Identified]) -> Volume | None:
        size, metadata = record.desired.block_size, record.desired.metadata_size
        return Volume(record.id, uuid_of(record), shape=_WithMetadata(size + metadata, metadata))
