"""The reconciler: makes the target agree with the records, without anyone asking.

A sweep looks at every record in dependency order: at the start, whenever the target comes (back), and every interval.
Between sweeps single records are looked at: those that a change left in the middle, those that failed (with backoff),
those whose bdev the target says has gone. It never touches what the bridge did not make, and leaves alone what a
request is working on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.core.backoff import Backoff
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.engine import Engine
from opi_spdk_bridge.core.journal import in_order
from opi_spdk_bridge.core.record import AnyRecord, Phase
from opi_spdk_bridge.core.registry import Registry
from opi_spdk_bridge.core.side import Presence, Target

log = logging.getLogger(__name__)

_AT_ONCE = 384  # records at a time: their calls share writes, and the target's reactor is free between two batches
_REST_FACTOR = 100  # a sweep may take 1/100 of the time
_PATIENCE_S = 2.0  # a sweep does not wait longer for records that the target is slow with (a path to a dead array)
_CALL_LIMIT_S = 60.0


@dataclass(slots=True)
class Tally:
    """What the reconciler has done since the start."""

    sweeps: int = 0
    restored: int = 0
    drifted: int = 0
    finished: int = 0
    failed: int = 0
    data_losses: int = 0
    last_sweep_s: float = 0.0
    last_sweep_at: float = 0.0
    """On the monotonic clock."""


@dataclass(slots=True)
class _Sweep:
    """One pass. `restoring`: the target has just come, so what is missing is no drift."""

    view: Any
    restoring: bool
    done: int = 0
    absent: set[str] = field(default_factory=set)
    """Kinds of which the last batch was wholly absent: the next is made without looking first."""


class Reconciler:
    """Owns the sweeps; `interval_s` from the end of one to the start of the next, or 100 times its duration."""

    def __init__(
        self,
        registry: Registry,
        catalog: Catalog,
        engine: Engine,
        target: Target,
        interval_s: float,
        notifications_s: float,
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._engine = engine
        self._target = target
        self._interval_s = interval_s
        self._notifications_s = notifications_s
        self._wake = asyncio.Event()
        self._came = True
        self._task: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self._backoff = Backoff()
        self._verified: set[str] = set()
        self._noticed: set[str] = set()
        self.tally = Tally()
        self.swept = asyncio.Event()
        """Set once a sweep has been completed on the present connection."""
        engine.on_unfinished.append(self.look_at)

    def start(self) -> None:
        """Starts working whenever the target is connected."""
        self._task = asyncio.create_task(self._run(), name="reconciler")

    async def close(self) -> None:
        """Stops; what is half done is found again at the next start."""
        for task in [self._task, *self._looking]:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def target_came(self) -> None:
        """Has everything looked at now: the target is new, or may have changed while it was away."""
        self._came = True
        self.swept.clear()
        self._verified.clear()
        self._noticed.clear()
        self._backoff.reset()
        self._wake.set()

    def look_at(self, name: str) -> None:
        """Has one record looked at now."""
        self._verified.discard(name)
        self._backoff.soon(name)
        self._wake.set()

    async def _run(self) -> None:
        next_sweep = 0.0
        while True:
            if self._target.connected:
                try:
                    await self._engine.heal()
                    if self._came or time.monotonic() >= next_sweep:
                        restoring, self._came = self._came, False
                        await self._notice()
                        next_sweep = time.monotonic() + await self._timed_sweep(restoring)
                    await self._notice()
                    await self._retry()
                except errors.BridgeError as problem:
                    log.info("reconciling was broken off: %s", problem)
                except Exception:
                    log.exception("the reconciler failed; it goes on")
            await self._pause(next_sweep)

    async def _pause(self, next_sweep: float) -> None:
        wait_s = min(self._notifications_s, max(0.0, next_sweep - time.monotonic()))
        if not self._target.connected:
            wait_s = self._interval_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.01, self._backoff.next_in_s(wait_s))):
                await self._wake.wait()
        self._wake.clear()

    async def _timed_sweep(self, restoring: bool) -> float:
        """Sweeps and returns how many seconds to rest."""
        started, before = time.monotonic(), self.tally.restored + self.tally.drifted + self.tally.finished
        try:
            await self.sweep(restoring=restoring)
        except BaseException:
            self._came = self._came or restoring
            raise
        took_s = time.monotonic() - started
        self.tally.sweeps += 1
        self.tally.last_sweep_s, self.tally.last_sweep_at = took_s, time.monotonic()
        self.swept.set()
        changed = self.tally.restored + self.tally.drifted + self.tally.finished - before
        if changed or restoring:
            log.info("swept %d resources in %.2f s: %d put right", len(self._catalog), took_s, changed)
        return max(self._interval_s, _REST_FACTOR * took_s)

    async def sweep(self, *, restoring: bool = False) -> None:
        """One pass over all records; raises Unavailable or OutcomeUnknown when the target goes away in between."""
        sweep = _Sweep(self._target.snapshot(), restoring)
        records = in_order(self._catalog, list(self._registry))
        doomed = [record for record in records if record.phase in (Phase.DELETING, Phase.DELETED)]
        for group in _by_kind(reversed(doomed)):
            await self._each(group, sweep)
        for group in _by_kind(record for record in records if record.phase not in (Phase.DELETING, Phase.DELETED)):
            await self._each(group, sweep)

    async def _retry(self) -> None:
        """Looks at the records that are due."""
        names = self._backoff.take()
        if not names:
            return
        records = [record for name in names if (record := self._catalog.record(name)) is not None]
        for name in names:
            if self._catalog.record(name) is None:
                self._backoff.done(name)
        noticed, self._noticed = self._noticed, set()
        view = self._target.snapshot()
        restoring, drifting = _Sweep(view, restoring=True), _Sweep(view, restoring=False)
        for group in _by_kind(in_order(records, list(self._registry))):
            await self._each([record for record in group if record.name not in noticed], restoring)
            await self._each([record for record in group if record.name in noticed], drifting)

    async def _notice(self) -> None:
        """Looks at what stands on bdevs that the target says have gone, and at what was owed and has come back."""
        try:
            changed = await self._target.changed_bdevs()
        except errors.BridgeError:
            raise
        except Exception:
            log.exception("the target's notifications cannot be read")
            changed = None
        if changed is None:
            self._verified.clear()
            return
        for record in self._concerned(changed.went):
            if record.phase is Phase.READY and not self._engine.at_work_on(record.name):
                self._noticed.add(record.name)
                self.look_at(record.name)
        for record in self._concerned(changed.came):
            if record.phase is Phase.DELETED:
                self.look_at(record.name)
            if record.phase is Phase.DELETED:
                self.look_at(record.name)
            self._backoff.hurry(record.name)

    def _concerned(self, bdevs: Iterable[str]) -> Iterator[AnyRecord]:
        """The records that are one of the bdevs, or stand on one."""
        for bdev in bdevs:
            for key in (f"bdev:{bdev}", f"claim:{bdev}", f"owed:{bdev}"):
                yield from self._catalog.holders(key)

    async def _each(self, records: Sequence[AnyRecord], sweep: _Sweep) -> None:
        """Looks at the records, several at a time; goes on without those that nothing comes of for a while."""
        waiting = iter([record.name for record in records if self._worth_a_look(record)])
        workers = [asyncio.create_task(self._work(waiting, sweep)) for _ in range(min(_AT_ONCE, len(records)))]
        for worker in workers:
            self._looking.add(worker)
            worker.add_done_callback(self._looking.discard)
        at_work, done = set(workers), -1
        while at_work and done != sweep.done:
            done = sweep.done
            _, at_work = await asyncio.wait(at_work, timeout=_PATIENCE_S)
        if not self._target.connected:
            raise errors.Unavailable("the target went away during the sweep")

    async def _work(self, waiting: Iterator[str], sweep: _Sweep) -> None:
        for name in waiting:
            if not self._target.connected:
                return
            await self._reconcile(name, sweep)
            sweep.done += 1

    def _worth_a_look(self, record: AnyRecord) -> bool:
        """Not what a request is at work on, has failed just now, or the target would have told if it had gone."""
        if self._engine.at_work_on(record.name) or self._backoff.waits(record.name):
            return False
        return record.name not in self._verified

    async def _reconcile(self, name: str, sweep: _Sweep) -> None:
        record = self._catalog.record(name)
        if record is None:
            self._backoff.done(name)
            return
        try:
            with deadline.limit(_CALL_LIMIT_S):
                if record.phase is not Phase.READY:
                    await self._engine.finish(name)
                    self.tally.finished += 1
                elif not await self._compare(record, sweep):
                    return
        except (errors.BridgeError, Exception) as problem:
            self._failed(name, problem)
        else:
            self._backoff.done(name)

    async def _compare(self, record: AnyRecord, sweep: _Sweep) -> bool:
        """Looks at a record and puts it right; False where it was left alone."""
        side = self._registry[record.kind].side
        if sweep.restoring and record.kind in sweep.absent:
            if await self._made_blindly(record.name):
                self._restored(record)
                return True
            sweep.absent.discard(record.kind)
        observation = await side.observe(record, sweep.view)
        if self._catalog.record(record.name) is record:
            self._catalog.show(record.name, observation.shown)
        self._engine.displaced(record.name, by_another=observation.presence is Presence.FOREIGN)
        if observation.presence is Presence.FOREIGN:
            self._failed(record.name, errors.AlreadyExists("another's object stands in its place; it is left alone"))
            return False
        if observation.presence is Presence.PRESENT:
            sweep.absent.discard(record.kind)
            if side.announced(record):
                self._verified.add(record.name)
            return True
        if observation.presence is Presence.ABSENT:
            sweep.absent.add(record.kind)
        if observation.presence is Presence.ABSENT and sweep.restoring:
            await self._engine.make(record.name)
        else:
            await self._engine.repair(record.name, sweep.view)
        if sweep.restoring:
            self._restored(record)
        else:
            self.tally.drifted += 1
            log.warning("%s was not as asked (%s): put right", record.name, "; ".join(observation.differences))
            self._count_loss(record, observation.presence)
        return True

    async def _made_blindly(self, name: str) -> bool:
        try:
            await self._engine.make(name)
        except errors.OutcomeUnknown:
            raise
        except errors.BridgeError as problem:
            log.debug("%s: it is there, or cannot be made: %s", name, problem)
            return False
        return True

    def _restored(self, record: AnyRecord) -> None:
        self.tally.restored += 1
        log.debug("%s: restored", record.name)
        self._count_loss(record, Presence.ABSENT)

    def _count_loss(self, record: AnyRecord, presence: Presence) -> None:
        if presence is Presence.ABSENT and self._registry[record.kind].kind.volatile:
            self.tally.data_losses += 1
            log.error("%s: DATA LOST: its volume was made again, empty: its data went with the one before", record.name)

    def _failed(self, name: str, problem: Exception) -> None:
        self._verified.discard(name)
        if not self._target.connected:
            self._backoff.soon(name)
            return
        self._backoff.failed(name, for_long=isinstance(problem, errors.InvalidArgument))
        self.tally.failed += 1
        if isinstance(problem, errors.BridgeError):
            log.warning("%s cannot be brought to what was asked, trying again later: %s", name, problem)
        else:
            log.error("%s: the reconciler failed", name, exc_info=problem)


def _by_kind(records: Iterable[AnyRecord]) -> list[list[AnyRecord]]:
    return [list(group) for _, group in groupby(records, key=lambda record: record.kind)]
