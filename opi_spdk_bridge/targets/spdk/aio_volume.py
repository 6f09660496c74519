"""AioVolume on SPDK: an aio bdev."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Facts, Record
from opi_spdk_bridge.kinds.aio_volume import Measured
from opi_spdk_bridge.kinds.shared.bdev import uuid_of
from opi_spdk_bridge.pb.storage.backend_aio_pb2 import AioVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.targets.spdk.bdev import IdentifiedVolumeSide

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


class AioVolumeSide(IdentifiedVolumeSide[AioVolume, Measured]):
    """Another file, block size or UUID makes it anew; a larger file is taken over as it is."""

    def steps(self, record: Record[AioVolume, Measured], seen: Bdev | None) -> list[Step]:
        if seen is None:
            return [self._make(record), self._measure(record)]
        volume = record.desired
        other_file = seen.driver_specific.get("aio", {}).get("filename", volume.filename) != volume.filename
        if other_file or volume.block_size not in (0, seen.block_size) or seen.uuid != uuid_of(record):
            return self._rebuild(record, record)
        if seen.num_blocks < volume.blocks_count:
            return self._rescan(record)
        return []

    def removal(self, record: Record[AioVolume, Measured], present: bool) -> list[Step]:
        delete = self.delete(record, methods.bdev_aio_delete(record.id))
        return [Step(f"bdev {record.id} is still there", delete, already=gone)] if present else []

    def amendment(self, old: Record[AioVolume, Measured], new: Record[AioVolume, Measured]) -> list[Step]:
        same_size = new.desired.block_size in (0, old.own.block_size)
        if same_size and old.desired.filename == new.desired.filename and uuid_of(old) == uuid_of(new):
            return self._rescan(new)
        return self._rebuild(old, new)

    def recognise(self, record: Record[AioVolume, Measured], seen: Bdev) -> Measured:
        return _measured(seen)(record.own)

    def shown(self, record: Record[AioVolume, Measured], seen: Bdev | None) -> Facts:
        own = self.recognise(record, seen) if seen is not None else record.own
        sizes = {"block_size": own.block_size, "blocks_count": own.blocks_count}
        return {name: value for name, value in sizes.items() if value is not None}

    def shown_when_ready(self, record: Record[AioVolume, Measured]) -> Facts:
        return self.shown(record, None)

    async def diagnose(self, record: Record[AioVolume, Measured], failure: StepFailed) -> errors.BridgeError:
        filename, error = record.desired.filename, failure.error
        if isinstance(error, SpdkError) and error.method == "bdev_aio_create" and error.errno in _WHY_NO_VOLUME:
            make, why = _WHY_NO_VOLUME[error.errno]
            return make(f"the target cannot use {filename}: {why}", field="filename", resource=filename)
        if isinstance(error, SpdkError) and error.method == "bdev_aio_rescan" and error.is_errno(errno.EBUSY):
            text = f"{filename} has become smaller, and something has bdev {record.id} open"
            return errors.FailedPrecondition(text, field="filename", resource=record.name)
        return await super().diagnose(record, failure)

    def _make(self, record: Record[AioVolume, Measured]) -> Step:
        says, delete = f"bdev {record.id} is missing", methods.bdev_aio_delete(record.id)
        return Step(says, self._creation(record), delete, guarded=True)  # deleting the one before takes a while

    def _creation(self, record: Record[AioVolume, Measured]) -> Any:
        """The call; where the client left the block size open, with a second try for what the target cannot detect."""
        volume = record.desired
        name, unique = record.id, uuid_of(record)
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

    def _rescan(self, record: Record[AioVolume, Measured]) -> list[Step]:
        says = f"bdev {record.id} has not the file's present size"
        return [Step(says, methods.bdev_aio_rescan(record.id)), self._measure(record)]

    def _rebuild(self, old: Record[AioVolume, Measured], new: Record[AioVolume, Measured]) -> list[Step]:
        self.require_idle(old, "another file, block size or UUID")
        delete = self.delete(old, methods.bdev_aio_delete(old.id))
        says = f"bdev {old.id} is of another file, block size or UUID"
        return [Step(says, delete, self._creation(old), already=gone), self._make(new), self._measure(new)]

    def _measure(self, record: Record[AioVolume, Measured]) -> Step:
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

        says = f"the size of bdev {record.id} is not known"
        return Step(says, Call(look.method, look.params, read), learn=_measured)


def _measured(bdev: Bdev) -> Callable[[Measured], Measured]:
    return lambda own: replace(own, block_size=bdev.block_size, blocks_count=bdev.num_blocks)
