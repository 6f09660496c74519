"""A namespace of another target as a bdev, over one or several paths."""

import asyncio
from dataclasses import dataclass, field
from errno import EIO
from typing import Any, Protocol

from ..bdev.device import ANY_NUMA_ID, Bdev, Geometry
from ..bdev.stat import IoStat, Kind
from ..fabric.trid import TransportId
from ..registry import errno_error
from .connection import Connection, ControllerData, HostIdentity, RemoteNamespace, describe_trid
from .options import MultipathOptions

OPTIMAL_WRITE_BYTES = 131072
VENDOR_ID = "0x8086"
FIRMWARE = "26.09"


class Controller(Protocol):
    """What a path needs to know of the controller that it leads over (controller.py)."""

    trids: list[TransportId]
    host: HostIdentity
    data: ControllerData
    connection: Connection | None

    def update_qpairs(self) -> None: ...


@dataclass(eq=False)
class IoPath:
    """A namespace as one controller sees it."""

    controller: Controller
    namespace: RemoteNamespace
    stat: IoStat = field(default_factory=IoStat)

    @property
    def connected(self) -> bool:
        """Whether I/O passes: one source port (`svcid`) lets the admin queue through, and no I/O queue after it."""
        return self.controller.connection is not None and not self.controller.host.svcid

    def describe(self) -> dict[str, Any]:
        """What bdev_get_bdevs shows of it."""
        controller = self.controller
        data = controller.data
        state = {"ana_state": self.namespace.ana_state} if data.ana_reporting else {}
        return {
            "trid": describe_trid(controller.trids[0]),
            "ctrlr_data": {
                "cntlid": data.cntlid,
                "vendor_id": VENDOR_ID,
                "model_number": data.model_number,
                "serial_number": data.serial_number,
                "firmware_revision": FIRMWARE,
                "subnqn": controller.trids[0].subnqn,
                "oacs": {"security": 0, "format": 0, "firmware": 0, "ns_manage": 0},
                "multi_ctrlr": True,
                "ana_reporting": data.ana_reporting,
            },
            "vs": {"nvme_version": "2.0"},
            "ns_data": {"id": self.namespace.nsid, **state, "can_share": True},
        }


class NvmeBdev(Bdev):
    """Named `<controller>n<NSID>`; its UUID is the namespace's NGUID."""

    module = "nvme"
    product_name = "NVMe disk"
    memory_domains = ("DMA",)

    def __init__(self, controller_name: str, namespace: RemoteNamespace, multipath: MultipathOptions) -> None:
        nguid = namespace.nguid
        super().__init__(
            f"{controller_name}n{namespace.nsid}",
            namespace.block_size,
            namespace.num_blocks,
            identity=f"{nguid[:8]}-{nguid[8:12]}-{nguid[12:16]}-{nguid[16:20]}-{nguid[20:]}",
            numa_id=ANY_NUMA_ID,
            geometry=Geometry(1, 1, OPTIMAL_WRITE_BYTES // namespace.block_size, 1, 1),
        )
        self.nsid = namespace.nsid
        self.paths: list[IoPath] = []
        self.examined = asyncio.Event()
        """Set once I/O can pass, so that the partition table is read; or when the bdev goes."""
        self.multipath = multipath
        unmap = {"unmap"} if namespace.unmap else set()
        self.io_types = frozenset(
            {"read", "write", "flush", "reset", "nvme_admin", "nvme_io", "write_zeroes", "compare"}
            | {"compare_and_write", "abort", "copy"}
            | unmap
        )

    def driver_specific(self) -> dict[str, Any]:
        info: dict[str, Any] = {"nvme": [path.describe() for path in self.paths], "mp_policy": self.multipath.policy}
        if self.multipath.policy == "active_active":
            info["selector"] = self.multipath.selector
            if self.multipath.selector == "round_robin":
                info["rr_min_io"] = self.multipath.min_io
        return info

    def device_stat(self) -> dict[str, Any]:
        return {}

    def current_path(self) -> IoPath | None:
        """The path I/O takes: connected, and optimized rather than not."""
        usable = [path for path in self.paths if path.connected and path.namespace.ana_state != "inaccessible"]
        optimized = [path for path in usable if path.namespace.ana_state == "optimized"]
        return next(iter(optimized or usable), None)

    def add_path(self, path: IoPath) -> None:
        self.paths.append(path)
        if path.connected:
            self.examined.set()

    def channel_opened(self) -> None:
        for path in self.paths:
            path.controller.update_qpairs()

    def channel_closed(self) -> None:
        self.channel_opened()

    def record(self, kind: Kind, ops: int, size_bytes: int, latency_ticks: int) -> None:
        super().record(kind, ops, size_bytes, latency_ticks)
        path = self.current_path()
        if path is not None and path.controller.connection is not None:
            path.stat.kinds[kind].record(ops, size_bytes, latency_ticks)
            path.controller.connection.account(self.nsid, kind, ops, size_bytes, latency_ticks)

    async def read(self, offset: int, length: int) -> bytes:
        return await self._connection().read(self.nsid, offset, length)

    async def write(self, offset: int, content: bytes) -> None:
        await self._connection().write(self.nsid, offset, content)

    def _connection(self) -> Connection:
        path = self.current_path()
        if path is None or path.controller.connection is None:
            raise errno_error(EIO)
        return path.controller.connection
