"""Both servers in the test's own loop, over real sockets, and what a client sees of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.http_server import HttpServer
from opi_spdk_bridge.api.interceptors import Requests
from opi_spdk_bridge.api.limits import Limits
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.api.policy import Authorizer
from opi_spdk_bridge.api.server import GrpcServer
from opi_spdk_bridge.api.tls import Tls
from tests.http.contract import METHODS, method
from tests.support.patience import PATIENCE_S

Call = Callable[[Any], Awaitable[Message]]
GRPC, HTTP = "grpc", "http"
BOTH = (GRPC, HTTP)
LIMITS = Limits(request_s=PATIENCE_S)
_GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class Served:
    """Where the servers listen, by protocol."""

    addresses: dict[str, list[str]]
    grpc: GrpcServer

    def at(self, protocol: str) -> str:
        """The first listener's address."""
        return self.addresses[protocol][0]


@contextlib.asynccontextmanager
async def serving(
    tls: Tls | None = None,
    authorizer: Authorizer | None = None,
    listen: Sequence[str] = ("127.0.0.1:0",),
    http: Sequence[str] = ("127.0.0.1:0",),
    limits: Limits = LIMITS,
    **calls: Call,
) -> AsyncIterator[Served]:
    """Servers of the contract's methods; `calls` has what carries out some of them, the others answer nothing."""
    methods = [replace(item, call=calls.get(item.name, _nothing(item))) for item in METHODS]
    requests = Requests(limits, authorizer=authorizer)
    over_grpc = GrpcServer(methods, requests, [Listener.parse(text) for text in listen], tls)
    pages = [Route("/metrics", _page), Route("/", _page)]
    over_http = HttpServer(methods, requests, [Listener.parse(text) for text in http], [], pages, tls)
    try:
        yield Served({GRPC: await over_grpc.start(), HTTP: await over_http.start()}, over_grpc)
    finally:
        await asyncio.gather(over_grpc.stop(0.1), over_http.stop(0.1))


def _nothing(item: Method) -> Call:
    async def answer(_request: Any) -> Message:
        return item.response()

    return answer


async def _page(_request: Request) -> Response:
    return PlainTextResponse("everything")


async def gets_in(served: Served, protocol: str, context: ssl.SSLContext) -> bool:
    """Whether a client with that context is served over a new connection."""
    return await asyncio.to_thread(_knock, served.at(protocol), protocol, context) is not None


async def serial(served: Served, protocol: str, context: ssl.SSLContext) -> int:
    """The number of the certificate that the server shows on a new connection."""
    seen = await asyncio.to_thread(_knock, served.at(protocol), protocol, context)
    assert seen is not None, "not let in"
    return int(seen["serialNumber"], 16)


def _knock(address: str, protocol: str, context: ssl.SSLContext) -> dict[str, Any] | None:
    """The server's certificate where it answers; a client that it refuses may learn that only when it reads."""
    host, _, port = address.rpartition(":")
    context.set_alpn_protocols(["h2" if protocol == GRPC else "http/1.1"])
    try:
        with (
            socket.create_connection((host, int(port)), PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as s,
        ):
            if protocol == HTTP:
                s.sendall(_GET)
            return dict(s.getpeercert() or {}) if s.recv(100) else None
    except (ssl.SSLError, ConnectionError):
        return None


async def call(
    address: str,
    name: str,
    request: dict[str, Any] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    token: str = "",
) -> tuple[str, Any]:
    """The code's name and the answer of a call over gRPC."""  # fmt: skip
    item = method(name)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    channel = (
        grpc.aio.insecure_channel(address) if credentials is None else grpc.aio.secure_channel(address, credentials)
    )
    async with channel:
        invoke: Any = channel.unary_unary(
            f"/{item.service}/{item.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=item.response.FromString,
        )
        try:
            return "OK", await invoke(item.request(**(request or {})), timeout=PATIENCE_S, metadata=metadata)
        except grpc.aio.AioRpcError as problem:
            return problem.code().name, problem.details()
