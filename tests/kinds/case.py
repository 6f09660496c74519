"""What the suites that run for every kind need to know of one: what a row of the table in cases.py has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.kinds.world import World, collection, resource_field

Resource = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind. Resources are numbered: number n has the ID x{n}, and all of them can exist side by side.

    prepare     makes what they stand on
    wanted      the resource that a Create request n asks for
    seen        what there is of it on the target: None before and after
    damage      takes number 0 off the target, or changes it there, as somebody else would
    different   (path, value): makes another request of request 0
    change      (path, value): what an update changes, None for kinds of which nothing can be changed
    changed     what `seen` is after that update; None where the target is not concerned
    immutable   (path, value) that an update must refuse
    user        makes something that stands on number 0 and returns its name; None where nothing can
    required    paths without which a request is refused
    bad         (path, value) that a request is refused for, naming the path
    secrets     texts that may appear nowhere
    measured    paths of what the target tells, which an update may move along
    longest_id  how many letters the longest ID may have
    counted     the bdev whose I/O the counters of number 0 count; makes what has to be there for that
    counts_own  whether the target is asked for the counters although nothing stands on it
    guest_only  whether on a real target only a guest can do that I/O
    shown_as    the ID of the one in a world with one of every kind, and what is asked for there: it may refer to those
                of the kinds before it
    tests       by verb, the tests beside the contract suite of what the verb does on the target: they are named where
                `changed` is None
    """

    noun: str
    prepare: Callable[[World], None]
    wanted: Callable[[World, int], Resource]
    seen: Callable[[World, int], Any]
    damage: Callable[[World], None]
    different: Callable[[World], tuple[str, Any]]
    change: Callable[[World], tuple[str, Any]] | None
    changed: Callable[[World], Any] | None
    immutable: tuple[tuple[str, Any], ...] = ()
    user: Callable[[World], str] | None = None
    required: tuple[str, ...]
    bad: tuple[tuple[str, Any], ...] = ()
    secrets: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    longest_id: int = 63
    counted: Callable[[World], str] = lambda _world: "x0"
    counts_own: bool = True
    guest_only: bool = False
    shown_as: tuple[str, Callable[[World], Resource]]
    tests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parent: str = ""

    @property
    def field(self) -> str:
        """The field of requests that holds the resource."""
        return resource_field(self.noun)

    def name(self, number: int = 0) -> str:
        """The canonical name of number n."""
        return self.named(f"x{number}")

    def named(self, resource_id: str) -> str:
        """The canonical name with that ID."""
        own = f"{collection(self.noun)}/{resource_id}"
        return f"{self.parent}/{own}" if self.parent else own

    def create(self, world: World, number: int = 0) -> Resource:
        """Creates number n."""
        return world.make(self.noun, f"x{number}", self.wanted(world, number), self.parent)


def put(resource: Resource, path: str, value: Any) -> Resource:
    """A copy with the field at a path set, or left out for None."""
    first, _, rest = path.partition(".")
    copy = dict(resource)
    if rest:
        copy[first] = put(copy.get(first, {}), rest, value)
    elif value is None:
        copy.pop(first, None)
    else:
        copy[first] = value
    return copy


def at(resource: Resource, path: str) -> Any:
    """The field at a path; None where it is left out. Numbers of 64 bits come as texts: everything is one."""
    value: Any = resource
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if value is None or isinstance(value, dict | bool) else str(value)
