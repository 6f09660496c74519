"""gRPC's health service (grpc.health.v1): whether changes can be carried out, for the server ("") and each service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from opi_spdk_bridge import errors
from opi_spdk_bridge.api import handlers

NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_pb: Any = health_pb2  # whose type stubs know no List
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Answers Check, List and Watch. Nobody waits for a watcher: it is told what holds once it can take a message."""

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses: dict[str, Any] = dict.fromkeys(("", *services), _NOT_SERVING)
        self._changed = asyncio.Event()
        self._ends = False

    def set(self, serving: bool) -> None:
        """Says whether changes can be carried out."""
        if not self._ends:
            self._statuses = dict.fromkeys(self._statuses, _SERVING if serving else _NOT_SERVING)
            self._tell()

    def end(self) -> None:
        """Tells every watcher that nothing is served any more, and ends their streams."""
        self.set(False)
        self._ends = True
        self._tell()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, for a gRPC server."""
        check, listed = _pb.HealthCheckRequest, _pb.HealthListRequest
        methods = {
            "Check": handlers.unary(check, self._check),
            "List": handlers.unary(listed, self._list),
            "Watch": handlers.unary_stream(check, self._watch),
        }
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service not in self._statuses:
            known = ", ".join(name for name in self._statuses if name)
            raise errors.NotFound(f"there is no service {request.service[:200]}, only {known}", field="service")
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    def _list(self, _request: Any) -> Any:
        answer = _pb.HealthListResponse()
        for name, status in self._statuses.items():
            answer.statuses[name].status = status
        return answer

    async def _watch(self, request: health_pb2.HealthCheckRequest, write: handlers.Write) -> None:
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                told = status
                await write(health_pb2.HealthCheckResponse(status=status))
            elif self._ends:
                return
            else:
                await changed.wait()
