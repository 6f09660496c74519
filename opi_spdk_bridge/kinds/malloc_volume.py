"""MallocVolume: a bdev in the target's memory. Its data goes with the target."""

from __future__ import annotations

import uuid
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Settled
from opi_spdk_bridge.kinds.bdev import BdevKind
from opi_spdk_bridge.kinds.shape import check_geometry
from opi_spdk_bridge.pb.storage.backend_malloc_pb2 import MallocVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, gone

_METADATA_SIZES = (0, 8, 16, 32, 64, 128)


class MallocVolumeKind(BdevKind[MallocVolume]):
    """Every field is fixed: another size would be another, empty, volume."""

    message = MallocVolume
    volatile = True
    immutable: ClassVar[tuple[str, ...]] = ("block_size", "blocks_count", "metadata_size", "uuid")

    def check(self, resource: MallocVolume) -> None:
        if resource.metadata_size not in _METADATA_SIZES:
            text = f"metadata_size is {resource.metadata_size}; the target takes {_METADATA_SIZES}"
            raise errors.InvalidArgument(text, field="metadata_size")
        check_geometry(resource.block_size, resource.blocks_count, resource.metadata_size)

    async def settle(self, name: str, resource: MallocVolume, before: Record | None) -> Settled:
        return Settled(assigned={} if resource.uuid else {"uuid": str(uuid.uuid4())})

    def steps(self, record: Record, seen: Bdev | None) -> list[Step]:
        if seen is not None:
            return []
        volume: MallocVolume = record.desired
        create = methods.bdev_malloc_create(
            record.id, volume.block_size, volume.blocks_count, self.uuid(record), volume.metadata_size
        )
        return [Step(f"bdev {record.id} is missing", create, methods.bdev_malloc_delete(record.id))]

    def removal(self, record: Record, present: bool) -> list[Step]:
        delete = self.delete(record, methods.bdev_malloc_delete(record.id))
        return [Step(f"bdev {record.id} is still there", delete, already=gone)] if present else []
