"""Every record in memory, with the indexes that the verbs need. All methods are synchronous: a change is one step."""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import AnyKind, Reservation
from opi_spdk_bridge.core.record import AnyRecord, Facts, Phase


class Catalog:
    """The records by name; by collection, in order; by what they stand on; by what they have reserved."""

    def __init__(self, kinds: Mapping[str, AnyKind], most_of_a_kind: float = math.inf) -> None:
        self._kinds = kinds
        self._most_of_a_kind = most_of_a_kind
        self._counts: Counter[str] = Counter()
        self._records: dict[str, AnyRecord] = {}
        self._shown: dict[str, Facts] = {}
        self._answers: dict[str, tuple[AnyRecord, bytes]] = {}
        self._collections: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._dependents = _Index()
        self._holders = _Index()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[AnyRecord]:
        return iter(list(self._records.values()))

    def record(self, name: str) -> AnyRecord | None:
        """The record, in whatever phase."""
        return self._records.get(name)

    def visible(self, name: str) -> AnyRecord | None:
        """The record as clients may see it: not before it was created, and as it was until an update is done."""
        record = self._records.get(name)
        if record is None or record.phase in (Phase.CREATING, Phase.DELETED):
            return None
        return record.previous if record.phase is Phase.UPDATING else record

    def put(self, record: AnyRecord) -> None:
        """Adds or replaces a record."""
        old = self._records.get(record.name)
        self._records[record.name] = record
        self._answers.pop(record.name, None)
        if old is None:
            bisect.insort(self._collections[record.kind, record.parent], record.name)
            self._counts[record.kind] += 1
        elif _linked_alike(old, record):
            return
        else:
            self._unlink(old)
        for name in self._needs(record):
            self._dependents.add(name, record.name)
        for key in self._keys(record):
            self._holders.add(key, record.name)

    def remove(self, name: str) -> None:
        """Forgets a record."""
        record = self._records.pop(name)
        self._shown.pop(name, None)
        self._answers.pop(name, None)
        self._counts[record.kind] -= 1
        self._unlink(record)
        names = self._collections[record.kind, record.parent]
        del names[bisect.bisect_left(names, name)]
        if not names:
            del self._collections[record.kind, record.parent]

    def page(self, kind: str, parent: str, after: str, size: int) -> tuple[list[AnyRecord], bool]:
        """The next `size` visible records behind the name `after`, and whether there are more."""
        names = self._collections.get((kind, parent), [])
        found: list[AnyRecord] = []
        for position in range(bisect.bisect_right(names, after), len(names)):
            record = self.visible(names[position])
            if record is None:
                continue
            if len(found) == size:
                return found, True
            found.append(record)
        return found, False

    def dependents(self, name: str) -> list[AnyRecord]:
        """The records that stand on `name`, ordered by name."""
        return [self._records[dependent] for dependent in sorted(self._dependents.get(name))]

    def holders(self, key: str) -> list[AnyRecord]:
        """The records that have reserved `key`, ordered by name."""
        return [self._records[holder] for holder in sorted(self._holders.get(key))]

    def require_free(self, record: AnyRecord) -> None:
        """Raises the reservation's error, naming the holder, where another has what the record would reserve.

        Raises ResourceExhausted for a new record of a kind that has as many as it may have.
        """
        if record.name not in self._records and self._counts[record.kind] >= self._most_of_a_kind:
            text = f"there are {self._most_of_a_kind} resources of kind {record.kind}, as many as there may be"
            raise errors.ResourceExhausted(text)
        for wanted in self._kinds[record.kind].reserves(record):
            for holder in self._holders.get(wanted.key):
                if (
                    holder != record.name
                    and self._records[holder].phase is not Phase.DELETED
                    and self._clash(wanted, record.name, self._records[holder])
                ):
                    text = f"{wanted.what} is taken by {holder}"
                    raise wanted.conflict(text, field=wanted.field, resource=holder)

    def _clash(self, wanted: Reservation, name: str, holder: AnyRecord) -> bool:
        for record in holder.states:
            for held in self._kinds[record.kind].reserves(record):
                if held.key == wanted.key and (held.tag or record.name) != (wanted.tag or name):
                    return True
        return False

    def shown(self, name: str) -> Facts:
        """What was last seen of the record on the target, by field path."""
        return self._shown.get(name, {})

    def show(self, name: str, facts: Facts) -> None:
        """Keeps what was seen, for lists and for when the target is away."""
        if name in self._records and facts != self._shown.get(name):
            self._shown[name] = facts
            self._answers.pop(name, None)

    def answer(self, record: AnyRecord, make: Callable[[AnyRecord, Facts], bytes]) -> bytes:
        """What `make` makes of the record and of what was last seen of it; kept until one of the two is another."""
        kept = self._answers.get(record.name)
        if kept is None or kept[0] is not record:
            kept = self._answers[record.name] = (record, make(record, self.shown(record.name)))
        return kept[1]

    def _needs(self, record: AnyRecord) -> set[str]:
        before = record.previous.stands_on if record.previous else ()
        return {*record.stands_on, *before}

    def _keys(self, record: AnyRecord) -> set[str]:
        return {item.key for state in record.states for item in self._kinds[record.kind].reserves(state)}

    def _unlink(self, record: AnyRecord) -> None:
        for name in self._needs(record):
            self._dependents.discard(name, record.name)
        for key in self._keys(record):
            self._holders.discard(key, record.name)


def _linked_alike(one: AnyRecord, other: AnyRecord) -> bool:
    """Whether they stand on the same and reserve the same, for certain: they differ in phase and revision only."""
    return (
        one.desired is other.desired
        and one.previous is other.previous
        and one.stands_on == other.stands_on
        and one.own == other.own
    )


class _Index:
    """Names by key. Most keys have one name, for which a set would be five times as large."""

    def __init__(self) -> None:
        self._names: dict[str, str | set[str]] = {}

    def add(self, key: str, name: str) -> None:
        held = self._names.setdefault(key, name)
        if isinstance(held, set):
            held.add(name)
        elif held != name:
            self._names[key] = {held, name}

    def discard(self, key: str, name: str) -> None:
        held = self._names.get(key)
        if isinstance(held, set):
            held.discard(name)
        if held == name or held == set():
            del self._names[key]

    def get(self, key: str) -> Collection[str]:
        held = self._names.get(key, ())
        return (held,) if isinstance(held, str) else held


def standing(catalog: Catalog, names: tuple[str, ...], *, held: bool = False) -> None:
    """Raises NotFound or Aborted unless every one of these resources exists for good.

    `held`: the caller keeps changes off them, so that an update found under way is one that was broken off.
    """
    for name in names:
        record = catalog.record(name)
        if record is None or record.phase in (Phase.CREATING, Phase.DELETED):
            raise errors.NotFound(f"{name} does not exist", resource=name)
        if record.phase is Phase.DELETING:
            raise errors.Aborted(f"{name} is being deleted", resource=name)
        if held and record.phase is Phase.UPDATING:
            raise errors.Aborted(f"the last change of {name} is still to be finished: try again", resource=name)
