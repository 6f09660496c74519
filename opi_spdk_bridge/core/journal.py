"""Records to rows and back: what the store keeps of a record."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core.kind import AnyKind, Phase, Record
from opi_spdk_bridge.store.base import Row, Store


class Journal:
    """Writes records through to the store, secret fields apart from the rest."""

    def __init__(self, store: Store, kinds: Mapping[str, AnyKind]) -> None:
        self._store = store
        self._kinds = kinds
        self._doubtful: set[str] = set()

    async def load(self) -> list[Record]:
        """Every stored record; raises FailedPrecondition for a state of another make."""
        rows = await self._store.load()
        unknown = {row.kind for row in rows} - set(self._kinds)
        if unknown:
            text = f"the state has resources of kinds this bridge does not know: {', '.join(sorted(unknown))}"
            raise errors.FailedPrecondition(text)
        return [self._record(row) for row in rows]

    async def save(self, *records: Record) -> None:
        """Returns when the records are durable; raises Unavailable."""
        await self._commit(records, ())

    async def forget(self, *names: str) -> None:
        """Returns when the records are gone for good; raises Unavailable."""
        await self._commit((), names)

    async def replace(self, name: str, record: Record | None) -> None:
        """Forgets `name` and, in the same step, saves the record where there is one."""
        await self._commit((record,) if record is not None else (), (name,))

    async def exchange(self, names: Sequence[str], records: Sequence[Record]) -> None:
        """Forgets the names and saves the records, as one change."""
        await self._commit(records, names)

    async def heal(self, current: Callable[[str], Record | None]) -> None:
        """Stores again what a failed commit may have left otherwise than `current` has it; raises Unavailable."""
        if self._doubtful:
            names, self._doubtful = self._doubtful, set()
            records = [record for name in names if (record := current(name)) is not None]
            await self._commit(records, [name for name in names if current(name) is None])

    async def _commit(self, records: Sequence[Record], names: Sequence[str]) -> None:
        try:
            await self._store.commit([self._row(record) for record in records], names)
        except BaseException:  # cancelled, too: it may have been written or not
            self._doubtful.update(names, (record.name for record in records))
            raise

    def _row(self, record: Record) -> Row:
        previous = record.previous
        desired, secrets = self._seal(record)
        facts, hidden = _facts(record), [secrets]
        old: bytes | None = None
        if previous is not None:
            old, old_secrets = self._seal(previous)
            facts["previous"] = {**_facts(previous), "revision": previous.revision, "updated_at": previous.updated_at}
            hidden.append(old_secrets)
        return Row(
            name=record.name,
            kind=record.kind,
            phase=record.phase.value,
            revision=record.revision,
            desired=desired,
            previous=old,
            facts=orjson.dumps(facts),
            secrets=orjson.dumps([base64.b64encode(part).decode() for part in hidden]) if any(hidden) else b"",
            created_at=record.created_at,
            updated_at=record.updated_at,
        )

    def _seal(self, record: Record) -> tuple[bytes, bytes]:
        paths = self._kinds[record.kind].secrets
        if not paths:
            return record.desired.SerializeToString(), b""
        plain, secret = fields.split(record.desired, paths)
        return plain.SerializeToString(), secret.SerializeToString()

    def _record(self, row: Row) -> Record:
        facts = orjson.loads(row.facts)
        hidden = [base64.b64decode(part) for part in orjson.loads(row.secrets)] if row.secrets else [b"", b""]
        previous = None
        if row.previous is not None:
            before = facts.pop("previous")
            previous = Record(
                kind=row.kind,
                name=row.name,
                desired=self._message(row.kind, row.previous, hidden[1]),
                phase=Phase.READY,
                revision=before["revision"],
                created_at=row.created_at,
                updated_at=before["updated_at"],
                **_record_facts(before),
            )
        return Record(
            kind=row.kind,
            name=row.name,
            desired=self._message(row.kind, row.desired, hidden[0]),
            phase=Phase(row.phase),
            revision=row.revision,
            created_at=row.created_at,
            updated_at=row.updated_at,
            previous=previous,
            **_record_facts(facts),
        )

    def _message(self, kind: str, plain: bytes, secret: bytes) -> Any:
        message = self._kinds[kind].message.FromString(plain)
        if secret:
            message.MergeFromString(secret)
        return message


def _facts(record: Record) -> dict[str, Any]:
    return {"assigned": record.assigned, "private": record.private, "stands_on": record.stands_on}


def _record_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"assigned": facts["assigned"], "private": facts["private"], "stands_on": tuple(facts["stands_on"])}


def in_order(records: Iterable[Record], order: Sequence[str]) -> list[Record]:
    """The records sorted by their kind's place in `order`, then by name: what stands on something comes after it."""
    place = {kind: number for number, kind in enumerate(order)}
    return sorted(records, key=lambda record: (place[record.kind], record.name))
