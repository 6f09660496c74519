"""One block device as the bdev layer sees it (struct spdk_bdev)."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..reactor import Signal
from .stat import IoStat, Kind

IO_TYPES = (
    "read",
    "write",
    "unmap",
    "flush",
    "reset",
    "nvme_admin",
    "nvme_io",
    "nvme_io_md",
    "write_zeroes",
    "zcopy",
    "get_zone_info",
    "zone_management",
    "zone_append",
    "compare",
    "compare_and_write",
    "abort",
    "seek_hole",
    "seek_data",
    "copy",
    "nvme_iov_md",
    "nvme_nssr",
    "write_uncorrectable",
)
ANY_NUMA_ID = -1
RATE_LIMITS = ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec")


class Status(Enum):
    READY = "ready"
    UNREGISTERING = "unregistering"
    REMOVING = "removing"


@dataclass(frozen=True)
class Metadata:
    """Metadata and protection information of each block."""

    size: int = 0
    interleave: bool = False
    dif_type: int = 0
    dif_is_head_of_md: bool = False
    dif_pi_format: int = 0

    def describe(self) -> dict[str, Any]:
        if not self.size:
            return {}
        info: dict[str, Any] = {"md_size": self.size, "md_interleave": self.interleave, "dif_type": self.dif_type}
        if self.dif_type:
            info["dif_is_head_of_md"] = self.dif_is_head_of_md
            info["enabled_dif_check_types"] = {
                "reftag": self.dif_type in (1, 2),
                "apptag": False,
                "guard": True,
            }
            info["dif_pi_format"] = self.dif_pi_format
        return info


@dataclass(frozen=True)
class Geometry:
    """What a bdev prefers, in blocks."""

    preferred_write_alignment: int = 0
    preferred_write_granularity: int = 0
    optimal_write_size: int = 0
    preferred_unmap_alignment: int = 0
    preferred_unmap_granularity: int = 0


@dataclass(eq=False)
class Descriptor:
    """An open bdev. `on_remove` is told when the bdev goes and must close the descriptor, sooner or later."""

    bdev: "Bdev"
    writable: bool
    on_remove: Callable[[], object]
    on_resize: Callable[[], object]


@dataclass
class Qos:
    """Rate limits (0: none), in I/Os and in MiB per second. Without a channel they are noted but not `running`."""

    limits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RATE_LIMITS, 0))
    running: bool = False


class Bdev:
    """A block device; modules derive from it. Mutable state belongs to the layer (layer.py)."""

    module = ""
    product_name = ""
    io_types: frozenset[str] = frozenset()
    memory_domains: tuple[str, ...] = ()
    examine_turns = 1
    """About how many turns pass until modules that look at a new device have read it."""
    destruct_turns = 0
    """How many turns a module takes to let go of a device."""

    def __init__(
        self,
        name: str,
        block_size: int,
        num_blocks: int,
        *,
        identity: str | None = None,
        numa_id: int | None = None,
        geometry: Geometry | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        self.name = name
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.uuid = identity or str(uuid.uuid4())
        self.numa_id = numa_id
        self.geometry = geometry or Geometry()
        self.metadata = metadata or Metadata()
        self.physical_block_size = block_size
        self.optimal_io_boundary = 0
        self.aliases: list[str] = []
        self.status = Status.READY
        self.descriptors: list[Descriptor] = []
        self.channels = 0
        self.app_channels = 0
        self.below: Bdev | None = None
        self.unused = Signal()
        self.idle = Signal()
        self.claimed_by: str | None = None
        self.qos: Qos | None = None
        self.qos_changing = False
        self.stat = IoStat()
        self.channel_stat = IoStat()
        self.queue_sampling_period_us = 0
        self.histogram: str | None = None

    def supports(self, io_type: str) -> bool:
        """What the layer can do for the module counts: zeroes can be written by any device that writes."""
        return io_type in self.io_types or (io_type == "write_zeroes" and "write" in self.io_types)

    def driver_specific(self) -> dict[str, Any]:
        return {}

    def device_stat(self) -> dict[str, Any] | None:
        """What the module adds to the counters, if it adds anything."""
        return None

    def config(self) -> dict[str, Any] | None:
        """The call that would create this device again, unless its module writes such calls itself."""
        return None

    def destruct(self) -> None:
        """Called once the device is out of the layer and nothing has it open."""

    def channel_opened(self) -> None:
        """Called when the first channel to this device is opened."""

    def channel_closed(self) -> None:
        """Called when the last channel to this device is closed."""

    def total_stat(self) -> IoStat:
        total = IoStat()
        total.add(self.stat)
        total.add(self.channel_stat)
        return total

    def record(self, kind: Kind, ops: int, size_bytes: int, latency_ticks: int) -> None:
        """Counts I/O on this device and on what is below it."""
        stat = self.channel_stat if self.channels else self.stat
        stat.kinds[kind].record(ops, size_bytes, latency_ticks)

    def record_failures(self, count: int) -> None:
        """Counts I/O that failed on this device and on what is below it."""
        stat = self.channel_stat if self.channels else self.stat
        stat.fail("failed", count)

    async def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from byte `offset` on."""
        return bytes(length)

    async def write(self, offset: int, content: bytes) -> None:
        """Writes bytes; a device that keeps none forgets them."""

    def describe(self) -> dict[str, Any]:
        """The answer of bdev_get_bdevs for this device."""
        limits = self.qos.limits if self.qos else dict.fromkeys(RATE_LIMITS, 0)
        claim = {} if self.claimed_by is None else {"claim_type": "exclusive_write"}
        domains = [{"dma_device_type": domain} for domain in self.memory_domains]
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "product_name": self.product_name,
            "block_size": self.block_size,
            "num_blocks": self.num_blocks,
            **vars(self.geometry),
            "uuid": self.uuid,
            **({} if self.numa_id is None else {"numa_id": self.numa_id}),
            **self.metadata.describe(),
            "assigned_rate_limits": dict(limits),
            "claimed": self.claimed_by is not None,
            **claim,
            "zoned": False,
            "supported_io_types": {io_type: self.supports(io_type) for io_type in IO_TYPES},
            **({"memory_domains": domains} if domains else {}),
            "driver_specific": self.driver_specific(),
        }
