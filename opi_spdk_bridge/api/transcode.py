"""HTTP requests as request messages (google/api/http.proto, the ProtoJSON format): names from the path, fields from the
query and the body.

Field names are accepted in lowerCamelCase and as in the contract, numbers as JSON numbers or text, enum values by name
or number, bytes as base64 of either alphabet, wrapped values bare, null as "not set". What is wrong is refused with an
InvalidArgument that names the field; values are not repeated in errors, they might be secrets.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.routes import Route

_MOST_PARAMETERS = 100
_MASK = "google.protobuf.FieldMask"
_WHOLE_BODY = "*"
_UPDATE_MASK = "update_mask"
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_CAPITAL = re.compile(r"[A-Z]")

Descriptor = Any  # a message or field descriptor: which class it is depends on the protobuf runtime


def to_request(route: Route, names: Mapping[str, str], query: str, body: bytes) -> Message:
    """The request message of a call of `route`; raises InvalidArgument."""
    request = route.method.request()
    tree = _json(body) if route.body else {}
    if route.body == _WHOLE_BODY:
        _fill(request, tree, "")
    elif route.body:
        getattr(request, route.body).SetInParent()
        _fill(getattr(request, route.body), tree, route.body)
    _query(request, route, query)
    for path, name in names.items():
        *above, last = path.split(".")
        setattr(functools.reduce(getattr, above, request), last, name)
    if route.http_method == "PATCH" and _UPDATE_MASK in request.DESCRIPTOR.fields_by_name:
        mask: Any = getattr(request, _UPDATE_MASK)
        if not mask.paths:
            mask.paths.extend(_named(tree, getattr(request, route.body).DESCRIPTOR))
    return request


def _json(body: bytes) -> Any:
    if not body.strip():
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        where = f"line {problem.lineno}, column {problem.colno}"
        raise errors.InvalidArgument(f"the body is not JSON: {problem.msg} ({where})", field="body") from None


# The body


@functools.cache
def _fields(message: Descriptor) -> Mapping[str, Descriptor]:
    return {name: field for field in message.fields for name in (field.name, field.json_name)}


def _fill(message: Message, tree: Any, path: str) -> None:
    """Sets the fields that a JSON object has; `path` is that of the message in the request."""
    if not isinstance(tree, dict):
        raise _wrong(path or "body", tree, "a JSON object")
    seen = set()
    for key, value in tree.items():
        field = _field(message.DESCRIPTOR, key, path)
        at = _join(path, field.name)
        if field.name in seen:
            raise errors.InvalidArgument(f"{at} is given twice", field=at)
        seen.add(field.name)
        if value is not None:
            _set(message, field, value, at)


def _set(message: Message, field: Descriptor, value: Any, path: str) -> None:
    other = message.WhichOneof(field.containing_oneof.name) if field.containing_oneof is not None else None
    if other not in (None, field.name):
        text = f"{path} and {other} are both given, only one of them may be"
        raise errors.InvalidArgument(text, field=path)
    if field.is_repeated:
        _extend(getattr(message, field.name), field, value, path)
    elif field.message_type is None:
        setattr(message, field.name, _scalar(field, value, path))
    else:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _set_message(inner, value, path)


def _extend(items: Any, field: Descriptor, value: Any, path: str) -> None:
    if not isinstance(value, list):
        raise _wrong(path, value, "a list")
    for number, item in enumerate(value):
        at = f"{path}[{number}]"
        if field.message_type is None:
            items.append(_scalar(field, item, at))
        else:
            _set_message(items.add(), item, at)


def _set_message(message: Message, value: Any, path: str) -> None:
    wrapped = _wrapped(message.DESCRIPTOR)
    if wrapped is not None:
        setattr(message, wrapped.name, _scalar(wrapped, value, path))
    elif message.DESCRIPTOR.full_name == _MASK:
        mask: Any = message
        mask.paths.extend(_mask(value, path))
    else:
        _fill(message, value, path)


def _wrapped(message: Descriptor) -> Descriptor | None:
    """The field of a google.protobuf wrapper; None for other messages."""
    is_wrapper = message.file.name == "google/protobuf/wrappers.proto"
    return message.fields_by_name["value"] if is_wrapper else None


def _named(tree: Mapping[str, Any], message: Descriptor) -> Iterator[str]:
    """The paths of the fields that a JSON object names: the update mask where a PATCH gives none (AIP-134)."""
    for key, value in tree.items():
        field = _fields(message)[key]
        if isinstance(value, dict) and value and not field.is_repeated:
            yield from (f"{field.name}.{path}" for path in _named(value, field.message_type))
        else:
            yield field.name


# The query


def _query(request: Message, route: Route, query: str) -> None:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except ValueError as problem:
        text = f"the query is not UTF-8, or has more than {_MOST_PARAMETERS} parameters"
        raise errors.InvalidArgument(text, field="query") from problem
    given: dict[str, list[str]] = {}
    for key, text in pairs:
        given.setdefault(_parameter(request.DESCRIPTOR, route, key), []).append(text)
    for path, texts in given.items():
        *above, last = path.split(".")
        message = functools.reduce(getattr, above, request)
        field = message.DESCRIPTOR.fields_by_name[last]
        if len(texts) > 1 and not field.is_repeated:
            raise errors.InvalidArgument(f"{path} is given {len(texts)} times", field=path)
        values = [_typed(field, text) for text in texts]
        _set(message, field, values if field.is_repeated else values[0], path)


def _parameter(message: Descriptor, route: Route, key: str) -> str:
    """The path of the field that a query parameter sets; raises InvalidArgument where it cannot be one."""
    path = ""
    for part in key.split("."):
        if message is None:
            raise errors.InvalidArgument(f"{path} has no fields of its own", field=path)
        field = _field(message, part, path)
        path = _join(path, field.name)
        message = None if _is_leaf(field) else field.message_type
    if message is not None:
        inner = ", ".join(f"{path}.{field.json_name}" for field in message.fields)
        raise errors.InvalidArgument(f"{path} cannot be a parameter as a whole; its fields can: {inner}", field=path)
    if route.body and route.body in (_WHOLE_BODY, path.partition(".")[0]):
        raise errors.InvalidArgument(f"{path} belongs into the body, not the query", field=path)
    if any(path == variable.field for variable in route.template.variables):
        raise errors.InvalidArgument(f"{path} is given by the path, not the query", field=path)
    return path


def _is_leaf(field: Descriptor) -> bool:
    message = field.message_type
    return message is None or message.full_name == _MASK or _wrapped(message) is not None


def _typed(field: Descriptor, text: str) -> Any:
    """The text of a parameter as JSON would have it: only truth values are not text there."""
    scalar = _wrapped(field.message_type) if field.message_type is not None else field
    if scalar is not None and scalar.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text, text)
    return text


# Values


def _field(message: Descriptor, key: str, path: str) -> Descriptor:
    field = _fields(message).get(key)
    if field is None:
        at = _join(path, key[:80]) or "query"
        known = ", ".join(field.json_name for field in message.fields)
        raise errors.InvalidArgument(f"there is no field {at!r}; {path or 'the request'} has: {known}", field=at)
    return field


def _scalar(field: Descriptor, value: Any, path: str) -> Any:
    return _SCALARS[field.type](field, value, path)


def _text(_field: Descriptor, value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, value, "a string")
    return value


def _truth(_field: Descriptor, value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, value, "true or false")
    return value


def _bytes(_field: Descriptor, value: Any, path: str) -> bytes:
    if isinstance(value, str):
        text = value.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            pass
    raise _wrong(path, value, "base64 in a string")


def _integer(bits: int) -> Callable[[Descriptor, Any, str], int]:
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def parse(_field: Descriptor, value: Any, path: str) -> int:
        number = _whole(value)
        if number is None or not least <= number <= most:
            raise _wrong(path, value, f"a whole number from {least} to {most}")
        return number

    return parse


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _enum(field: Descriptor, value: Any, path: str) -> int:
    named = field.enum_type.values_by_name.get(value) if isinstance(value, str) else None
    number = named.number if named is not None else _whole(value)
    if number not in field.enum_type.values_by_number:
        raise _wrong(path, value, f"one of {', '.join(field.enum_type.values_by_name)}")
    assert number is not None
    return number


def _mask(value: Any, path: str) -> list[str]:
    """The paths of a mask, which is text: paths in either spelling with commas between them."""
    if not isinstance(value, str):
        raise _wrong(path, value, "field paths in a string, with commas between them")
    return [_CAPITAL.sub(lambda capital: f"_{capital[0].lower()}", part) for part in value.split(",") if part]


_SCALARS: dict[int, Callable[[Descriptor, Any, str], Any]] = {
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_BOOL: _truth,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_INT32: _integer(32),
    FieldDescriptor.TYPE_INT64: _integer(64),
    FieldDescriptor.TYPE_ENUM: _enum,
}


def _wrong(path: str, value: Any, right: str) -> errors.InvalidArgument:
    kinds = {str: "other text", bool: "a truth value", dict: "an object", list: "a list", type(None): "null"}
    given = kinds.get(type(value), "a number")
    return errors.InvalidArgument(f"{path} must be {right}, and {given} was given", field=path)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
