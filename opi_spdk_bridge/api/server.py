"""The gRPC server: the contract's services, reflection and health."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool, empty_pb2
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.interceptors import Caller, Failed, Requests, request_id
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.api.policy import Peer, bearer
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


class _MethodsToo:
    """The default pool of descriptors, which finds methods, too, by their full name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 (the pool's own spelling)
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = pool.FindServiceByName(service)
            return found.methods_by_name[method].containing_service.file


class GrpcServer:
    """Serves the methods on the given listeners, all of them with TLS or none (Unix sockets: never).

    Each listener has a server of its own, so that a request tells through which one it came.
    """

    def __init__(
        self, methods: Sequence[Method], requests: Requests, listeners: Sequence[Listener], tls: Tls | None = None
    ) -> None:
        self._listeners = listeners
        self._tls = tls
        self._health = health.aio.HealthServicer()
        self.services = list(dict.fromkeys(method.service for method in methods))
        self._servers = [self._server(methods, requests, listener) for listener in listeners]

    def _server(self, methods: Sequence[Method], requests: Requests, listener: Listener) -> grpc.aio.Server:
        limits = [
            ("grpc.max_receive_message_length", requests.limits.message_bytes),
            ("grpc.max_allowed_incoming_connections", requests.limits.connections),
        ]
        server = grpc.aio.server(options=[*_OPTIONS, *limits])
        for service, group in groupby(methods, key=lambda method: method.service):
            server.add_generic_rpc_handlers([_service_handler(service, group, requests, listener)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        shown = [*self.services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(shown, server, pool=cast(Any, _MethodsToo()))
        server.add_generic_rpc_handlers([_Absent(requests, listener)])
        return server

    async def start(self) -> list[str]:
        """Starts listening and returns the addresses with their real ports; raises Unavailable when one is taken."""
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
        except RuntimeError:
            text = f"cannot listen on {address}: another program has that port, or the address is not this machine's"
            raise errors.Unavailable(text) from None
        host, _, asked = address.rpartition(":")
        return f"{host}:{port}" if asked == "0" else address

    async def set_serving(self, serving: bool) -> None:
        """Says for the server and each service whether changes can be carried out."""
        serving_status = health_pb2.HealthCheckResponse.SERVING
        status = serving_status if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self.services):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Takes no more requests, and waits for those at work for at most `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))


def _service_handler(
    service: str, methods: Iterable[Method], requests: Requests, listener: Listener
) -> grpc.GenericRpcHandler:
    handlers: dict[str, Any] = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _handler(method, functools.partial(_parse, method.request), requests, listener),
            response_serializer=method.response.SerializeToString,
        )
        for method in methods
    }
    return grpc.method_handlers_generic_handler(service, handlers)


def _parse(message: type[Message], received: bytes) -> Message:
    try:
        return message.FromString(received)
    except DecodeError:
        raise errors.InvalidArgument(f"what came is no {message.DESCRIPTOR.full_name}") from None


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
    method: Method, parse: Callable[[bytes], Message], requests: Requests, listener: Listener, about: str = "-"
) -> Callable[[bytes, Any], Awaitable[Message | None]]:
    async def handle(received: bytes, context: Any) -> Message | None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        peer = Peer(_certified(context), listener.identity, bearer(metadata.get("authorization", "")))
        given = request_id(metadata.get(_REQUEST_ID))
        caller = Caller(context.peer(), given, context.time_remaining(), metadata, peer, about)
        context.set_trailing_metadata(((_REQUEST_ID, caller.request_id),))

        async def read() -> Message:
            return parse(received)

        try:
            return await requests.run(method, read, caller)
        except Failed as failure:
            status = rpc_status.to_status(failure.status)
            trailers = (*status.trailing_metadata, (_REQUEST_ID, caller.request_id))
            await context.abort(status.code, status.details, trailers)
            return None

    return handle


def _certified(context: Any) -> list[str]:
    """The names in the client's certificate."""
    known = context.auth_context()
    names = (*known.get("x509_subject_alternative_name", ()), *known.get("x509_common_name", ()))
    return [name.decode(errors="replace") for name in names]
