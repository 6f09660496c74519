"""NullVolume: a volume that keeps nothing, for tests of everything around it."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

from opi_spdk_bridge.core.kind import Settled
from opi_spdk_bridge.core.line import Line, said_size
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared.bdev import Identified, IdentifiedVolumeKind
from opi_spdk_bridge.kinds.shared.shape import check_geometry
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume


class NullVolumeKind(IdentifiedVolumeKind[NullVolume, Identified]):
    """Everything can change: there is no data to lose."""

    message = NullVolume
    title = "Null volumes"
    own = Identified

    def line(self, resource: NullVolume) -> Line:
        return Line((said_size(resource.blocks_count, resource.block_size),))

    def check(self, resource: NullVolume) -> None:
        check_geometry(resource.block_size, resource.blocks_count)

    async def settle(
        self,
        name: str,
        resource: NullVolume,
        before: Record[NullVolume, Identified] | None,
        taken: Collection[Any] = (),
    ) -> Settled[Identified]:
        if resource.uuid:
            return Settled(Identified())
        kept = before.own.uuid if before is not None else None
        return Settled(Identified(uuid=kept or str(uuid.uuid4())))
