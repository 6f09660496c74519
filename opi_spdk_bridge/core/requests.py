"""Requests against records: what a client asks for, whether it is what exists, and what it is answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core.kind import AnyKind
from opi_spdk_bridge.core.record import AnyRecord, Facts


def desired(kind: AnyKind, resource: Message, field: str) -> Message:
    """The desired resource of a create request; raises InvalidArgument."""
    wanted = type(resource)()
    wanted.CopyFrom(resource)
    fields.strip_outputs(wanted)
    return _valid(kind, wanted, field)


def merged(
    kind: AnyKind, old: AnyRecord, shown: Iterable[Facts], resource: Message, mask: Sequence[str], field: str
) -> Message:
    """The desired resource after an update request, with the rules on it checked; raises InvalidArgument.

    What Get filled in or showed of the target comes back as if it had been left out, also where the mask names it: the
    mask of an HTTP PATCH is whatever its body has. `shown` is what Get may have shown, of the target or before it told.
    """
    request = type(resource)()
    request.CopyFrom(resource)
    fields.strip_outputs(request)
    for facts in shown:
        for path, value in facts.items():
            if fields.has(request, path) and fields.get(request, path) == value:
                fields.copy(old.desired, request, path)
    wanted = fields.update(old.desired, request, mask, keep=(*kind.assigned, *kind.secrets), prefix=field)
    wanted = _valid(kind, wanted, field)
    for path in kind.assigned:
        if fields.has(wanted, path) and fields.get(wanted, path) == old.assigned.get(path):
            fields.put(wanted, path, None)
    for path in kind.immutable:
        if _effective(old, old.desired, path) != _effective(old, wanted, path):
            text = f"{field}.{path} cannot be changed: delete {old.name} and create it anew"
            raise errors.InvalidArgument(text, field=f"{field}.{path}")
    return wanted


def _valid(kind: AnyKind, wanted: Message, field: str) -> Message:
    fields.check(wanted, field)
    kind.normalise(wanted)
    kind.check(wanted)
    return wanted


def same(kind: AnyKind, existing: AnyRecord, wanted: Message) -> bool:
    """Whether a create request asks for what exists, as far as the client set it."""
    ours, theirs = type(wanted)(), type(wanted)()
    ours.CopyFrom(existing.desired)
    theirs.CopyFrom(wanted)
    for path in kind.assigned:
        given = path not in kind.hints and fields.has(wanted, path)
        if given and fields.get(wanted, path) != _effective(existing, existing.desired, path):
            return False
        fields.clear(ours, path)
        fields.clear(theirs, path)
    for path in kind.hints:
        fields.clear(ours, path)
        fields.clear(theirs, path)
    return ours == theirs


def answer(kind: AnyKind, record: AnyRecord, shown: Facts) -> bytes:
    """The resource as clients see it, serialised: outputs filled in, no secrets."""
    resource = kind.message()
    for path, value in record.assigned.items():
        fields.put(resource, path, value)
    resource.MergeFrom(record.desired)  # what was asked for goes over what was assigned
    for path in kind.secrets:
        fields.clear(resource, path)
    for path, value in shown.items():
        fields.put(resource, path, value)
    fields.put(resource, "name", record.name)
    return bytes(resource.SerializeToString())


@contextmanager
def in_field(field: str) -> Iterator[None]:
    """Kinds name fields of the resource: in errors of a request they are below the request's field."""
    try:
        yield
    except errors.BridgeError as problem:
        if problem.field and problem.field.partition(".")[0] not in (field, "update_mask", "parent"):
            problem.field = f"{field}.{problem.field}"
        raise


def _effective(record: AnyRecord, desired: Message, path: str) -> Any:
    """The value of a field with what was assigned where the client left it open."""
    if fields.has(desired, path):
        return fields.get(desired, path)
    return record.assigned.get(path, fields.get(desired, path))
