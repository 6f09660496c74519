"""JSON-RPC requests and answers as bytes (lib/jsonrpc/jsonrpc_server.c)."""

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

from .framing import MAX_DEPTH, InvalidJsonError, Scanner
from .registry import INVALID_REQUEST, RpcError
from .schema import Number, RepeatedMembers

VALUES_MAX = 8192
ANSWER_BYTES_MAX = 32 * 1024 * 1024
MEMBERS = frozenset({"jsonrpc", "method", "params", "id"})
NO_ID = b"null"

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(text: str) -> Any:
    raise InvalidJsonError(text)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    return value if len(value) == len(members) else RepeatedMembers(value)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_constant=_refuse_constant)


def decode_first(text: str, start: int) -> tuple[Any, int]:
    """The JSON value at `start` and the offset behind it and its white space. Raises ValueError.

    It fails for an incomplete value as for an invalid one: framing.Scanner tells which it is.
    """
    begin = _end_of_space(text, start)
    value, end = _DECODER.raw_decode(text, begin)
    check(text[begin:end], value)
    return value, _end_of_space(text, end)


def decode(text: str) -> Any:
    """The JSON value that is all of `text`. Raises ValueError."""
    value = _DECODER.decode(text)
    check(text, value)
    return value


def check(text: str, value: Any) -> None:
    """Raises InvalidJsonError for what Python reads and the target does not, or not in one request."""
    if _SURROGATE.search(text):
        try:
            orjson.loads(text)
        except ValueError:
            raise InvalidJsonError("half a surrogate pair") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        Scanner().scan(text.encode())
    if len(text) > VALUES_MAX and _count_values(value) > VALUES_MAX:
        raise InvalidJsonError("too many values")


def _end_of_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _count_values(value: Any) -> int:
    """As the target counts: brackets and names are values too."""
    if isinstance(value, dict):
        return 2 + sum(1 + _count_values(member) for member in value.values())
    if isinstance(value, list):
        return 2 + sum(_count_values(member) for member in value)
    return 1


@dataclass(frozen=True)
class Request:
    """`request_id` as it is echoed, in JSON."""

    request_id: bytes
    method: str
    params: Any


class InvalidRequestError(Exception):
    """A value that is not a request; its answer carries `request_id`."""

    def __init__(self, request_id: bytes = NO_ID) -> None:
        super().__init__()
        self.request_id = request_id


def parse_request(value: Any) -> Request:
    """Raises InvalidRequestError. A missing "jsonrpc" member is tolerated, another version is not."""
    if type(value) is not dict or not value.keys() <= MEMBERS or value.get("jsonrpc", "2.0") != "2.0":
        raise InvalidRequestError
    method = value.get("method")
    if type(method) is not str:
        raise InvalidRequestError
    request_id = _echo(value.get("id"))
    params = value.get("params")
    if params is not None and not isinstance(params, dict | list):
        raise InvalidRequestError(request_id)
    return Request(request_id, method, params)


def _echo(request_id: Any) -> bytes:
    if request_id is None:
        return NO_ID
    if type(request_id) is int:
        return str(request_id).encode()
    if type(request_id) is str:
        return json.dumps(request_id).encode()
    if type(request_id) is Number:
        return request_id.text.encode()
    raise InvalidRequestError


def result_answer(request_id: bytes, result: Any) -> bytes:
    """An answer; empty for a request without an ID. An answer that is too long is cut off, as the target does."""
    if request_id == NO_ID:
        return b""
    answer = b'{"jsonrpc":"2.0","id":' + request_id + b',"result":' + orjson.dumps(result) + b"}\n"
    return answer[:ANSWER_BYTES_MAX]


def error_answer(request_id: bytes, error: RpcError) -> bytes:
    body = orjson.dumps({"code": error.code, "message": error.message})
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"error":' + body + b"}\n"


def invalid_request_answer(request_id: bytes) -> bytes:
    return error_answer(request_id, RpcError(INVALID_REQUEST, "Invalid request"))
