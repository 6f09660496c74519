"""I/O counters of a bdev (struct spdk_bdev_io_stat)."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

TICKS_PER_SECOND = 2_600_000_000

Kind = Literal["read", "write", "unmap", "copy"]
ResetMode = Literal["all", "maxmin", "error", "none"]
KINDS: tuple[Kind, ...] = ("read", "write", "unmap", "copy")

_BYTES = {"read": "bytes_read", "write": "bytes_written", "unmap": "bytes_unmapped", "copy": "bytes_copied"}


def ticks() -> int:
    return time.monotonic_ns() * (TICKS_PER_SECOND // 100_000_000) // 10


@dataclass
class KindStat:
    """The counters of one kind of I/O; latencies in ticks, `fastest` None when there was no I/O."""

    size_bytes: int = 0
    ops: int = 0
    latency_ticks: int = 0
    slowest_ticks: int = 0
    fastest_ticks: int | None = None

    def record(self, ops: int, size_bytes: int, latency_ticks: int) -> None:
        """Counts `ops` I/Os of `size_bytes` in all that took `latency_ticks` each."""
        if not ops:
            return
        self.ops += ops
        self.size_bytes += size_bytes
        self.latency_ticks += ops * latency_ticks
        self.slowest_ticks = max(self.slowest_ticks, latency_ticks)
        self.fastest_ticks = latency_ticks if self.fastest_ticks is None else min(self.fastest_ticks, latency_ticks)

    def add(self, other: "KindStat") -> None:
        self.size_bytes += other.size_bytes
        self.ops += other.ops
        self.latency_ticks += other.latency_ticks
        self.slowest_ticks = max(self.slowest_ticks, other.slowest_ticks)
        known = [value for value in (self.fastest_ticks, other.fastest_ticks) if value is not None]
        self.fastest_ticks = min(known) if known else None


@dataclass
class IoStat:
    """The counters of one bdev, or of one channel to it."""

    kinds: dict[Kind, KindStat] = field(default_factory=lambda: {kind: KindStat() for kind in KINDS})
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: "IoStat") -> None:
        for kind, stat in self.kinds.items():
            stat.add(other.kinds[kind])
        for status, count in other.errors.items():
            self.fail(status, count)

    def fail(self, status: str, count: int) -> None:
        """Counts `count` I/Os that ended in a status (bdev_io_status_strings); those that never occurred are absent."""
        if count:
            self.errors[status] = self.errors.get(status, 0) + count

    def reset(self, mode: ResetMode) -> None:
        if mode == "all":
            self.kinds = {kind: KindStat() for kind in KINDS}
        elif mode == "maxmin":
            for stat in self.kinds.values():
                stat.slowest_ticks, stat.fastest_ticks = 0, None
        if mode in ("all", "error"):
            self.errors.clear()

    def describe(self) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for kind, stat in self.kinds.items():
            info[_BYTES[kind]] = stat.size_bytes
            info[f"num_{kind}_ops"] = stat.ops
        for kind, stat in self.kinds.items():
            info[f"{kind}_latency_ticks"] = stat.latency_ticks
            info[f"max_{kind}_latency_ticks"] = stat.slowest_ticks
            info[f"min_{kind}_latency_ticks"] = stat.fastest_ticks or 0
        info["io_error"] = dict(self.errors)
        return info
