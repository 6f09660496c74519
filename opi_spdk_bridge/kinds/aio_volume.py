"""AioVolume: a file or block device of the target's host as a bdev."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Mapping
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Facts, Record, Settled
from opi_spdk_bridge.kinds import rules
from opi_spdk_bridge.kinds.bdev import BdevKind
from opi_spdk_bridge.kinds.shape import check_block_size
from opi_spdk_bridge.pb.storage.backend_aio_pb2 import AioVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone

_FALLBACK_BLOCK_SIZE = 512

_WHY_NO_VOLUME: dict[int, tuple[type[errors.BridgeError], str]] = {
    errno.ENOENT: (errors.NotFound, "there is no such file on its host"),
    errno.EISDIR: (errors.InvalidArgument, "it is a directory"),
    errno.ENOTDIR: (errors.InvalidArgument, "a part of the path is no directory"),
    errno.ENAMETOOLONG: (errors.InvalidArgument, "the path, or a part of it, is too long"),
    errno.ELOOP: (errors.InvalidArgument, "its symbolic links lead in a circle"),
    errno.EINVAL: (
        errors.InvalidArgument,
        "its size must be a multiple of the block size, and that no smaller than the device's own",
    ),
    errno.EACCES: (errors.FailedPrecondition, "it may not open it for reading and writing"),
    errno.EPERM: (errors.FailedPrecondition, "it may not open it for reading and writing"),
    errno.EROFS: (errors.FailedPrecondition, "it is on a file system that is read-only"),
    errno.ETXTBSY: (errors.FailedPrecondition, "it is a program that is running"),
    errno.EBUSY: (errors.FailedPrecondition, "the device is in use"),
    errno.ENXIO: (errors.FailedPrecondition, "there is no device behind it, or it is a socket"),
    errno.ENODEV: (errors.FailedPrecondition, "there is no device behind it"),
}
"""What opening a file, or looking at it, can end in (open(2), bdev_aio.c)."""


class AioVolumeKind(BdevKind[AioVolume]):
    """`blocks_count` is a minimum; answers give the size that the target found."""

    message = AioVolume

    def check(self, resource: AioVolume) -> None:
        if not resource.filename.startswith("/"):
            text = f"filename {resource.filename[:200]!r} is not an absolute path on the target's host"
            raise errors.InvalidArgument(text, field="filename")
        if resource.block_size:
            check_block_size(resource.block_size)
        rules.within(resource.blocks_count, 0, 2**63 - 1, "blocks_count")

    async def settle(self, name: str, resource: AioVolume, before: Record | None) -> Settled:
        private = before.private if before else {}
        if resource.uuid:
            return Settled(private=private)
        assigned = before.assigned if before and before.assigned else {"uuid": str(uuid.uuid4())}
        return Settled(assigned, private)

    def steps(self, record: Record, seen: Bdev | None) -> list[Step]:
        if seen is None:
            return [self._make(record), self._measure(record)]
        volume: AioVolume = record.desired
        other_file = seen.driver_specific.get("aio", {}).get("filename", volume.filename) != volume.filename
        if other_file or volume.block_size not in (0, seen.block_size) or seen.uuid != self.uuid(record):
            return self._rebuild(record, record)
        if seen.num_blocks < volume.blocks_count:
            return self._rescan(record)
        return []

    def removal(self, record: Record, present: bool) -> list[Step]:
        delete = self.delete(record, methods.bdev_aio_delete(record.id))
        return [Step(f"bdev {record.id} is still there", delete, already=gone)] if present else []

    def amendment(self, old: Record, new: Record) -> list[Step]:
        same_size = new.desired.block_size in (0, old.private.get("block_size"))
        if same_size and old.desired.filename == new.desired.filename and self.uuid(old) == self.uuid(new):
            return self._rescan(new)
        return self._rebuild(old, new)

    def recognise(self, record: Record, seen: Bdev) -> Facts:
        return {"block_size": seen.block_size, "blocks_count": seen.num_blocks}

    def shown(self, record: Record, seen: Bdev | None) -> Facts:
        return self.recognise(record, seen) if seen is not None else self.shown_when_ready(record)

    def shown_when_ready(self, record: Record) -> Facts:
        return {name: record.private[name] for name in ("block_size", "blocks_count") if name in record.private}

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        filename, error = record.desired.filename, failure.error
        if isinstance(error, SpdkError) and error.method == "bdev_aio_create" and error.errno in _WHY_NO_VOLUME:
            make, why = _WHY_NO_VOLUME[error.errno]
            return make(f"the target cannot use {filename}: {why}", field="filename", resource=filename)
        if isinstance(error, SpdkError) and error.method == "bdev_aio_rescan" and error.is_errno(errno.EBUSY):
            text = f"{filename} has become smaller, and something has bdev {record.id} open"
            return errors.FailedPrecondition(text, field="filename", resource=record.name)
        return await super().diagnose(record, failure)

    def _make(self, record: Record) -> Step:
        says, delete = f"bdev {record.id} is missing", methods.bdev_aio_delete(record.id)
        return Step(says, self._creation(record), delete, guarded=True)  # deleting the one before takes a while

    def _creation(self, record: Record) -> Any:
        """The call; where the client left the block size open, with a second try for what the target cannot detect."""
        volume: AioVolume = record.desired
        name, unique = record.id, self.uuid(record)
        if volume.block_size:
            return methods.bdev_aio_create(name, volume.filename, volume.block_size, unique)

        async def create() -> str:
            try:
                return await self.target.client.call(methods.bdev_aio_create(name, volume.filename, None, unique))
            except SpdkError as error:
                if not error.is_errno(errno.EINVAL):
                    raise
            fallback = methods.bdev_aio_create(name, volume.filename, _FALLBACK_BLOCK_SIZE, unique)
            return await self.target.client.call(fallback)

        return create

    def _rescan(self, record: Record) -> list[Step]:
        says = f"bdev {record.id} has not the file's present size"
        return [Step(says, methods.bdev_aio_rescan(record.id)), self._measure(record)]

    def _rebuild(self, old: Record, new: Record) -> list[Step]:
        self.require_idle(old, "another file, block size or UUID")
        delete = self.delete(old, methods.bdev_aio_delete(old.id))
        says = f"bdev {old.id} is of another file, block size or UUID"
        return [Step(says, delete, self._creation(old), already=gone), self._make(new), self._measure(new)]

    def _measure(self, record: Record) -> Step:
        """Reads the real size back and refuses one below the minimum that the client set."""
        least, filename = record.desired.blocks_count, record.desired.filename
        look = methods.bdev_get_bdev(record.id)

        def read(result: Any) -> Bdev:
            bdev = look.read(result)
            if not bdev.num_blocks:
                text = f"{filename} cannot be a volume: it has not one block of {bdev.block_size} bytes"
                raise errors.InvalidArgument(text, field="filename")
            if bdev.num_blocks < least:
                text = f"blocks_count is {least} but {filename} has {bdev.num_blocks} blocks of {bdev.block_size} bytes"
                raise errors.InvalidArgument(text, field="blocks_count")
            return bdev

        def learn(bdev: Bdev) -> Mapping[str, Any]:
            return {"block_size": bdev.block_size, "blocks_count": bdev.num_blocks}

        return Step(f"the size of bdev {record.id} is not known", Call(look.method, look.params, read), learn=learn)
