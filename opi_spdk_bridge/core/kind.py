"""What is asked of a kind of resource: the contract's rules on it, and nothing of how it looks on a target."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import AnyRecord, M, Own, P, Record, filled


@dataclass(frozen=True, slots=True)
class Settled(Generic[P]):
    """What a kind decided before the first call: identities chosen, references resolved."""

    own: P
    stands_on: tuple[str, ...] = ()

    def on(self, record: AnyRecord) -> AnyRecord:
        """The record, holding what was decided."""
        return replace(record, own=self.own, stands_on=self.stands_on)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Something that two resources may not both have.

    Holders of one `key` must have the same `tag`. The default tag, the holder's name, makes it exclusive.
    `what` says it in an error: "{what} is taken by {holder}".
    """

    key: str
    what: str
    tag: str = ""
    conflict: type[errors.BridgeError] = errors.AlreadyExists
    field: str = ""


class Shape(Protocol):
    """The blocks of a volume: `block_size` in bytes, with the `md_size` bytes of metadata in it where interleaved."""

    @property
    def block_size(self) -> int: ...

    @property
    def md_size(self) -> int: ...

    @property
    def md_interleave(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Volume:
    """What a volume reference stands for: a bdev on the target and the resource that this stands on.

    `uuid` is the bdev's, "" where it is not known without asking the target. `by_name`: whatever has the name is meant,
    because the client wrote just that, or because the bdev has no UUID that lasts.
    """

    bdev: str
    uuid: str = ""
    resource: str = ""
    by_name: bool = False
    shape: Shape | None = field(default=None, compare=False)
    """None for a volume of the bridge's that everything can use, and where it does not matter."""

    @property
    def identity(self) -> str:
        """The UUID without which a bdev of that name is another volume; "" where the name is what counts."""
        return "" if self.by_name else self.uuid


VOLUMES_BEHIND = Reservation("volumes-behind", "the volumes behind others", tag="all")
"""Held by every resource that has volumes behind it which are no resources themselves."""


class Taken(errors.Aborted):
    """Something that the bridge itself chose is taken, by another request or on the target: choose again.

    `values` are not to be chosen in this request any more.
    """

    def __init__(self, message: str, *, values: Collection[Any] = (), **details: str) -> None:
        super().__init__(message, **details)
        self.values = values


class Kind(ABC, Generic[M, P]):
    """One kind of resource. Paths are field paths of its message, such as `spec.nqn`."""

    message: ClassVar[type[Message]]
    own: ClassVar[type[Own]] = Own
    """What the bridge keeps of such a resource for itself."""
    immutable: ClassVar[tuple[str, ...]] = ()
    """Paths that an update may not change."""
    secrets: ClassVar[tuple[str, ...]] = ()
    """Paths that are never returned and never logged, and kept encrypted."""
    hints: ClassVar[tuple[str, ...]] = ()
    """Paths that a repeated create may change without being another request."""
    legacy_collection: ClassVar[str | None] = None
    """The collection in names of the API's older style, for the kinds that had another."""
    volatile: ClassVar[bool] = False
    """Whether the data is lost when the target's object is."""

    @property
    def assigned(self) -> Collection[str]:
        """Paths that are filled in when the client leaves them out: shown, never compared."""
        return filled(self.own).keys()

    title: ClassVar[str] = ""
    """What several of them are called."""
    front_end: ClassVar[bool] = False
    """Whether hosts see it as a device, or as what devices belong to."""

    def line(self, resource: M) -> Line:
        """How a resource, as clients see it, looks in a line."""
        return Line()

    def normalise(self, resource: M) -> None:
        """Unifies spellings of one value, in place."""

    def modernise(self, record: Record[M, P]) -> Record[M, P]:
        """A record that an earlier version may have kept, as this one keeps it: one spelling of each value."""
        with contextlib.suppress(errors.BridgeError):
            self.normalise(record.desired)
        return record

    def check(self, resource: M) -> None:
        """Checks the rules beyond required fields and enum values; raises InvalidArgument with the field's path."""

    @abstractmethod
    async def settle(
        self, name: str, resource: M, before: Record[M, P] | None, taken: Collection[Any] = ()
    ) -> Settled[P]:
        """Chooses identities and resolves references; in an update `before` is the record so far.

        `taken` has what this request has chosen before and found taken (`Taken.values`). Raises NotFound for a
        reference to nothing, InvalidArgument, FailedPrecondition. Changes nothing.
        """

    def reserves(self, record: Record[M, P]) -> Iterable[Reservation]:
        """What the record alone may hold."""
        return ()

    def volume(self, record: Record[M, P]) -> Volume | None:
        """The volume that this resource is to others, for kinds that are volumes."""
        return None

    def follow(self, own: P, was: Volume, now: Volume) -> P:
        """What is to be kept of a resource that may stand on a volume which the target gave another identity."""
        return own

    def nqn(self, record: Record[M, P]) -> str:
        """The NVMe subsystem through which hosts see it; "" for other kinds."""
        return ""


AnyKind = Kind[Any, Any]


class Graph(Protocol):
    """What kinds may know of the other resources."""

    def record(self, name: str) -> AnyRecord | None:
        """The record of that canonical name."""

    def dependents(self, name: str) -> Iterable[AnyRecord]:
        """The records that stand on it."""

    def holders(self, key: str) -> Iterable[AnyRecord]:
        """The records that have reserved `key`."""
