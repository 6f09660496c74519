"""The gRPC server: the contract's services, reflection and health."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.api import serving
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.handlers import leave_gone_clients_alone, parse, refuse, refusing
from opi_spdk_bridge.api.interceptors import Caller, Failed, Requests, request_id
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.api.policy import Peer, bearer
from opi_spdk_bridge.api.reflection import Reflection
from opi_spdk_bridge.api.tls import Tls

_REQUEST_ID = "x-request-id"
_LONGEST_PATH = 200
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_concurrent_streams", 1024),  # of one connection; more wait at the client
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # the one that sheds a peer that answers no ping
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # clients in the field ping every 10 s
]


async def _nothing(_request: Any) -> Message:
    raise errors.Unimplemented("there is no such method")


_ABSENT = Method("unknown", "unknown", empty_pb2.Empty, empty_pb2.Empty, _nothing)
"""What calls of methods that do not exist are counted as: their names are the client's, and without end."""


class GrpcServer:
    """Serves the methods on the given listeners, all of them with TLS or none (Unix sockets: never).

    Each listener has a server of its own, so that a request tells through which one it came.
    """

    def __init__(
        self, methods: Sequence[Method], requests: Requests, listeners: Sequence[Listener], tls: Tls | None = None
    ) -> None:
        leave_gone_clients_alone()
        self._listeners = listeners
        self._tls = tls
        self.services = list(dict.fromkeys(method.service for method in methods))
        self._health = serving.Health(self.services)
        self._standard = [self._health.handler(), *Reflection([*self.services, serving.NAME]).handlers()]
        self._servers = [self._server(methods, requests, listener) for listener in listeners]

    def _server(self, methods: Sequence[Method], requests: Requests, listener: Listener) -> grpc.aio.Server:
        limits = [
            ("grpc.max_receive_message_length", requests.limits.message_bytes),
            ("grpc.max_allowed_incoming_connections", requests.limits.connections),
        ]
        server = grpc.aio.server(options=[*_OPTIONS, *limits])
        for service, group in groupby(methods, key=lambda method: method.service):
            server.add_generic_rpc_handlers([_service_handler(service, group, requests, listener)])
        server.add_generic_rpc_handlers([*self._standard, _Absent(requests, listener)])
        return server

    async def start(self) -> list[str]:
        """Starts listening and returns the addresses with their real ports; raises CannotListen."""
        bound = []
        for listener, server in zip(self._listeners, self._servers, strict=True):
            await asyncio.to_thread(listener.make_way)
            with listener.closed():
                bound.append(self._bind(listener, server))
            await server.start()
            await asyncio.to_thread(listener.let_in)
        return bound

    def _bind(self, listener: Listener, server: grpc.aio.Server) -> str:
        address = listener.address if listener.path is None else f"unix:{listener.path}"
        try:
            if self._tls is not None and listener.path is None:
                port = server.add_secure_port(address, self._tls.grpc_credentials())
            else:
                port = server.add_insecure_port(address)
        except RuntimeError as problem:
            raise listener.refused(str(problem)) from None
        host, _, asked = address.rpartition(":")
        return f"{host}:{port}" if asked == "0" else address

    def set_serving(self, serving: bool) -> None:
        """Says for the server and each service whether changes can be carried out."""
        self._health.set(serving)

    async def stop(self, grace_s: float) -> None:
        """Takes no more requests, and waits for those at work for at most `grace_s`."""
        self._health.end()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))


def _service_handler(
    service: str, methods: Iterable[Method], requests: Requests, listener: Listener
) -> grpc.GenericRpcHandler:
    handlers: dict[str, Any] = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _handler(method, functools.partial(parse, method.request), requests, listener),
            response_serializer=method.response.SerializeToString,
        )
        for method in methods
    }
    return grpc.method_handlers_generic_handler(service, handlers)


class _Absent(grpc.GenericRpcHandler):
    """Answers calls of methods that do not exist, so that they are counted and logged, too."""

    def __init__(self, requests: Requests, listener: Listener) -> None:
        self._requests = requests
        self._listener = listener

    def service(self, handler_call_details: Any) -> Any:
        path = str(handler_call_details.method)[:_LONGEST_PATH]

        def refuse(_received: bytes) -> Message:
            raise errors.Unimplemented(f"there is no method {path}; reflection lists those that there are")

        return grpc.unary_unary_rpc_method_handler(_handler(_ABSENT, refuse, self._requests, self._listener, path))


def _handler(
    method: Method, read: Callable[[bytes], Message], requests: Requests, listener: Listener, about: str = "-"
) -> Callable[[bytes, Any], Awaitable[Message | None]]:
    async def handle(received: bytes, context: Any) -> Message | None:
        async with refusing(context):
            metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            peer = Peer(_certified(context), listener.identity, bearer(metadata.get("authorization", "")))
            given = request_id(metadata.get(_REQUEST_ID))
            caller = Caller(context.peer(), given, context.time_remaining(), metadata, peer, about)
            context.set_trailing_metadata(((_REQUEST_ID, caller.request_id),))

            async def request() -> Message:
                return read(received)

            try:
                return await requests.run(method, request, caller)
            except Failed as failure:
                await refuse(context, failure.status, (_REQUEST_ID, caller.request_id))
        return None

    return handle


def _certified(context: Any) -> list[str]:
    """The names in the client's certificate."""
    known = context.auth_context()
    names = (*known.get("x509_subject_alternative_name", ()), *known.get("x509_common_name", ()))
    return [name.decode(errors="replace") for name in names]
