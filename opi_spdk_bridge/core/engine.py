"""The verbs (AIP-131 to 135), once, for every kind of resource.

A change goes: lock the name, share-lock what it stands on, store the intent, ask the target, store the outcome, answer.
A definite failure puts everything back; an unknown outcome keeps the record in its phase, to be driven to its end by
whoever comes next: a repeated request or the reconciler. Changes run to their end even if their client goes away.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.core import fields, paging, requests
from opi_spdk_bridge.core.catalog import Catalog, standing
from opi_spdk_bridge.core.following import followers
from opi_spdk_bridge.core.journal import Journal
from opi_spdk_bridge.core.kind import Taken
from opi_spdk_bridge.core.locks import NameLocks
from opi_spdk_bridge.core.names import resource_id
from opi_spdk_bridge.core.record import AnyRecord, Own, Phase, Record
from opi_spdk_bridge.core.registry import Entry, Registry
from opi_spdk_bridge.core.side import AnySide, Counters, Postponed, Target

T = TypeVar("T")
log = logging.getLogger(__name__)

_CHOICES = 100  # attempts at choosing what concurrent requests choose, too

_STATUS_LIMIT_S = 2.0  # how long a Get waits for the target before it answers with the last known status


class Engine:
    """Carries out requests on resources. Names may be in either style; answers carry canonical ones."""

    def __init__(self, registry: Registry, catalog: Catalog, journal: Journal, target: Target) -> None:
        self._registry = registry
        self._catalog = catalog
        self._journal = journal
        self._target = target
        self._locks = NameLocks()
        self._changes: set[asyncio.Task[Any]] = set()
        self._displaced: set[str] = set()
        self.on_unfinished: list[Callable[[str], None]] = []
        """Called with the name of each record that a change has left in the middle."""

    async def drain(self) -> None:
        """Waits until no change is under way."""
        while self._changes:
            await asyncio.wait(self._changes)

    async def heal(self) -> None:
        """Stores again what a store that failed may not have as it is; raises Unavailable while it still fails."""
        await self._journal.heal(self._catalog.record)

    # Reading

    async def get(self, entry: Entry, name: str) -> Message:
        """The resource with live status, or with the last known one while the target is away."""
        name = entry.names.parse(name)
        record = self._visible(name)
        if self._target.connected:
            try:
                with deadline.limit(deadline.remaining_s(_STATUS_LIMIT_S)):
                    observation = await entry.side.observe(record, self._target.view())
                self._catalog.show(name, observation.shown)
            except errors.BridgeError as problem:
                log.debug("%s: answered from the store, the target did not tell its status: %s", name, problem)
        return self._present(entry, record)

    async def list(self, entry: Entry, parent: str, page_size: int, page_token: str) -> paging.Page:
        """A page of the resources below `parent` ("" for kinds at the top), ordered by name."""
        size = paging.page_size(page_size)
        if len(entry.names.collections) > 1:
            parent = entry.names.parse_parent(parent)
            if self._catalog.visible(parent) is None:
                raise _not_found(parent)
        else:
            parent = ""  # older clients send anything here
        collection = f"{parent}/{entry.names.collections[-1]}"
        records, more = self._catalog.page(entry.singular, parent, paging.after(page_token, collection), size)
        make, parse = functools.partial(requests.answer, entry.kind), entry.kind.message.FromString
        items = [parse(self._catalog.answer(record, make)) for record in records]
        return paging.Page(items, paging.token(collection, records[-1].name) if more else "")

    async def stats(self, entry: Entry, name: str) -> Counters:
        """The I/O counters; raises Unavailable while the target is away."""
        record = self._visible(entry.names.parse(name))
        return await entry.side.measure(record)

    # Changing

    async def create(self, entry: Entry, parent: str, given_id: str, resource: Message, field: str) -> Message:
        """Creates it, or answers with what an equal request created before; `field` is the request's, for errors."""
        if len(entry.names.collections) > 1:
            parent = entry.names.parse_parent(parent)
        name = entry.names.child(parent, resource_id(given_id, f"{field}_id"))
        with requests.in_field(field):
            desired = requests.desired(entry.kind, resource, field)
            return await self._to_its_end(self._create(entry, name, desired))

    async def update(
        self, entry: Entry, resource: Any, mask: Sequence[str], allow_missing: bool, field: str
    ) -> Message:
        """Changes the fields that the mask names (AIP-134); with `allow_missing` creates what is not there."""
        name = entry.names.parse(resource.name, f"{field}.name")
        with requests.in_field(field):
            return await self._to_its_end(self._update(entry, name, resource, mask, allow_missing, field))

    async def delete(self, entry: Entry, name: str, allow_missing: bool) -> None:
        """Deletes it; raises FailedPrecondition naming what stands on it."""
        await self._to_its_end(self._delete(entry, entry.names.parse(name), allow_missing))

    async def finish(self, name: str) -> None:
        """Drives a record that was left in the middle to its end."""
        await self._to_its_end(self._finish_alone(name))

    async def repair(self, name: str, view: Any) -> None:
        """Makes the target agree with a record that is ready; leaves alone what a request is working on."""
        await self._to_its_end(self._remake(name, lambda side, record: side.repair(record, view)))

    async def make(self, name: str) -> None:
        """Makes what a record that is ready stands for, without looking: for what is expected to be gone.

        Cancelled, it may have made what it was to make: that is found to be there the next time.
        """
        await self._remake(name, lambda side, record: side.make(record))

    def displaced(self, name: str, *, by_another: bool) -> None:
        """Notes whether another's object was seen in the record's place: then a delete looks before it touches it."""
        (self._displaced.add if by_another else self._displaced.discard)(name)

    def at_work_on(self, name: str) -> bool:
        """Whether a request is at work on the name."""
        return self._locks.locked(name)

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Runs a change so that cancelling its caller does not tear it."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[Any]) -> None:
        """Says what went wrong even when whoever asked has gone."""
        self._changes.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            level = logging.DEBUG if isinstance(problem, errors.BridgeError) else logging.ERROR
            log.log(level, "a change failed: %s", problem, exc_info=problem if level == logging.ERROR else None)

    async def _create(self, entry: Entry, name: str, desired: Message) -> Message:
        async with self._locks.exclusive(name):
            existing = await self._settled_record(entry, name)
            if existing is not None:
                if not requests.same(entry.kind, existing, desired):
                    raise errors.AlreadyExists(f"{name} exists and is not what this request asks for", resource=name)
                return self._present(entry, existing)
            return self._present(entry, await self._create_new(entry, name, desired))

    async def _create_new(self, entry: Entry, name: str, desired: Message) -> AnyRecord:
        return await self._choosing(lambda taken: self._create_chosen(entry, name, desired, taken))

    async def _choosing(self, attempt: Callable[[set[Any]], Awaitable[T]]) -> T:
        """Tries again with other choices where what the bridge itself chose turns out to be taken."""
        taken: set[Any] = set()
        for _ in range(_CHOICES):
            try:
                return await attempt(taken)
            except Taken as problem:
                taken.update(problem.values)
        return await attempt(taken)

    async def _create_chosen(self, entry: Entry, name: str, desired: Message, taken: Collection[Any]) -> AnyRecord:
        await self._target.ready()
        now = time.time()
        record: AnyRecord = Record(entry.singular, name, desired, Phase.CREATING, 1, now, now, entry.kind.own())
        if record.parent:
            standing(self._catalog, (record.parent,))
        record = (await entry.kind.settle(name, desired, None, taken)).on(record)
        async with self._locks.shared(record.stands_on):
            standing(self._catalog, record.stands_on, held=True)
            async with self._intent(record, None):
                own = await entry.side.make(record)
            return await self._ready(entry, record, own)

    async def _update(
        self, entry: Entry, name: str, resource: Message, mask: Sequence[str], allow_missing: bool, field: str
    ) -> Message:
        async with self._locks.exclusive(name):
            old = await self._settled_record(entry, name)
            if old is None:
                if not allow_missing:
                    raise _not_found(name)
                desired = requests.desired(entry.kind, resource, field)
                return self._present(entry, await self._create_new(entry, name, desired))
            shown = entry.side.shown_when_ready(old), self._catalog.shown(name)
            desired = requests.merged(entry.kind, old, shown, resource, mask, field)
            if desired == old.desired:
                return self._present(entry, old)
            await self._target.ready()
            return self._present(entry, await self._choosing(lambda taken: self._amend(entry, old, desired, taken)))

    async def _amend(self, entry: Entry, old: AnyRecord, desired: Message, taken: Collection[Any]) -> AnyRecord:
        new = replace(old, desired=desired, phase=Phase.UPDATING, previous=old, **_next(old))
        new = (await entry.kind.settle(old.name, desired, old, taken)).on(new)
        async with self._locks.shared({*old.stands_on, *new.stands_on}):
            standing(self._catalog, new.stands_on, held=True)
            async with self._intent(new, old):
                own = await entry.side.amend(old, new)
            return await self._ready(entry, new, own)

    async def _delete(self, entry: Entry, name: str, allow_missing: bool) -> None:
        async with self._locks.exclusive(name):
            record = self._catalog.record(name)
            if record is not None and record.phase is Phase.UPDATING:
                record = await self._settled_record(entry, name)
            if record is None:
                if allow_missing:
                    return
                raise _not_found(name)
            self._require_unused(name)
            await self._target.ready()
            async with self._locks.shared(record.stands_on):
                deleting = replace(record, phase=Phase.DELETING, **_next(record))
                trusted = record.phase is Phase.READY and name not in self._displaced
                view = None if trusted else self._target.view()
                async with self._intent(deleting, _kept(record)):
                    await self._take_down(entry, deleting, view)

    def _require_unused(self, name: str) -> None:
        users = [record.name for record in self._catalog.dependents(name)]
        if users:
            more = f" and {len(users) - 5} more" if len(users) > 5 else ""
            text = f"{name} is in use by {', '.join(users[:5])}{more}: delete those first"
            raise errors.FailedPrecondition(text, resource=users[0])

    @asynccontextmanager
    async def _intent(self, record: AnyRecord, before: AnyRecord | None) -> AsyncIterator[None]:
        """Stores what is going to be done; after a definite failure puts back what was `before`."""
        self._catalog.require_free(record)
        self._catalog.put(record)
        try:
            await self._journal.intend(record)
        except BaseException:
            self._put_back(record.name, before)
            raise
        try:
            yield
        except errors.OutcomeUnknown:
            self._unfinished(record.name)
            raise
        except errors.BridgeError:
            await self._store_back(record.name, before)
            if before is not None:
                self._unfinished(record.name)  # not every step can be undone: what it left is put right
            raise
        except BaseException:
            self._unfinished(record.name)
            raise

    def _put_back(self, name: str, before: AnyRecord | None) -> None:
        if before is None:
            self._catalog.remove(name)
        else:
            self._catalog.put(before)

    async def _store_back(self, name: str, before: AnyRecord | None) -> None:
        await self._journal.conclude(name, before)
        self._put_back(name, before)

    async def _ready(self, entry: Entry, record: AnyRecord, own: Own) -> AnyRecord:
        """Stores the outcome of a change that the target carried out."""
        done = replace(record, phase=Phase.READY, previous=None, own=own)
        before = self._catalog.record(done.name)
        if done != before:
            following = [] if before is None else [*followers(self._registry.kinds, self._catalog, before, done)]
            await self._store_outcome(done.name, self._journal.conclude(done.name, done, following))
            self._catalog.put(done)
            for changed in following:
                self._catalog.put(changed)
                log.warning("%s: it stands on a volume that has come back with another identity", changed.name)
                self._unfinished(changed.name)
        self._catalog.show(done.name, entry.side.shown_when_ready(done))
        return done

    async def _take_down(self, entry: Entry, record: AnyRecord, view: Any) -> None:
        """Removes a record and what it stands for; what must wait is kept under a name that nobody can ask."""
        hidden: AnyRecord | None = None
        try:
            await entry.side.remove(record, view)
        except Postponed as wait:
            log.info("%s: %s", record.name, wait)
            desired, _ = fields.split(record.desired, entry.kind.secrets)
            hidden = record.hidden(desired)
        await self._store_outcome(record.name, self._journal.conclude(record.name, hidden))
        self._catalog.remove(record.name)
        self._displaced.discard(record.name)
        if hidden is not None:
            self._catalog.put(hidden)

    async def _store_outcome(self, name: str, storing: Awaitable[None]) -> None:
        """Raises NotStored where the store fails: the record stays as it is, and is driven to its end later."""
        try:
            await storing
        except errors.BridgeError as problem:
            self._unfinished(name)
            raise errors.NotStored(
                f"{name}: it was carried out but not stored ({problem.message}); repeat it"
            ) from problem

    def _unfinished(self, name: str) -> None:
        for notify in self.on_unfinished:
            notify(name)

    # Finishing what was left in the middle

    async def _settled_record(self, entry: Entry, name: str) -> AnyRecord | None:
        """The record once its last change has come to an end; the caller holds the name."""
        record = self._catalog.record(name)
        if record is None or record.phase is Phase.READY:
            return record
        await self._target.ready()
        async with self._locks.shared({*record.stands_on, *(record.previous.stands_on if record.previous else ())}):
            return await self._finish(entry, record)

    async def _finish_alone(self, name: str) -> None:
        async with self._locks.exclusive(name):
            record = self._catalog.record(name)
            if record is not None:
                await self._settled_record(self._registry[record.kind], name)

    async def _finish(self, entry: Entry, record: AnyRecord) -> AnyRecord | None:
        """Forward where that is possible, else back; returns the record as it then is."""
        if record.phase in (Phase.DELETING, Phase.DELETED):
            return await self._finish_delete(entry, record)
        try:
            return await self._ready(entry, record, await entry.side.repair(record, self._target.view()))
        except (errors.OutcomeUnknown, errors.Unavailable, errors.DeadlineExceeded):
            raise
        except errors.BridgeError as problem:
            log.warning("%s: its last change cannot be completed and is taken back: %s", record.name, problem)
            if record.previous is None:
                await self._take_down(entry, record, self._target.view())
                return None
            back = replace(record.previous, previous=replace(record, previous=None))
            return await self._ready(entry, record.previous, await entry.side.repair(back, self._target.view()))

    async def _finish_delete(self, entry: Entry, record: AnyRecord) -> AnyRecord | None:
        try:
            await self._take_down(entry, record, self._target.view())
        except errors.FailedPrecondition as refusal:
            if record.phase is Phase.DELETED:
                raise
            log.warning("%s: its deletion is refused and given up: %s", record.name, refusal)
            return await self._ready(entry, record, record.own)
        return None

    async def _remake(self, name: str, make: Callable[[AnySide, AnyRecord], Awaitable[Own]]) -> None:
        if self._locks.locked(name):
            return
        async with self._locks.exclusive(name):
            record = self._catalog.record(name)
            if record is None or record.phase is not Phase.READY:
                return
            entry = self._registry[record.kind]
            async with self._locks.shared(record.stands_on):
                await self._ready(entry, record, await make(entry.side, record))

    def _visible(self, name: str) -> AnyRecord:
        record = self._catalog.visible(name)
        if record is None:
            raise _not_found(name)
        return record

    def _present(self, entry: Entry, record: AnyRecord) -> Message:
        """The resource as clients see it, for the caller to change."""
        answer = self._catalog.answer(record, functools.partial(requests.answer, entry.kind))
        return entry.kind.message.FromString(answer)


def _kept(record: AnyRecord) -> AnyRecord:
    """What a delete leaves that is refused, also where one before it was broken off."""
    return replace(record, phase=Phase.READY) if record.phase is Phase.DELETING else record


def _next(record: AnyRecord) -> dict[str, Any]:
    return {"revision": record.revision + 1, "updated_at": time.time()}


def _not_found(name: str) -> errors.NotFound:
    return errors.NotFound(f"{name} does not exist", resource=name)
