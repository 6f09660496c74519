"""NullVolume on SPDK: a null bdev, which can grow by whole MiB; any other change makes it anew."""

from __future__ import annotations

import errno

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared.bdev import Identified, uuid_of
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.targets.spdk.bdev import IdentifiedVolumeSide

_MIB = 1024 * 1024


class NullVolumeSide(IdentifiedVolumeSide[NullVolume, Identified]):
    """A change of geometry grows the bdev where the target can, else rebuilds it."""

    def steps(self, record: Record[NullVolume, Identified], seen: Bdev | None) -> list[Step]:
        if seen is None:
            return [Step(f"bdev {record.id} is missing", self._create(record), methods.bdev_null_delete(record.id))]
        volume = record.desired
        if seen.uuid != uuid_of(record):  # an update was broken off
            before = methods.bdev_null_create(record.id, seen.block_size, seen.num_blocks, seen.uuid)
            return self._rebuild(record, before)
        if (seen.block_size, seen.num_blocks) == (volume.block_size, volume.blocks_count):
            return []
        return self._reshape(record, seen.block_size, seen.num_blocks)

    def removal(self, record: Record[NullVolume, Identified], present: bool) -> list[Step]:
        delete = self.delete(record, methods.bdev_null_delete(record.id))
        return [Step(f"bdev {record.id} is still there", delete, already=gone)] if present else []

    def amendment(self, old: Record[NullVolume, Identified], new: Record[NullVolume, Identified]) -> list[Step]:
        if uuid_of(old) == uuid_of(new):
            return self._reshape(new, old.desired.block_size, old.desired.blocks_count)
        return self._rebuild(new, self._create(old))

    async def diagnose(self, record: Record[NullVolume, Identified], failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, SpdkError) and error.method == "bdev_null_resize" and error.is_errno(errno.EINVAL):
            text = f"bdev {record.id} has become larger than that on the target, by somebody else's doing"
            return errors.FailedPrecondition(text, field="blocks_count", resource=record.name)
        return await super().diagnose(record, failure)

    def _reshape(self, record: Record[NullVolume, Identified], block_size: int, blocks_count: int) -> list[Step]:
        """From a bdev of the given geometry to the desired one."""
        volume = record.desired
        size_bytes = volume.block_size * volume.blocks_count
        if volume.block_size == block_size and volume.blocks_count > blocks_count and size_bytes % _MIB == 0:
            return [Step(f"bdev {record.id} is smaller", methods.bdev_null_resize(record.id, size_bytes // _MIB))]
        before = methods.bdev_null_create(record.id, block_size, blocks_count, uuid_of(record))
        return self._rebuild(record, before)

    def _rebuild(self, record: Record[NullVolume, Identified], before: Call[str]) -> list[Step]:
        self.require_idle(record, "a change of geometry or UUID that needs a new bdev")
        delete = methods.bdev_null_delete(record.id)
        unless_used = self.delete(record, delete)
        return [
            Step(f"bdev {record.id} has another geometry or UUID", unless_used, before, already=gone),
            Step(f"bdev {record.id} is missing", self._create(record), delete, guarded=True),  # deleting takes a while
        ]

    def _create(self, record: Record[NullVolume, Identified]) -> Call[str]:
        volume = record.desired
        return methods.bdev_null_create(record.id, volume.block_size, volume.blocks_count, uuid_of(record))
