"""The contract's methods, read off the service descriptors and bound to the engine's verbs.

Each of the kinds has the same shapes of requests and answers, so nothing here knows any of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.engine import Engine
from opi_spdk_bridge.core.registry import Entry, Registry

_VERB = re.compile(r"(Create|Get|List|Update|Delete|Stats)[A-Z]")
READS = ("Get", "List", "Stats")
"""How the names of methods begin that change nothing."""
_INT32_MAX = 2**31 - 1

Call = Callable[[Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its names, its message types, and what carries it out."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]
    call: Call
    changes: bool = False
    """Whether it may change something."""

    @property
    def path(self) -> str:
        """The method's path in gRPC."""
        return f"/{self.service}/{self.name}"


def bind(services: Iterable[Any], engine: Engine, registry: Registry, extras: dict[str, Call]) -> list[Method]:
    """The methods of those service descriptors; `extras` has, by full name, what carries out those that are no verb."""
    methods = []
    for service in services:
        for descriptor in service.methods:
            call = extras.get(descriptor.full_name) or _verb(descriptor, engine, registry)
            request = message_factory.GetMessageClass(descriptor.input_type)
            response = message_factory.GetMessageClass(descriptor.output_type)
            changes = not descriptor.name.startswith(READS)
            methods.append(Method(service.full_name, descriptor.name, request, response, call, changes))
    return methods


def _verb(method: Any, engine: Engine, registry: Registry) -> Call:
    found = _VERB.match(method.name)
    entry = registry.of_message(_resource(method)) if found else None
    if found is None or entry is None:
        raise LookupError(f"{method.full_name} is neither a verb of a registered kind nor one of the extras")
    return _BINDERS[found[1]](method, engine, entry)


def _resource(method: Any) -> str:
    """The full name of the resource message that a standard method is about."""
    if method.name.startswith("List"):
        return str(_items(method.output_type).message_type.full_name)
    _, _, noun = re.split(r"^(Create|Get|Update|Delete|Stats)", method.name, maxsplit=1)
    return f"{method.full_name.rsplit('.', 2)[0]}.{noun}"


def _items(response: Any) -> Any:
    return next(field for field in response.fields if field.is_repeated)


def _create(method: Any, engine: Engine, entry: Entry) -> Call:
    field = _resource_field(method, entry)
    nested = "parent" in method.input_type.fields_by_name

    async def call(request: Any) -> Message:
        _require(request, field)
        parent = request.parent if nested else ""
        return await engine.create(entry, parent, getattr(request, f"{field}_id"), getattr(request, field), field)

    return call


def _get(method: Any, engine: Engine, entry: Entry) -> Call:
    async def call(request: Any) -> Message:
        return await engine.get(entry, request.name)

    return call


def _list(method: Any, engine: Engine, entry: Entry) -> Call:
    response = message_factory.GetMessageClass(method.output_type)
    items = _items(method.output_type).name
    nested = "parent" in method.input_type.fields_by_name

    async def call(request: Any) -> Message:
        parent = request.parent if nested else ""
        page = await engine.list(entry, parent, request.page_size, request.page_token)
        return response(**{items: page.items, "next_page_token": page.next_token})

    return call


def _update(method: Any, engine: Engine, entry: Entry) -> Call:
    field = _resource_field(method, entry)

    async def call(request: Any) -> Message:
        _require(request, field)
        resource, mask = getattr(request, field), list(request.update_mask.paths)
        return await engine.update(entry, resource, mask, request.allow_missing, field)

    return call


def _delete(method: Any, engine: Engine, entry: Entry) -> Call:
    empty = message_factory.GetMessageClass(method.output_type)

    async def call(request: Any) -> Message:
        await engine.delete(entry, request.name, request.allow_missing)
        return empty()

    return call


def _stats(method: Any, engine: Engine, entry: Entry) -> Call:
    response = message_factory.GetMessageClass(method.output_type)

    async def call(request: Any) -> Message:
        counters = asdict(await engine.stats(entry, request.name))
        return response(stats={name: min(value, _INT32_MAX) for name, value in counters.items()})

    return call


def _require(request: Any, field: str) -> None:
    if not request.HasField(field):
        raise errors.InvalidArgument(f"{field} is required", field=field)


def _resource_field(method: Any, entry: Entry) -> str:
    full_name = entry.kind.message.DESCRIPTOR.full_name
    return next(
        str(field.name)
        for field in method.input_type.fields
        if field.message_type is not None and field.message_type.full_name == full_name
    )


_BINDERS: dict[str, Callable[[Any, Engine, Entry], Call]] = {
    "Create": _create,
    "Get": _get,
    "List": _list,
    "Update": _update,
    "Delete": _delete,
    "Stats": _stats,
}
