"""MallocVolume on SPDK: a malloc bdev."""

from __future__ import annotations

from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared.bdev import Identified, uuid_of
from opi_spdk_bridge.pb.storage.backend_malloc_pb2 import MallocVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, gone
from opi_spdk_bridge.targets.spdk.bdev import IdentifiedVolumeSide


class MallocVolumeSide(IdentifiedVolumeSide[MallocVolume, Identified]):
    """Made once, and never changed."""

    def steps(self, record: Record[MallocVolume, Identified], seen: Bdev | None) -> list[Step]:
        if seen is not None:
            return []
        volume = record.desired
        create = methods.bdev_malloc_create(
            record.id, volume.block_size, volume.blocks_count, uuid_of(record), volume.metadata_size
        )
        return [Step(f"bdev {record.id} is missing", create, methods.bdev_malloc_delete(record.id))]

    def removal(self, record: Record[MallocVolume, Identified], present: bool) -> list[Step]:
        delete = self.delete(record, methods.bdev_malloc_delete(record.id))
        return [Step(f"bdev {record.id} is still there", delete, already=gone)] if present else []
