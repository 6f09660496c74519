"""What a bridge manages, as lines of a tree: front ends, what they show to hosts, and the volumes below."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf import json_format
from google.protobuf.message import Message

from opi_spdk_bridge.core.kind import Kind
from opi_spdk_bridge.core.registry import Entry, Registry

_DEVICE, _VOLUME = "target_name_ref", "volume_name_ref"


class Bridge(Protocol):
    """A way to call a bridge's methods with JSON."""

    def call(self, name: str, request: str) -> dict[str, Any]: ...


def lines(bridge: Bridge, registry: Registry) -> Iterator[str]:
    """The tree's lines, of resources of the registry's kinds."""
    forest = _Forest(bridge, registry)
    drawn = [line for root in forest.roots() for line in forest.draw(root, "", "")]
    yield from drawn or ["(nothing yet)"]


@dataclass(frozen=True, eq=False)
class _Node:
    entry: Entry
    name: str
    resource: Any

    @property
    def id(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def text(self) -> str:
        return f"{self.name}  {self.entry.kind.line(self.resource)}".rstrip()

    def reference(self, field: str) -> str:
        """What such a field of the resource, or of its spec, has; "" where it has none."""
        parts: list[Any] = [self.resource, getattr(self.resource, "spec", None)]
        return next((str(value) for part in parts if (value := getattr(part, field, ""))), "")

    def spellings(self) -> set[str]:
        """All in which others can refer to it."""
        return {self.name, f"volumes/{self.id}", self.id, getattr(self.resource, "uuid", "")} - {""}


def _by_spelling(nodes: Iterable[_Node]) -> dict[str, _Node]:
    return {spelling: node for node in nodes for spelling in node.spellings()}


class _Forest:
    def __init__(self, bridge: Bridge, registry: Registry) -> None:
        self._bridge = bridge
        entries = list(registry.values())
        self._top = [node for entry in entries if len(entry.names.collections) == 1 for node in self._list(entry, "")]
        self._below: defaultdict[str, list[_Node]] = defaultdict(list)
        for entry in entries:
            for parent in self._top:
                if entry.names.collections[:-1] == parent.entry.names.collections:
                    self._below[parent.name] += self._list(entry, parent.name)
        devices = _by_spelling(node for node in self._top if not node.reference(_DEVICE))
        for node in [node for node in self._top if node.reference(_DEVICE) in devices]:
            self._below[devices[node.reference(_DEVICE)].name].append(node)
            self._top.remove(node)
        is_volume = [node for node in self._top if type(node.entry.kind).volume is not Kind.volume]
        self._volumes = _by_spelling(is_volume)

    def roots(self) -> list[_Node]:
        """Front ends first, then the rest, volumes that stand on others before those, but for what others stand on."""
        users = [*self._top, *itertools.chain.from_iterable(self._below.values())]
        used = {volume.name for node in users if (volume := self._volumes.get(node.reference(_VOLUME)))}
        roots = [node for node in self._top if node.name not in used]
        return sorted(roots, key=lambda node: (not node.entry.kind.front_end, node.name in self._volumes))

    def draw(self, node: _Node, first: str, rest: str) -> Iterator[str]:
        """The lines of a resource and of all below it."""
        yield first + node.text
        below: list[_Node | str] = list(self._below[node.name])
        reference = node.reference(_VOLUME)
        if reference:
            below.append(self._volumes.get(reference, reference))
        for number, child in enumerate(below):
            last = number == len(below) - 1
            branch, more = ("└── ", "    ") if last else ("├── ", "│   ")
            if isinstance(child, str):
                yield rest + branch + child
            else:
                yield from self.draw(child, rest + branch, rest + more)

    def _list(self, entry: Entry, parent: str) -> Iterator[_Node]:
        """Every resource of a kind, all pages."""
        noun, token = entry.kind.message.DESCRIPTOR.name, ""
        while True:
            request = {"page_size": 1000, "page_token": token, **({"parent": parent} if parent else {})}
            answer = self._bridge.call(f"List{noun}s", json.dumps(request))
            for item in next((value for value in answer.values() if isinstance(value, list)), []):
                yield _Node(entry, item["name"], _read(entry, item))
            token = answer.get("next_page_token", "")
            if not token:
                return


def _read(entry: Entry, item: dict[str, Any]) -> Message:
    return json_format.ParseDict(item, entry.kind.message(), ignore_unknown_fields=True)
