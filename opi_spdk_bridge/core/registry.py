"""The kinds of resource, in dependency order: a kind stands only on kinds before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opi_spdk_bridge.core.kind import AnyKind
from opi_spdk_bridge.core.names import NamePattern
from opi_spdk_bridge.core.side import AnySide


@dataclass(frozen=True, slots=True)
class Entry:
    """A kind, how it looks on the target, and the pattern of its names."""

    kind: AnyKind
    side: AnySide
    names: NamePattern

    @property
    def singular(self) -> str:
        """The resource type's name, which records carry."""
        return self.names.singular


class Registry(Mapping[str, Entry]):
    """The registered kinds by their singular name."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.kinds: dict[str, AnyKind] = {}

    def add(self, kind: AnyKind, side: AnySide) -> None:
        """Registers the next kind."""
        entry = Entry(kind, side, NamePattern.of(kind.message.DESCRIPTOR, kind.legacy_collection))
        self._entries[entry.singular] = entry
        self.kinds[entry.singular] = kind

    def of_message(self, full_name: str) -> Entry | None:
        """The kind whose resources are messages of that type."""
        return next((e for e in self._entries.values() if e.kind.message.DESCRIPTOR.full_name == full_name), None)

    def __getitem__(self, singular: str) -> Entry:
        return self._entries[singular]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
