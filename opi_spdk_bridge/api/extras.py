"""The RPCs that are no verb of a kind: Reset, the remote namespaces, the inventory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from opi_spdk_bridge.api.bind import Call
from opi_spdk_bridge.core.paging import Page
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import ListNvmeRemoteNamespacesResponse

_REMOTE = "opi_api.storage.v1.NvmeRemoteControllerService"
_INVENTORY = "opi_api.inventory.v1.InventoryService"


class Remote(Protocol):
    """What can be done with a remote controller besides the verbs."""

    async def reset(self, name: str) -> None: ...

    async def page(self, parent: str, page_size: int, page_token: str) -> Page: ...

    async def get(self, name: str) -> Any: ...


def extras(remote: Remote, inventory: Callable[[], Awaitable[Message]]) -> dict[str, Call]:
    """What carries them out, by the methods' full names."""

    async def reset(request: Any) -> Message:
        await remote.reset(request.name)
        return Empty()

    async def list_namespaces(request: Any) -> Message:
        page = await remote.page(request.parent, request.page_size, request.page_token)
        return ListNvmeRemoteNamespacesResponse(nvme_remote_namespaces=page.items, next_page_token=page.next_token)

    async def get_namespace(request: Any) -> Message:
        found: Message = await remote.get(request.name)
        return found

    async def get_inventory(_request: Any) -> Message:
        return await inventory()

    return {
        f"{_REMOTE}.ResetNvmeRemoteController": reset,
        f"{_REMOTE}.ListNvmeRemoteNamespaces": list_namespaces,
        f"{_REMOTE}.GetNvmeRemoteNamespace": get_namespace,
        f"{_INVENTORY}.GetInventory": get_inventory,
    }
