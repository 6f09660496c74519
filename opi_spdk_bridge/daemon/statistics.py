"""What metrics and the page read from the target, in bounded answers: counters of volumes, states of paths."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain

from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.record import AnyRecord
from opi_spdk_bridge.core.registry import Registry
from opi_spdk_bridge.core.samples import TargetSample, VolumeSample
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import IoStat, IoStats
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.targets.spdk.base import counters

_IN_FLIGHT = 2  # such calls: the target makes one answer while the last is read
_AT_ONCE = 1000  # bdevs in one call: about 700 bytes each in its answer


class Statistics:
    """Reads them all. Raises Unavailable while the target is away."""

    def __init__(self, target: Target, catalog: Catalog, registry: Registry) -> None:
        self._target = target
        self._catalog = catalog
        self._registry = registry

    async def read(self) -> TargetSample:
        """One reading."""
        await self._target.ready()
        labels = self._labels()
        names = list(labels)
        window = asyncio.Semaphore(_IN_FLIGHT)

        async def read(names: Sequence[str]) -> list[VolumeSample]:
            async with window:
                stats = await self._iostat(names)
                return [_sample(stat, stats.tick_rate, labels[stat.name]) for stat in stats.bdevs]

        parts = (read(names[start : start + _AT_ONCE]) for start in range(0, len(names), _AT_ONCE))
        return TargetSample([*chain.from_iterable(await asyncio.gather(*parts))], await self._paths())

    async def counters(self, records: Iterable[AnyRecord]) -> dict[str, Counters]:
        """The counters of the bdev behind each record, by the record's name, of 1,000 bdevs at most.

        One call, where the target's release has that.
        """
        await self._target.ready()
        bdevs = {record.name: bdev for record in records if (bdev := self._bdev(record))}
        asked = list(dict.fromkeys(bdevs.values()))[:_AT_ONCE]
        stats = await self._iostat(asked) if asked else IoStats(tick_rate=1)
        found = {stat.name: counters(stat) for stat in stats.bdevs}
        return {name: found[bdev] for name, bdev in bdevs.items() if bdev in found}

    def _bdev(self, record: AnyRecord) -> str:
        return self._registry[record.kind].side.bdev(record)

    def _labels(self) -> dict[str, tuple[str, str, str]]:
        """Name, kind and NQN of each bdev that the bridge has or uses."""
        owners: dict[str, AnyRecord] = {}
        used: dict[str, str] = {}
        for record in self._catalog:
            bdev = self._bdev(record)
            if not bdev:
                continue
            if any(holder is record for holder in self._catalog.holders(f"bdev:{bdev}")):
                owners[bdev] = record
            else:
                used[bdev] = self._registry[record.kind].kind.nqn(record) or used.get(bdev, "")
        labels = {bdev: (record.name, record.kind, used.get(bdev, "")) for bdev, record in owners.items()}
        return labels | {bdev: (bdev, "bdev", nqn) for bdev, nqn in used.items() if bdev not in labels}

    async def _iostat(self, names: Sequence[str]) -> IoStats:
        """The counters of those of the bdevs that exist: one that does not fails a whole call, which is then halved."""
        if len(names) > 1 and not self._target.release.iostat_takes_many:
            return _merged(await asyncio.gather(*(self._iostat([name]) for name in names)))
        try:
            return await self._target.client.call(methods.bdev_get_iostats(self._target.release, names))
        except SpdkError as error:
            if len(names) == 1 or not error.gone:
                return IoStats(tick_rate=1)
        half = len(names) // 2
        return _merged([await self._iostat(names[:half]), await self._iostat(names[half:])])

    async def _paths(self) -> dict[str, str]:
        view, records = self._target.snapshot(), list(self._catalog)
        asked = (self._registry[record.kind].side.connection_state(record, view) for record in records)
        states = await asyncio.gather(*asked)  # pipelined
        return {record.name: state for record, state in zip(records, states, strict=True) if state is not None}


def _merged(parts: Sequence[IoStats]) -> IoStats:
    rate = max((part.tick_rate for part in parts), default=1)
    return IoStats(tick_rate=rate, bdevs=tuple(stat for part in parts for stat in part.bdevs))


def _sample(stat: IoStat, tick_rate: int, labels: tuple[str, str, str]) -> VolumeSample:
    ticks = {"read": stat.read_latency_ticks, "write": stat.write_latency_ticks, "unmap": stat.unmap_latency_ticks}
    return VolumeSample(
        *labels,
        size_bytes={"read": stat.bytes_read, "write": stat.bytes_written, "unmap": stat.bytes_unmapped},
        operations={"read": stat.num_read_ops, "write": stat.num_write_ops, "unmap": stat.num_unmap_ops},
        latency_s={operation: count / tick_rate for operation, count in ticks.items()},
        failures=dict(_failures(stat)),
    )


def _failures(stat: IoStat) -> list[tuple[str, int]]:
    return [(status, count) for status, count in stat.io_error.items() if isinstance(count, int)]
