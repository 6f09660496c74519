"""The gRPC server: the contract's services, reflection and health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.interceptors import Caller, Failed, Requests, request_id

_REQUEST_ID = "x-request-id"
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


class GrpcServer:
    """Serves the methods on the given addresses (host:port)."""

    def __init__(self, methods: Sequence[Method], requests: Requests, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_OPTIONS)
        self.services = list(dict.fromkeys(method.service for method in methods))
        for service, group in groupby(methods, key=lambda method: method.service):
            self._server.add_generic_rpc_handlers([_service_handler(service, group, requests)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        shown = [*self.services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(shown, self._server)

    async def start(self) -> list[str]:
        """Starts listening and returns the addresses with their real ports; raises Unavailable when one is taken."""
        bound = []
        for address in self._addresses:
            try:
                port = self._server.add_insecure_port(address)
            except RuntimeError:
                text = (
                    f"cannot listen on {address}: another program has that port, or the address is not this machine's"
                )
                raise errors.Unavailable(text) from None
            host, _, asked = address.rpartition(":")
            bound.append(f"{host}:{port}" if asked == "0" else address)
        await self._server.start()
        return bound

    async def set_serving(self, serving: bool) -> None:
        """Says for the server and each service whether changes can be carried out."""
        serving_status = health_pb2.HealthCheckResponse.SERVING
        status = serving_status if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self.services):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Takes no more requests, and waits for those at work for at most `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def _service_handler(service: str, methods: Iterable[Method], requests: Requests) -> grpc.GenericRpcHandler:
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _handler(method, requests),
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )
        for method in methods
    }
    return grpc.method_handlers_generic_handler(service, handlers)


def _handler(method: Method, requests: Requests) -> Callable[[Message, Any], Awaitable[Message | None]]:
    async def handle(request: Message, context: Any) -> Message | None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        caller = Caller(context.peer(), request_id(metadata.get(_REQUEST_ID)), context.time_remaining(), metadata)
        context.set_trailing_metadata(((_REQUEST_ID, caller.request_id),))
        try:
            return await requests.run(method, request, caller)
        except Failed as failure:
            status = rpc_status.to_status(failure.status)
            trailers = (*status.trailing_metadata, (_REQUEST_ID, caller.request_id))
            await context.abort(status.code, status.details, trailers)
            return None

    return handle
