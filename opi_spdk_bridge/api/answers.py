"""HTTP answers: JSON, and errors as google.rpc.Status (google/rpc/code.proto says which HTTP code goes with which)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from starlette.responses import Response

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.interceptors import Failed
from opi_spdk_bridge.api.protojson import shown

HTTP_CODES: Mapping[int, int] = {
    code_pb2.CANCELLED: 499,
    code_pb2.UNKNOWN: 500,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DATA_LOSS: 500,
}


class JsonResponse(Response):
    """A JSON-like value as an answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class Refusal(Failed):
    """What HTTP itself is refused for, with an HTTP code of its own (405, 413, …)."""

    def __init__(self, http_code: int, problem: errors.BridgeError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(errors.to_status(problem))
        self.http_code = http_code
        self.headers = dict(headers or {})


def message_answer(message: Message) -> Response:
    """A message as it is shown over HTTP."""
    return JsonResponse(shown(message))


def status_answer(status: status_pb2.Status) -> Response:
    """The answer that a google.rpc.Status calls for."""
    return JsonResponse(json_format.MessageToDict(status), HTTP_CODES[status.code])


def failure_answer(failure: Failed) -> Response:
    """The answer to a request that failed, or that HTTP is refused for."""
    if isinstance(failure, Refusal):
        return JsonResponse(json_format.MessageToDict(failure.status), failure.http_code, failure.headers)
    return status_answer(failure.status)
