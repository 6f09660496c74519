"""AioVolume: a file or block device of the target's host as a volume."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Settled
from opi_spdk_bridge.core.line import Line, said_size
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.kinds.shared.bdev import Identified, IdentifiedVolumeKind
from opi_spdk_bridge.kinds.shared.shape import check_block_size
from opi_spdk_bridge.pb.storage.backend_aio_pb2 import AioVolume


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Identified):
    """What the target found of the file: in bytes, and in blocks of that size."""

    block_size: int | None = None
    blocks_count: int | None = None


class AioVolumeKind(IdentifiedVolumeKind[AioVolume, Measured]):
    """`blocks_count` is a minimum; answers give the size that the target found."""

    message = AioVolume
    title = "AIO volumes"
    own = Measured

    def line(self, resource: AioVolume) -> Line:
        return Line((resource.filename, said_size(resource.blocks_count, resource.block_size)))

    def check(self, resource: AioVolume) -> None:
        if not resource.filename.startswith("/"):
            text = f"filename {resource.filename[:200]!r} is not an absolute path on the target's host"
            raise errors.InvalidArgument(text, field="filename")
        if resource.block_size:
            check_block_size(resource.block_size)
        rules.within(resource.blocks_count, 0, 2**63 - 1, "blocks_count")

    async def settle(
        self,
        name: str,
        resource: AioVolume,
        before: Record[AioVolume, Measured] | None,
        taken: Collection[Any] = (),
    ) -> Settled[Measured]:
        own = before.own if before is not None else Measured()
        if resource.uuid:
            return Settled(replace(own, uuid=None))
        return Settled(replace(own, uuid=own.uuid or str(uuid.uuid4())))
