"""Rules over the fields of any message: behaviours (AIP-203), update masks (AIP-134, AIP-161), access by path."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.api import field_behavior_pb2
from google.protobuf.message import Message

from opi_spdk_bridge import errors

M = TypeVar("M", bound=Message)
_WRAPPERS = "google.protobuf."

Descriptor = Any  # a message or field descriptor: which class it is depends on the protobuf runtime


@dataclass(frozen=True, slots=True)
class _Field:
    """What is asked of a field again and again, worked out once."""

    descriptor: Descriptor
    name: str
    required: bool
    output: bool
    nested: bool
    repeated: bool
    values: frozenset[int] | None


@functools.cache
def _fields(message: Descriptor) -> tuple[_Field, ...]:
    return tuple(_describe(field) for field in message.fields)


def _describe(field: Descriptor) -> _Field:
    behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    message = field.message_type
    return _Field(
        descriptor=field,
        name=field.name,
        required=field_behavior_pb2.REQUIRED in behaviors,
        output=field_behavior_pb2.OUTPUT_ONLY in behaviors or field_behavior_pb2.IDENTIFIER in behaviors,
        nested=message is not None and not message.full_name.startswith(_WRAPPERS),
        repeated=field.is_repeated,
        values=frozenset(value.number for value in field.enum_type.values) if field.enum_type else None,
    )


def is_set(message: Message, field: Descriptor) -> bool:
    """Whether a field is populated: present where presence is tracked, else not the default (AIP-203)."""
    if field.is_repeated:
        return len(getattr(message, field.name)) > 0
    if field.has_presence:
        return message.HasField(field.name)
    return bool(getattr(message, field.name) != field.default_value)


def strip_outputs(message: Message) -> None:
    """Clears, in place, the name and everything that only the server may set."""
    for field in _fields(message.DESCRIPTOR):
        if field.output:
            message.ClearField(field.name)
        elif field.nested and not field.repeated and message.HasField(field.name):
            strip_outputs(getattr(message, field.name))


def check(message: Message, prefix: str) -> None:
    """Checks required fields, enum values and texts; raises InvalidArgument naming the path below `prefix`."""
    for field in _fields(message.DESCRIPTOR):
        if field.output:
            continue
        path = f"{prefix}.{field.name}"
        if not is_set(message, field.descriptor):
            if field.required:
                raise errors.InvalidArgument(f"{path} is required", field=path)
            continue
        value = getattr(message, field.name)
        if field.values is not None and value not in field.values:
            raise errors.InvalidArgument(f"{path} has no value numbered {value}", field=path)
        if isinstance(value, str) and "\0" in value:
            raise errors.InvalidArgument(f"{path} has a NUL character, which a target cannot read", field=path)
        if field.nested and not field.repeated:
            check(value, path)


# Access by path


@functools.cache
def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def get(message: Message, path: str) -> Any:
    """The value at a path; the field's default where it, or a message above it, is not set."""
    value: Any = message
    for name in _parts(path):
        value = getattr(value, name)
    return value


def has(message: Message, path: str) -> bool:
    """Whether the field at a path is populated."""
    *above, last = _parts(path)
    for name in above:
        if not message.HasField(name):
            return False
        message = getattr(message, name)
    return is_set(message, message.DESCRIPTOR.fields_by_name[last])


def put(message: Message, path: str, value: Any) -> None:
    """Sets a scalar, or clears it with None."""
    *above, last = _parts(path)
    for name in above:
        message = getattr(message, name)
    if value is None:
        message.ClearField(last)
    else:
        setattr(message, last, value)


def clear(message: Message, path: str) -> None:
    """Clears the field at a path; the messages above it stay as they are."""
    if has(message, path):
        put(message, path, None)


def copy(source: Message, target: Message, path: str) -> None:
    """Makes the field at a path of `target` what it is in `source`, set or not."""
    *above, last = _parts(path)
    for name in above:
        if not source.HasField(name):
            clear(target, path)
            return
        source, target = getattr(source, name), getattr(target, name)
    target.ClearField(last)
    field = source.DESCRIPTOR.fields_by_name[last]
    if not is_set(source, field):
        return
    if field.is_repeated:
        getattr(target, last).extend(getattr(source, last))
    elif field.message_type is not None:
        getattr(target, last).CopyFrom(getattr(source, last))
    else:
        setattr(target, last, getattr(source, last))


def split(message: M, paths: Iterable[str]) -> tuple[M, M]:
    """(the message without these fields, a message with these fields only)."""
    without, only = type(message)(), type(message)()
    without.CopyFrom(message)
    for path in paths:
        if has(message, path):
            copy(message, only, path)
            clear(without, path)
    return without, only


# Update masks


def update(current: M, request: M, mask: Sequence[str], *, keep: Iterable[str], prefix: str) -> M:
    """The resource that an update asks for.

    No mask: every populated field of the request. `*`: the request as a whole. Else the named fields, cleared where the
    request leaves them out. Fields at the paths `keep` that the request leaves out stay unless the mask names them.
    Raises InvalidArgument for a path that does not exist, or `*` beside others.
    """
    paths = list(mask)
    merged = type(current)()
    merged.CopyFrom(current)
    if not paths:
        _merge(request, merged)
        return merged
    if "*" in paths:
        if len(paths) > 1:
            raise errors.InvalidArgument("update_mask has '*' beside other paths", field="update_mask")
        merged.CopyFrom(request)
    for path in paths:
        if path != "*" and _updatable(current.DESCRIPTOR, path, prefix):
            copy(request, merged, path)
    for path in keep:
        if path not in paths and not has(request, path) and has(current, path):
            copy(current, merged, path)
    return merged


def _merge(source: Message, target: Message) -> None:
    for field in _fields(source.DESCRIPTOR):
        if not is_set(source, field.descriptor):
            continue
        if field.nested and not field.repeated:
            getattr(target, field.name).SetInParent()
            _merge(getattr(source, field.name), getattr(target, field.name))
        else:
            copy(source, target, field.name)


def _updatable(message: Descriptor, path: str, prefix: str) -> bool:
    """Whether a path of a mask can be changed; False for outputs and the name, which are ignored."""
    updatable = True
    for name in path.split("."):
        found = next((field for field in _fields(message) if field.name == name), None) if message is not None else None
        if found is None:
            text = f"update_mask names {path!r}, which is not a field of {prefix}"
            raise errors.InvalidArgument(text, field="update_mask")
        updatable = updatable and not found.output
        message = found.descriptor.message_type if not found.repeated else None
    return updatable
