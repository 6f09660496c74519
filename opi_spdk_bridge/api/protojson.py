"""Messages as JSON, the way grpc-gateway shows them by default: what is not set is there, too (EmitUnpopulated).

Clients read fields without asking whether they are there: `nextPageToken` of the last page, a flag that is false. Left
out stays what is not set and has a presence of its own (messages, wrappers, members of a oneof), and bytes that are
empty: those are keys, which never come back, and an empty one that is sent back in a PATCH would clear the key.

https://protobuf.dev/programming-guides/json/ says how values look.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Descriptor = Any  # of a message or field: which class it is depends on the protobuf runtime
_Shown = Callable[[Any], Any]


def shown(message: Message) -> Any:
    """The message as a JSON-like value."""
    return _message(message.DESCRIPTOR)(message)


def always_shown(field: Descriptor) -> bool:
    """Whether an answer has the field whatever its value is."""
    return not field.has_presence and (field.is_repeated or field.type != FieldDescriptor.TYPE_BYTES)


@functools.cache
def _message(descriptor: Descriptor) -> _Shown:
    if descriptor.file.name == "google/protobuf/wrappers.proto":
        value = _value(descriptor.fields_by_name["value"])
        return lambda message: value(message.value)
    fields = [(field.name, field.json_name, _asks(field), _field(field)) for field in descriptor.fields]

    def show(message: Any) -> dict[str, Any]:
        return {
            json_name: value(getattr(message, name))
            for name, json_name, asks, value in fields
            if asks is None or asks(message)
        }

    return show


def _asks(field: Descriptor) -> Callable[[Any], bool] | None:
    """What asks a message whether the field is shown; None where it always is."""
    name = field.name
    if always_shown(field):
        return None
    if field.has_presence:
        return lambda message: bool(message.HasField(name))
    return lambda message: bool(getattr(message, name))


def _field(field: Descriptor) -> _Shown:
    one = _value(field)
    return (lambda values: [one(value) for value in values]) if field.is_repeated else one


def _value(field: Descriptor) -> _Shown:
    if field.message_type is not None:
        inner = field.message_type
        return lambda message: _message(inner)(message)  # looked up when it is used: messages may contain themselves
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    return _SCALARS[field.type]


def _as_it_is(value: Any) -> Any:
    return value


_SCALARS: dict[int, _Shown] = {
    FieldDescriptor.TYPE_STRING: _as_it_is,
    FieldDescriptor.TYPE_BOOL: _as_it_is,
    FieldDescriptor.TYPE_INT32: _as_it_is,
    FieldDescriptor.TYPE_UINT32: _as_it_is,
    FieldDescriptor.TYPE_INT64: str,
    FieldDescriptor.TYPE_BYTES: lambda value: base64.b64encode(value).decode("ascii"),
}
