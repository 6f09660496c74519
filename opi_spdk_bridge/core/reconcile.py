"""The reconciler: makes the target agree with the records, without anyone asking.

It sweeps at the start, whenever the target comes (back), when a change was left in the middle, and every interval. A
sweep looks at each record in dependency order, finishes half-done work and repairs what is not as desired. It never
touches what the bridge did not make, and leaves alone what a request is working on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.engine import Engine
from opi_spdk_bridge.core.journal import in_order
from opi_spdk_bridge.core.kind import Phase, Presence, Record, Target
from opi_spdk_bridge.core.registry import Registry

log = logging.getLogger(__name__)

_AT_ONCE = 64  # records looked at or repaired at the same time: their calls share writes
_LEAST_REST = 100  # a sweep may take 1/100 of the time


@dataclass(slots=True)
class Sweep:
    """What one sweep did."""

    looked_at: int = 0
    repaired: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Reconciler:
    """Owns the sweeps; `interval_s` between the end of one and the start of the next, or 100 times its duration."""

    def __init__(self, registry: Registry, catalog: Catalog, engine: Engine, target: Target, interval_s: float) -> None:
        self._registry = registry
        self._catalog = catalog
        self._engine = engine
        self._target = target
        self._interval_s = interval_s
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.swept = asyncio.Event()
        """Set once a sweep has been completed since the start."""
        engine.on_unfinished.append(lambda _name: self.kick())

    def start(self) -> None:
        """Starts sweeping whenever the target is connected."""
        self._task = asyncio.create_task(self._run(), name="reconciler")

    async def close(self) -> None:
        """Stops between two records."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def kick(self) -> None:
        """Asks for a sweep now."""
        self._due.set()

    async def _run(self) -> None:
        rest_s = self._interval_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._due.wait()
            self._due.clear()
            if not self._target.connected:
                continue
            started = time.monotonic()
            try:
                sweep = await self.sweep()
            except (errors.Unavailable, errors.OutcomeUnknown) as problem:
                log.info("the sweep was broken off: %s", problem)
                continue
            rest_s = max(self._interval_s, _LEAST_REST * (time.monotonic() - started))
            self.swept.set()
            if sweep.repaired or sweep.failed:
                log.warning(
                    "sweep: %d resources, %d repaired, %d not repaired",
                    sweep.looked_at, len(sweep.repaired), len(sweep.failed),
                )  # fmt: skip

    async def sweep(self) -> Sweep:
        """One pass over all records; raises Unavailable or OutcomeUnknown when the target goes away in between."""
        sweep = Sweep()
        view = self._target.snapshot()
        records = in_order(self._catalog, list(self._registry))
        doomed = [record for record in records if record.phase is Phase.DELETING]
        for group in _by_kind(reversed(doomed)):
            await self._each(group, sweep, view)
        for group in _by_kind(records):
            await self._each(group, sweep, view)
        return sweep

    async def _each(self, records: list[Record], sweep: Sweep, view: Any) -> None:
        for start in range(0, len(records), _AT_ONCE):
            batch = records[start : start + _AT_ONCE]
            await asyncio.gather(*(self._reconcile(record.name, sweep, view) for record in batch))

    async def _reconcile(self, name: str, sweep: Sweep, view: Any) -> None:
        record = self._catalog.record(name)
        if record is None:
            return
        sweep.looked_at += 1
        try:
            if record.phase is not Phase.READY:
                await self._engine.finish(name)
                sweep.repaired.append(name)
            else:
                await self._compare(record, sweep, view)
        except (errors.Unavailable, errors.OutcomeUnknown):
            if not self._target.connected:
                raise
            sweep.failed.append(name)
        except errors.BridgeError as problem:
            sweep.failed.append(name)
            log.warning("%s cannot be brought to what was asked: %s", name, problem)
        except Exception:
            sweep.failed.append(name)
            log.exception("%s: the reconciler failed", name)

    async def _compare(self, record: Record, sweep: Sweep, view: Any) -> None:
        observation = await self._registry[record.kind].kind.observe(record, view)
        if self._catalog.record(record.name) is record:
            self._catalog.show(record.name, observation.shown)
        if observation.presence is Presence.PRESENT:
            return
        if observation.presence is Presence.FOREIGN:
            sweep.failed.append(record.name)
            log.warning("%s: another's object stands in its place on the target; left alone", record.name)
            return
        log.warning("%s is not as it should be (%s): repairing", record.name, "; ".join(observation.differences))
        await self._engine.repair(record.name, self._target.view())
        sweep.repaired.append(record.name)


def _by_kind(records: Iterable[Record]) -> list[list[Record]]:
    groups: list[list[Record]] = []
    for record in records:
        if groups and groups[-1][0].kind == record.kind:
            groups[-1].append(record)
        else:
            groups.append([record])
    return groups
