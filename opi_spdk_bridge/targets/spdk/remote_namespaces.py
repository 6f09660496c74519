"""The namespaces behind a remote controller: not stored, read from the target whenever they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import paging
from opi_spdk_bridge.core.kind import Graph
from opi_spdk_bridge.core.names import NamePattern
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import NvmeRemoteController, NvmeRemoteNamespace
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.targets.spdk.nvme_remote_controller import (
    bdevs_of,
    remote_identities,
    remote_nsid,
)


class RemoteNamespaces:
    """Reset, and the reading of namespaces by NSID."""

    names = NamePattern.of(NvmeRemoteNamespace.DESCRIPTOR)
    controllers = NamePattern.of(NvmeRemoteController.DESCRIPTOR)

    def __init__(self, target: Target, graph: Graph) -> None:
        self._target = target
        self._graph = graph

    async def reset(self, name: str) -> None:
        """Resets the controller on the target; without paths nothing happens."""
        controller = self._controller(self.controllers.parse(name))
        if await self._target.view().remote_controller(controller.id) is None:
            return
        try:
            await self._target.client.call(methods.bdev_nvme_reset_controller(controller.id))
        except SpdkError as error:
            text = f"the target could not reset {controller.name}: {error.message}"
            raise errors.Aborted(text, resource=controller.name) from error

    async def page(self, parent: str, page_size: int, page_token: str) -> paging.Page:
        """A page of the namespaces, ordered by NSID."""
        controller = self._controller(self.names.parse_parent(parent))
        size, collection = paging.page_size(page_size), f"{controller.name}/{self.names.collections[-1]}"
        after = int(paging.after(page_token, collection) or "0")
        found = [bdev for bdev in await bdevs_of(controller.id, self._target.view()) if _nsid(controller, bdev) > after]
        items = await self._described(controller, found[:size])
        return paging.Page(items, paging.token(collection, str(items[-1].nsid)) if len(found) > size else "")

    async def get(self, name: str) -> NvmeRemoteNamespace:
        """One namespace; its ID is its NSID."""
        name = self.names.parse(name)
        controller = self._controller(name.rsplit("/", 2)[0])
        for bdev in await bdevs_of(controller.id, self._target.view()):
            if name == self.names.child(controller.name, str(_nsid(controller, bdev))):
                return (await self._described(controller, [bdev]))[0]
        raise errors.NotFound(f"{name} does not exist", resource=name)

    def _controller(self, name: str) -> Record[NvmeRemoteController, Keyed]:
        record = self._graph.record(name)
        if record is None or not isinstance(record.desired, NvmeRemoteController):
            raise errors.NotFound(f"{name} does not exist", resource=name)
        return record

    async def _described(
        self, controller: Record[NvmeRemoteController, Keyed], bdevs: Sequence[Bdev]
    ) -> list[NvmeRemoteNamespace]:
        return list(await asyncio.gather(*(self._describe(controller, bdev) for bdev in bdevs)))

    async def _describe(self, controller: Record[NvmeRemoteController, Keyed], bdev: Bdev) -> NvmeRemoteNamespace:
        nsid = _nsid(controller, bdev)
        identity, uuid = await remote_identities(self._target, controller.id, nsid)
        return NvmeRemoteNamespace(
            name=self.names.child(controller.name, str(nsid)),
            nsid=nsid,
            nguid=identity.nguid,
            eui64=identity.eui64,
            uuid=uuid or bdev.uuid,
        )


def _nsid(controller: Record[NvmeRemoteController, Keyed], bdev: Bdev) -> int:
    nsid = remote_nsid(controller.id, bdev)
    assert nsid is not None
    return nsid
