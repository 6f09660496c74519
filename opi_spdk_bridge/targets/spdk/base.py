"""What all kinds share on SPDK: desired state as steps on the target, worked out from what was seen there.

A side says what it looks at, whether that is its own, and which steps lead from what is there to what is desired. From
that follow making (nothing is there), repairing (something may be), drift (steps are left) and removing.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Taken
from opi_spdk_bridge.core.record import AnyRecord, Facts, M, P, Record
from opi_spdk_bridge.core.side import Counters, Observation, Presence, Side
from opi_spdk_bridge.kinds.shared.base import parent_of
from opi_spdk_bridge.kinds.shared.underlying import OnVolume, volume_of
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import IoStat
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.hotplug import Host
from opi_spdk_bridge.targets.spdk.underlying import handle

S = TypeVar("S")


class SpdkSide(Side[M, P], Generic[M, P, S]):
    """A kind whose resources are objects of type S on the target."""

    def __init__(self, target: Target, graph: Graph, host: Host) -> None:
        self.target = target
        self.graph = graph
        self.host = host

    # What a side tells

    @abstractmethod
    async def look(self, record: Record[M, P], view: View) -> S | None:
        """What stands where the record's object should be; None where nothing does."""

    def ours(self, record: Record[M, P], seen: S) -> bool:
        """Whether what was seen is the record's own, by the identities stored before it was made."""
        return True

    @abstractmethod
    def steps(self, record: Record[M, P], seen: S | None) -> list[Step]:
        """What is left to do to have the record's object as desired; `seen` None: all of it."""

    @abstractmethod
    def removal(self, record: Record[M, P], present: bool) -> list[Step]:
        """What takes the object down, and what belongs to it; without it when it is not `present`."""

    def amendment(self, old: Record[M, P], new: Record[M, P]) -> list[Step]:
        """What turns the one into the other; raises FailedPrecondition where that would lose data."""
        return []

    def recognise(self, record: Record[M, P], seen: S) -> P:
        """What the bridge keeps of it, with what the target chose read off what was seen.

        So an identity that the target chooses is learnt again when the answer that told it was lost.
        """
        return record.own

    async def diagnose(self, record: Record[M, P], failure: StepFailed) -> errors.BridgeError:
        """The true cause of what the target refused, found by looking; what was done before still stands."""
        return failure.undiagnosed()

    def shown(self, record: Record[M, P], seen: S | None) -> Facts:
        """Output fields by path."""
        return {}

    def together(self, record: Record[M, P]) -> bool:
        """Whether guarded steps may travel with the others when nothing is expected to be there."""
        return True

    # What follows from it

    async def make(self, record: Record[M, P]) -> P:
        try:
            return await self._carry_out(record, self.steps(record, None), together=self.together(record))
        except StepFailed as failure:
            if isinstance(failure.cause, Taken):
                raise failure.cause from failure
            if await self.look(record, self.target.view()) is not None:  # ours is undone: this was there before
                raise self.foreign(record) from failure
            raise failure.cause from failure

    async def repair(self, record: Record[M, P], view: Any) -> P:
        seen = await self.look(record, view)
        if seen is not None and not self.ours(record, seen):
            raise self.foreign(record)
        if seen is not None:
            record = replace(record, own=self.recognise(record, seen))
        return await self._try(record, self.steps(record, seen))

    async def amend(self, old: Record[M, P], new: Record[M, P]) -> P:
        return await self._try(new, self.amendment(old, new))

    async def remove(self, record: Record[M, P], view: Any | None = None) -> None:
        present = True
        if view is not None:
            seen = await self.look(record, view)
            present = seen is not None and self.ours(record, seen)
            if seen is not None and present:
                record = replace(record, own=self.recognise(record, seen))
        try:
            await self._carry_out(record, self.removal(record, present))
        except StepFailed as failure:
            if await self.look(record, self.target.view()) is not None:
                raise failure.cause from failure
            await self._try(record, self.removal(record, present=False))

    async def observe(self, record: Record[M, P], view: Any) -> Observation:
        seen = await self.look(record, view)
        if seen is None:
            return Observation(Presence.ABSENT, ["it is gone"], self.shown(record, None))
        if not self.ours(record, seen):
            return Observation(Presence.FOREIGN, ["another's stands in its place"], self.shown(record, None))
        left = [step.says for step in self.steps(record, seen)]
        presence = Presence.DIFFERENT if left else Presence.PRESENT
        return Observation(presence, left, self.shown(record, seen))

    def foreign(self, record: Record[M, P]) -> errors.BridgeError:
        """The error for an object in the record's place that the bridge did not make."""
        text = f"the target already has an object in the place of {record.name} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)

    async def _try(self, record: Record[M, P], steps: Sequence[Step]) -> P:
        try:
            return await self._carry_out(record, steps)
        except StepFailed as failure:
            raise failure.cause from failure

    async def _carry_out(self, record: Record[M, P], steps: Sequence[Step], *, together: bool = False) -> P:
        """Carries the steps out and returns what is to be kept, with what they taught."""

        async def diagnose(failure: StepFailed) -> errors.BridgeError:
            refused = isinstance(failure.error, SpdkError)  # else it is the bridge's own, which says its cause itself
            return await self.diagnose(record, failure) if refused else failure.undiagnosed()

        own = record.own
        for learn in await self.target.carry_out(steps, together=together, diagnose=diagnose):
            own = learn(own)
        return own

    def bdev(self, record: Record[M, P]) -> str:
        return record.own.bdev if isinstance(record.own, OnVolume) else ""

    # What several kinds need

    def parent(self, record: Record[M, P]) -> AnyRecord:
        """The record that this one is nested in by name."""
        return parent_of(self.graph, record)

    async def bdev_counters(self, bdev: str) -> Counters:
        """A bdev's counters; zeros while it is gone from the target."""
        stat = await self.target.view().iostat(bdev)
        return counters(stat) if stat is not None else Counters()

    async def namespace_counters(self, subsystem: str) -> Counters:
        """The sum over the namespaces of a subsystem (its resource name)."""
        bdevs = [
            handle(volume_of(child)) for child in self.graph.dependents(subsystem) if isinstance(child.own, OnVolume)
        ]
        return sum(await asyncio.gather(*map(self.bdev_counters, bdevs)), Counters())


def counters(stat: IoStat) -> Counters:
    """The target's counters under the names of the contract."""
    return Counters(
        read_bytes_count=stat.bytes_read,
        read_ops_count=stat.num_read_ops,
        write_bytes_count=stat.bytes_written,
        write_ops_count=stat.num_write_ops,
        unmap_bytes_count=stat.bytes_unmapped,
        unmap_ops_count=stat.num_unmap_ops,
        read_latency_ticks=stat.read_latency_ticks,
        write_latency_ticks=stat.write_latency_ticks,
        unmap_latency_ticks=stat.unmap_latency_ticks,
    )
