"""How a kind of resource looks on one sort of target: what the engine has done there, and what it sees of it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol

from opi_spdk_bridge.core.kind import Volume
from opi_spdk_bridge.core.record import Facts, M, P, Record


class Postponed(Exception):
    """Raised by a side: the client may be told that it is done, the rest waits until the target can."""


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


class Side(ABC, Generic[M, P]):
    """One kind on one sort of target. What a change returns is what the bridge keeps of the resource from then on: what
    it settled, and what the target told (an identity that the target chooses, a size)."""

    @abstractmethod
    async def make(self, record: Record[M, P]) -> P:
        """Makes it so, expecting that nothing of it is there yet.

        On a definite failure nothing is left. Raises OutcomeUnknown where that cannot be said.
        """

    @abstractmethod
    async def repair(self, record: Record[M, P], view: Any) -> P:
        """Looks, and makes it so from whatever is there. Errors as `make`."""

    @abstractmethod
    async def amend(self, old: Record[M, P], new: Record[M, P]) -> P:
        """Changes what `old` made into `new`; refuses with FailedPrecondition where that would lose data.

        On a definite failure `old` stands.
        """

    @abstractmethod
    async def remove(self, record: Record[M, P], view: Any | None = None) -> None:
        """Takes it down; absent is success. With a view it looks first, and leaves what is not ours.

        On a definite failure the target is as it was, or the rest can be repaired. Raises Postponed where something is
        left that must wait; the record, hidden, is then tried again by the reconciler.
        """

    @abstractmethod
    async def observe(self, record: Record[M, P], view: Any) -> Observation:
        """Compares the target with the record."""

    @abstractmethod
    async def measure(self, record: Record[M, P]) -> Counters:
        """The I/O counters."""

    def announced(self, record: Record[M, P]) -> bool:
        """Whether the target tells when the object comes or goes, and there is nothing else to see of it."""
        return False

    def shown_when_ready(self, record: Record[M, P]) -> Facts:
        """What to show right after a successful change, before anybody looked."""
        return {}

    def bdev(self, record: Record[M, P]) -> str:
        """The bdev whose I/O is the resource's: its own, or the one that it stands on; "" for kinds without one."""
        return ""

    async def connection_state(self, record: Record[M, P], view: Any) -> str | None:
        """The state of a connection elsewhere, in the target's word; None for kinds that are none."""
        return None

    async def volume_behind(self, record: Record[M, P], reference: str) -> Volume | None:
        """The volume behind this resource that a client means: by a name below the record's, or by a UUID that the
        target does not know. Such kinds reserve `VOLUMES_BEHIND`. None where there is none."""
        return None


AnySide = Side[Any, Any]


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
