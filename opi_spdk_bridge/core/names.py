"""Resource names (AIP-122): patterns read off the descriptors, canonical and legacy spellings, resource IDs."""

from __future__ import annotations

import functools
import re
import uuid
from dataclasses import dataclass
from typing import Any

from google.api import resource_pb2

from opi_spdk_bridge import errors

ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ID_RULE = "1 to 63 of letters, digits, '-', '_' and '.', the first and last a letter or digit"


@dataclass(frozen=True, slots=True)
class NamePattern:
    """The names of one resource type: its collections, outermost first, and its name in the singular and plural."""

    collections: tuple[str, ...]
    singular: str
    plural: str
    legacy_collection: str | None = None

    @classmethod
    def of(cls, message: Any, legacy_collection: str | None = None) -> NamePattern:
        """Reads google.api.resource of a message."""
        resource = message.GetOptions().Extensions[resource_pb2.resource]
        return cls(tuple(resource.pattern[0].split("/")[::2]), resource.singular, resource.plural, legacy_collection)

    @property
    def example(self) -> str:
        """What such a name looks like, for messages."""
        return "/".join(f"{collection}/{{id}}" for collection in self.collections)

    def parse(self, name: str, field: str = "name") -> str:
        """The canonical spelling of a name in either style; raises InvalidArgument."""
        if not name:
            raise errors.InvalidArgument(f"{field} is missing; it looks like {self.example}", field=field)
        if _canonical(self.collections).fullmatch(name):
            return name
        parts = name.split("/")
        collections, ids = tuple(parts[::2]), parts[1::2]
        fits = len(parts) == 2 * len(self.collections) and (
            collections == self.collections or collections == (self.legacy_collection,)
        )
        if not fits or not all(ID.fullmatch(part) for part in ids):
            raise errors.InvalidArgument(f"{field} {name[:200]!r} is not of the form {self.example}", field=field)
        return self.join(*ids)

    def parse_parent(self, parent: str) -> str:
        """The canonical name of the parent of such a resource; raises InvalidArgument."""
        outer = NamePattern(self.collections[:-1], "", "")
        return outer.parse(parent, "parent")

    def join(self, *ids: str) -> str:
        """The canonical name with these IDs."""
        return "/".join(f"{collection}/{part}" for collection, part in zip(self.collections, ids, strict=True))

    def child(self, parent: str, resource_id: str) -> str:
        """The canonical name of a resource below `parent` ("" at the top)."""
        own = f"{self.collections[-1]}/{resource_id}"
        return f"{parent}/{own}" if parent else own

    def legacy(self, name: str) -> str:
        """The name in the older style, where this kind had one."""
        return f"{self.legacy_collection}/{name.rpartition('/')[2]}" if self.legacy_collection else name


@functools.cache
def _canonical(collections: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("/".join(f"{re.escape(collection)}/{ID.pattern}" for collection in collections))


def resource_id(given: str, field: str) -> str:
    """The ID for a new resource: the given one checked, or a fresh lowercase UUID; raises InvalidArgument."""
    if not given:
        return str(uuid.uuid4())
    if not ID.fullmatch(given):
        raise errors.InvalidArgument(f"{field} {given[:200]!r} is not {_ID_RULE}", field=field)
    return given
