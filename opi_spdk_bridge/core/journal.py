"""Records to rows and back: what the store keeps of a record."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core import record as records
from opi_spdk_bridge.core.kind import AnyKind
from opi_spdk_bridge.core.record import AnyRecord, Phase, Record
from opi_spdk_bridge.store.base import Change, Row, Store

_BOOT = "boot"  # the setting that names the run of the machine in which the state was last in use


class Journal:
    """Writes records through to the store, secret fields apart from the rest."""

    def __init__(self, store: Store, kinds: Mapping[str, AnyKind]) -> None:
        self._store = store
        self._kinds = kinds
        self._doubtful: set[str] = set()
        self._intents: dict[str, asyncio.Future[None]] = {}

    async def recover(self, boot: str) -> list[AnyRecord]:
        """As `load`, for the bridge that takes the state over; `boot` names the present run of the machine.

        Nobody waits for the disk with the outcome of a change, only with its intent. So after a restart of the machine
        a change that looks unfinished may have been acknowledged: it counts as done, and is not taken back.
        """
        records = await self.load()
        if await self._store.get_setting(_BOOT) != boot:
            under_way = [record for record in records if record.phase in (Phase.CREATING, Phase.UPDATING)]
            await self.exchange((), [replace(record, phase=Phase.READY, previous=None) for record in under_way])
            await self._store.put_setting(_BOOT, boot)
            records = await self.load()
        return records

    async def load(self) -> list[AnyRecord]:
        """Every stored record; raises FailedPrecondition for a state of another make, or a damaged one."""
        rows = await self._store.load()
        unknown = {row.kind for row in rows} - set(self._kinds)
        if unknown:
            text = f"the state has resources of kinds this bridge does not know: {', '.join(sorted(unknown))}"
            raise errors.FailedPrecondition(text)
        return [self._read(row) for row in rows]

    async def intend(self, record: AnyRecord) -> None:
        """Keeps what is going to be done; returns when that survives this process; raises Unavailable."""
        await self._write(Change([self._row(record)]))
        self._intents[record.name] = self._store.sync()

    async def conclude(self, name: str, record: AnyRecord | None, others: Sequence[AnyRecord] = ()) -> None:
        """Puts the record in the place of what is kept as `name`, or nothing, and with it `others`; raises Unavailable.

        Returns when that survives this process and what `intend` has kept as `name` survives the machine.
        """
        puts = [self._row(each) for each in (record, *others) if each is not None]
        await self._write(Change(puts, [] if record is not None and record.name == name else [name]))
        if name in self._intents:
            await self._durable(self._intents.pop(name), [name])

    async def exchange(self, names: Sequence[str], records: Sequence[AnyRecord]) -> None:
        """Forgets the names and saves the records, as one change; returns when that survives the machine."""
        change = Change([self._row(record) for record in records], names)
        await self._write(change)
        await self._durable(self._store.sync(), _touched(change))

    async def heal(self, current: Callable[[str], AnyRecord | None]) -> None:
        """Stores again what a failed write may have left otherwise than `current` has it; raises Unavailable."""
        if self._doubtful:
            names, self._doubtful = self._doubtful, set()
            records = [record for name in names if (record := current(name)) is not None]
            await self.exchange([name for name in names if current(name) is None], records)

    async def _write(self, change: Change) -> None:
        await self._durable(self._store.write(change), _touched(change))

    async def _durable(self, storing: Awaitable[None], names: Sequence[str]) -> None:
        try:
            await storing
        except BaseException:  # cancelled, too: it may have been stored or not
            self._doubtful.update(names)
            raise

    def _row(self, record: AnyRecord) -> Row:
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

    def _seal(self, record: AnyRecord) -> tuple[bytes, bytes]:
        paths = self._kinds[record.kind].secrets
        if not paths:
            return record.desired.SerializeToString(), b""
        plain, secret = fields.split(record.desired, paths)
        return plain.SerializeToString(), secret.SerializeToString()

    def _read(self, row: Row) -> AnyRecord:
        try:
            return self._record(row)
        except (ValueError, LookupError, TypeError, AttributeError, DecodeError) as problem:
            text = f"the state is damaged, or of another version: what it keeps of {row.name!r} cannot be read"
            raise errors.FailedPrecondition(text) from problem

    def _record(self, row: Row) -> AnyRecord:
        facts = orjson.loads(row.facts)
        hidden = [base64.b64decode(part) for part in orjson.loads(row.secrets)] if row.secrets else [b"", b""]
        kind, previous = self._kinds[row.kind], None
        if row.previous is not None:
            before = facts.pop("previous")
            earlier: AnyRecord = Record(
                kind=row.kind,
                name=row.name,
                desired=self._message(row.kind, row.previous, hidden[1]),
                phase=Phase.READY,
                revision=before["revision"],
                created_at=row.created_at,
                updated_at=before["updated_at"],
                **self._record_facts(row.kind, before),
            )
            previous = kind.modernise(earlier)
        record: AnyRecord = Record(
            kind=row.kind,
            name=row.name,
            desired=self._message(row.kind, row.desired, hidden[0]),
            phase=Phase(row.phase),
            revision=row.revision,
            created_at=row.created_at,
            updated_at=row.updated_at,
            previous=previous,
            **self._record_facts(row.kind, facts),
        )
        return kind.modernise(record)

    def _record_facts(self, kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        own = records.from_json(self._kinds[kind].own, facts["assigned"], facts["private"])
        return {"own": own, "stands_on": tuple(facts["stands_on"])}

    def _message(self, kind: str, plain: bytes, secret: bytes) -> Any:
        message = self._kinds[kind].message.FromString(plain)
        if secret:
            message.MergeFromString(secret)
        return message


def _facts(record: AnyRecord) -> dict[str, Any]:
    assigned, private = records.to_json(record.own)
    return {"assigned": assigned, "private": private, "stands_on": record.stands_on}


def _touched(change: Change) -> list[str]:
    return [*change.deletes, *(row.name for row in change.puts)]


def in_order(records: Iterable[AnyRecord], order: Sequence[str]) -> list[AnyRecord]:
    """The records by their kind's place in `order`, then by age: what stands on something comes after it."""
    place = {kind: number for number, kind in enumerate(order)}
    return sorted(records, key=lambda record: (place[record.kind], record.created_at, record.name))
