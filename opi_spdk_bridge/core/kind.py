"""What a kind of resource is to the engine: everything that differs between kinds, and nothing else."""

from __future__ import annotations

import contextlib
import enum
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge import errors

M = TypeVar("M", bound=Message)

Facts = Mapping[str, Any]
"""JSON values by name. Those named by a field path (`spec.uuid`) are shown in that field."""


HIDDEN = "~"
"""In the name of a record that is gone for clients: before what makes the name another; IDs of clients have none."""


class Phase(enum.StrEnum):
    """How far a record's last change has come."""

    CREATING = "creating"
    READY = "ready"
    UPDATING = "updating"
    DELETING = "deleting"
    DELETED = "deleted"
    """Gone for clients; something that had to wait is left to do on the target."""


@dataclass(frozen=True, slots=True)
class Record:
    """A resource as the bridge keeps it.

    desired    what the client asked for: normalised, secrets in clear, no name, no outputs, nothing filled in
    assigned   values of `Kind.assigned` fields that the client left open: chosen by the bridge or the target
    private    what the kind keeps for itself (the bdev under a namespace, a key's name on the target)
    stands_on  names of the resources that may not go while this one exists
    previous   during an update, the record before it: what may still be there of it is to go; while an update is taken
               back, the record that it was to become
    """

    kind: str
    name: str
    desired: Any
    phase: Phase
    revision: int
    created_at: float
    updated_at: float
    assigned: Facts = field(default_factory=dict)
    private: Facts = field(default_factory=dict)
    stands_on: tuple[str, ...] = ()
    previous: Record | None = None

    @property
    def parent(self) -> str:
        """The name of the resource that this one is nested in by name; "" at the top."""
        return self.name.rsplit("/", 2)[0] if self.name.count("/") > 1 else ""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def object_name(self) -> str:
        """The ID that it has, or had, for clients: what its object on the target is named by."""
        return self.id.partition(HIDDEN)[0]

    def hidden(self, desired: Any) -> Record:
        """What is kept of it, with `desired`, once it is gone for clients: under a name that none can ask for."""
        name = self.name if self.phase is Phase.DELETED else f"{self.name}{HIDDEN}{uuid.uuid4().hex[:8]}"
        return replace(self, name=name, desired=desired, phase=Phase.DELETED, stands_on=(), previous=None)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a kind decided before the first call: identities chosen, references resolved."""

    assigned: Facts = field(default_factory=dict)
    private: Facts = field(default_factory=dict)
    stands_on: tuple[str, ...] = ()


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

    @property
    def identity(self) -> str:
        """The UUID without which a bdev of that name is another volume; "" where the name is what counts."""
        return "" if self.by_name else self.uuid


VOLUMES_BEHIND = Reservation("volumes-behind", "the volumes behind others", tag="all")
"""Held by every resource that has volumes behind it which are no resources themselves."""


class Postponed(Exception):
    """Raised by a kind: the client may be told that it is done, the rest waits until the target can."""


class Taken(errors.Aborted):
    """Something that the bridge itself chose is taken, by another request or on the target: choose again."""


class Presence(enum.Enum):
    """What a look at the target found of a record."""

    ABSENT = "absent"
    PRESENT = "present"
    DIFFERENT = "different"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Observation:
    """How the target compares with a record. `differences` says in words what is not as desired.

    `shown` holds field paths (`status.active`) and the values to show for them.
    """

    presence: Presence
    differences: Sequence[str] = ()
    shown: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counters:
    """I/O counters; 64-bit. Latencies are sums of clock ticks of the target. Names are those of VolumeStats."""

    read_bytes_count: int = 0
    read_ops_count: int = 0
    write_bytes_count: int = 0
    write_ops_count: int = 0
    unmap_bytes_count: int = 0
    unmap_ops_count: int = 0
    read_latency_ticks: int = 0
    write_latency_ticks: int = 0
    unmap_latency_ticks: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Kind(ABC, Generic[M]):
    """One kind of resource. Paths are field paths of its message, such as `spec.nqn`."""

    message: ClassVar[type[Message]]
    immutable: ClassVar[tuple[str, ...]] = ()
    """Paths that an update may not change."""
    secrets: ClassVar[tuple[str, ...]] = ()
    """Paths that are never returned and never logged, and kept encrypted."""
    assigned: ClassVar[tuple[str, ...]] = ()
    """Paths that are filled in when the client leaves them out: shown, never compared."""
    hints: ClassVar[tuple[str, ...]] = ()
    """Paths that a repeated create may change without being another request."""
    legacy_collection: ClassVar[str | None] = None
    """The collection in names of the API's older style, for the kinds that had another."""

    volatile: ClassVar[bool] = False
    """Whether the data is lost when the target's object is."""

    # Before the target is asked

    def normalise(self, resource: M) -> None:
        """Unifies spellings of one value, in place."""

    def modernise(self, record: Record) -> Record:
        """A record that an earlier version may have kept, as this one keeps it: one spelling of each value."""
        with contextlib.suppress(errors.BridgeError):
            self.normalise(record.desired)
        return record

    def check(self, resource: M) -> None:
        """Checks the rules beyond required fields and enum values; raises InvalidArgument with the field's path."""

    @abstractmethod
    async def settle(self, name: str, resource: M, before: Record | None) -> Settled:
        """Chooses identities and resolves references; in an update `before` is the record so far.

        Raises NotFound for a reference to nothing, InvalidArgument, FailedPrecondition. Changes nothing.
        """

    def reserves(self, record: Record) -> Iterable[Reservation]:
        """What the record alone may hold."""
        return ()

    def volume(self, record: Record) -> Volume | None:
        """The volume that this resource is to others, for kinds that are volumes."""
        return None

    async def volume_behind(self, record: Record, reference: str) -> Volume | None:
        """The volume behind this resource that a client means: by a name below the record's, or by a UUID that the
        target does not know. Such kinds reserve `VOLUMES_BEHIND`. None where there is none."""
        return None

    # On the target

    @abstractmethod
    async def realize(self, record: Record) -> Facts:
        """Makes it so, expecting that nothing of it is there yet. Returns what the target assigned.

        On a definite failure nothing is left. Raises OutcomeUnknown where that cannot be said.
        """

    @abstractmethod
    async def repair(self, record: Record, view: Any) -> Facts:
        """Looks, and makes it so from whatever is there. Returns what the target assigned. Errors as `realize`."""

    @abstractmethod
    async def amend(self, old: Record, new: Record) -> Facts:
        """Changes what `old` made into `new`; refuses with FailedPrecondition where that would lose data.

        On a definite failure `old` stands. Returns what the target assigned.
        """

    @abstractmethod
    async def unrealize(self, record: Record, view: Any | None = None) -> None:
        """Takes it down; absent is success. With a view it looks first, and leaves what is not ours.

        On a definite failure the target is as it was, or the rest can be repaired. Raises Postponed where something is
        left that must wait; the record, hidden, is then tried again by the reconciler.
        """

    @abstractmethod
    async def observe(self, record: Record, view: Any) -> Observation:
        """Compares the target with the record."""

    def announced(self, record: Record) -> bool:
        """Whether the target tells when the object comes or goes, and there is nothing else to see of it."""
        return False

    def shown_when_ready(self, record: Record) -> Facts:
        """What to show right after a successful change, before anybody looked."""
        return {}

    @abstractmethod
    async def measure(self, record: Record) -> Counters:
        """The I/O counters."""


AnyKind = Kind[Any]


class BdevChanges(Protocol):
    """Names of bdevs that `went` or changed, and of those that `came`; some may have done both."""

    @property
    def went(self) -> set[str]: ...

    @property
    def came(self) -> set[str]: ...


class Target(Protocol):
    """What the engine needs of the target itself."""

    @property
    def connected(self) -> bool:
        """Whether it can be asked now."""

    async def ready(self) -> None:
        """Waits for the connection, for the grace time; raises Unavailable."""

    def view(self) -> Any:
        """A live view, to hand to the kinds."""

    def snapshot(self) -> Any:
        """A view that asks for each object at most once, for a sweep over many records."""

    async def changed_bdevs(self) -> BdevChanges | None:
        """What became of bdevs since the last call, as far as the target tells; None: anything may have."""


class Graph(Protocol):
    """What kinds may know of the other resources."""

    def record(self, name: str) -> Record | None:
        """The record of that canonical name."""

    def dependents(self, name: str) -> Iterable[Record]:
        """The records that stand on it."""

    def holders(self, key: str) -> Iterable[Record]:
        """The records that have reserved `key`."""
