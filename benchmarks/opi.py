"""The OPI calls that are measured: their requests, answers as the bare server gives them, and a client of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from opi_spdk_bridge.pb.storage import backend_null_pb2 as null
from opi_spdk_bridge.pb.storage import frontend_nvme_pb2 as nvme

T = TypeVar("T")
Invoke = Callable[[Message], Awaitable[Any]]

FRONTEND = "opi_api.storage.v1.FrontendNvmeService"
NULL_VOLUMES = "opi_api.storage.v1.NullVolumeService"
METHODS: dict[str, tuple[str, type[Message], type[Message]]] = {
    "CreateNvmeSubsystem": (FRONTEND, nvme.CreateNvmeSubsystemRequest, nvme.NvmeSubsystem),
    "DeleteNvmeSubsystem": (FRONTEND, nvme.DeleteNvmeSubsystemRequest, Empty),
    "CreateNvmeNamespace": (FRONTEND, nvme.CreateNvmeNamespaceRequest, nvme.NvmeNamespace),
    "GetNvmeNamespace": (FRONTEND, nvme.GetNvmeNamespaceRequest, nvme.NvmeNamespace),
    "ListNvmeNamespaces": (FRONTEND, nvme.ListNvmeNamespacesRequest, nvme.ListNvmeNamespacesResponse),
    "DeleteNvmeNamespace": (FRONTEND, nvme.DeleteNvmeNamespaceRequest, Empty),
    "CreateNullVolume": (NULL_VOLUMES, null.CreateNullVolumeRequest, null.NullVolume),
}
PAGE = 50
SMALL_PAGE = 10
MOST_NAMESPACES = 1024


class Client:
    """Calls of one server over one channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._invoke: dict[str, Invoke] = {
            name: self._channel.unary_unary(
                f"/{service}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (service, request, response) in METHODS.items()
        }

    async def __aenter__(self) -> Client:
        await self._channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def create_subsystem(self, name: str) -> None:
        """With a host: two calls of the target."""
        await self._invoke["CreateNvmeSubsystem"](subsystem_request(name))

    async def delete_subsystem(self, name: str) -> None:
        await self._invoke["DeleteNvmeSubsystem"](nvme.DeleteNvmeSubsystemRequest(name=subsystem(name)))

    async def create_volume(self, name: str) -> None:
        request = null.CreateNullVolumeRequest(
            null_volume_id=name, null_volume=null.NullVolume(block_size=512, blocks_count=2048)
        )
        await self._invoke["CreateNullVolume"](request)

    async def create(self, parent: str, volume: str) -> None:
        """A namespace named as its volume."""
        await self._invoke["CreateNvmeNamespace"](namespace_request(parent, volume))

    async def get(self, parent: str, volume: str) -> None:
        await self._invoke["GetNvmeNamespace"](nvme.GetNvmeNamespaceRequest(name=namespace(parent, volume)))

    async def list(self, parent: str, page_size: int = PAGE) -> int:
        """The number of items in the first page."""
        request = nvme.ListNvmeNamespacesRequest(parent=subsystem(parent), page_size=page_size)
        return len((await self._invoke["ListNvmeNamespaces"](request)).nvme_namespaces)

    async def delete(self, parent: str, volume: str) -> None:
        await self._invoke["DeleteNvmeNamespace"](nvme.DeleteNvmeNamespaceRequest(name=namespace(parent, volume)))


def subsystem(name: str) -> str:
    """The resource name."""
    return f"nvmeSubsystems/{name}"


def namespace(parent: str, name: str) -> str:
    """The resource name."""
    return f"{subsystem(parent)}/nvmeNamespaces/{name}"


def subsystem_request(name: str) -> nvme.CreateNvmeSubsystemRequest:
    """A subsystem that one host may connect to."""
    spec = nvme.NvmeSubsystemSpec(
        nqn=f"nqn.2022-09.io.spdk:{name}", max_namespaces=MOST_NAMESPACES, hostnqn="nqn.2014-08.org.example:host"
    )
    return nvme.CreateNvmeSubsystemRequest(nvme_subsystem_id=name, nvme_subsystem=nvme.NvmeSubsystem(spec=spec))


def namespace_request(parent: str, volume: str) -> nvme.CreateNvmeNamespaceRequest:
    """A namespace named as its volume."""
    spec = nvme.NvmeNamespaceSpec(volume_name_ref=volume)
    return nvme.CreateNvmeNamespaceRequest(
        parent=subsystem(parent), nvme_namespace_id=volume, nvme_namespace=nvme.NvmeNamespace(spec=spec)
    )


def answer(method: str) -> Message:
    """An answer of the size that the bridge's has."""
    if method == "ListNvmeNamespaces":
        items = [_namespace(f"listed-{number:05}") for number in range(PAGE)]
        return nvme.ListNvmeNamespacesResponse(nvme_namespaces=items, next_page_token="x" * 72)
    if method == "CreateNvmeSubsystem":
        made = nvme.NvmeSubsystem(name=subsystem("made-00000"))
        made.spec.CopyFrom(subsystem_request("made-00000").nvme_subsystem.spec)
        made.spec.serial_number = "0" * 20
        made.status.firmware_revision = "SPDK v26.09-pre"
        return made
    response = METHODS[method][2]
    return _namespace("made-00000") if response is nvme.NvmeNamespace else response()


def _namespace(volume: str) -> nvme.NvmeNamespace:
    spec = nvme.NvmeNamespaceSpec(
        host_nsid=100, nguid=uuid.uuid4().hex.upper(), uuid=str(uuid.uuid4()), volume_name_ref=volume
    )
    status = nvme.NvmeNamespaceStatus(
        state=nvme.NvmeNamespaceStatus.STATE_ENABLED, oper_state=nvme.NvmeNamespaceStatus.OPER_STATE_ONLINE
    )
    return nvme.NvmeNamespace(name=namespace("made-0", volume), spec=spec, status=status)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs the loop that the bridge runs: uvloop's where it is installed."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
