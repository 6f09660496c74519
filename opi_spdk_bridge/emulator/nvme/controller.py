"""One attached controller: its paths for failover, its connection, its namespaces (struct nvme_ctrlr)."""

import asyncio
import contextlib
from collections.abc import Coroutine
from errno import EALREADY, EBUSY, EINVAL, ENXIO, EPERM
from typing import Any, Protocol

from ..bdev.layer import BdevLayer
from ..fabric.trid import TransportId
from ..reactor import Work
from ..registry import errno_error
from .bdev import IoPath, NvmeBdev
from .connection import Connection, ControllerData, HostIdentity, connect, describe_trid
from .options import ControllerOptions

CONNECT_TIMEOUT_S = 10.0


class Group(Protocol):
    """The controllers of one name, to one of them (module.py)."""

    name: str
    bdevs: dict[int, NvmeBdev]

    def forget_soon(self, controller: "NvmeController") -> None: ...


class NvmeController:
    """A controller and where it can be reached; the first of `trids` is the one in use."""

    def __init__(
        self,
        trid: TransportId,
        host: HostIdentity,
        options: ControllerOptions,
        connection: Connection,
        bdevs: BdevLayer,
    ) -> None:
        self.trids = [trid]
        self.host = host
        self.options = options
        self.data: ControllerData = connection.data
        self.connection: Connection | None = connection
        self.state = "enabled"
        self.paths: dict[int, IoPath] = {}
        self.group: Group | None = None
        self._bdevs = bdevs
        self._recovery: asyncio.Task[None] | None = None

    @property
    def destructing(self) -> bool:
        return self.state == "deleting"

    def describe(self) -> dict[str, Any]:
        alternates = [describe_trid(trid) for trid in self.trids[1:]]
        return {
            "state": self.state,
            "trid": describe_trid(self.trids[0]),
            **({"alternate_trids": alternates} if alternates else {}),
            "cntlid": self.data.cntlid,
            "host": self.host.describe(),
        }

    # Namespaces

    def start(self, group: Group) -> None:
        """Joins a group and takes over the subsystem's namespaces."""
        self.group = group
        self._watch()

    def _watch(self) -> None:
        if self.connection is not None:
            self.data = self.connection.data
            self.connection.watch(self._update_namespaces, self._lost)
            self._update_namespaces()
            self.update_qpairs()

    def _update_namespaces(self) -> None:
        if self.connection is None or self.group is None or self.destructing:
            return
        present = {namespace.nsid: namespace for namespace in self.connection.namespaces}
        for nsid in [nsid for nsid in self.paths if nsid not in present]:
            self._drop_path(nsid)
        for nsid, namespace in sorted(present.items()):
            path = self.paths.get(nsid)
            if path is None:
                self._add_path(IoPath(self, namespace))
                continue
            path.namespace = namespace
            bdev = self.group.bdevs.get(nsid)
            if bdev is not None:
                with contextlib.suppress(OSError):
                    self._bdevs.resize(bdev, namespace.num_blocks)

    def _add_path(self, path: IoPath) -> None:
        """A namespace that is not the one which another path shows under this NSID, or whose UUID is taken, is left."""
        group = self.group
        if group is None:
            return
        nsid = path.namespace.nsid
        bdev = group.bdevs.get(nsid)
        if bdev is None:
            bdev = NvmeBdev(group.name, path.namespace, self.options.multipath_opts)
            bdev.add_path(path)
            try:
                self._bdevs.register(bdev)
            except OSError:
                return
            group.bdevs[nsid] = bdev
        elif bdev.paths and bdev.paths[0].namespace.identity() != path.namespace.identity():
            return
        else:
            bdev.add_path(path)
        self.paths[nsid] = path

    def _drop_path(self, nsid: int) -> Work[None] | None:
        """The removal of the bdev, when this was its last path."""
        path = self.paths.pop(nsid)
        bdev = self.group.bdevs.get(nsid) if self.group else None
        if bdev is None or self.group is None:
            return None
        bdev.paths.remove(path)
        if bdev.paths:
            return None
        del self.group.bdevs[nsid]
        bdev.examined.set()
        return self._bdevs.unregister_soon(bdev)

    def update_qpairs(self) -> None:
        """One I/O queue pair while any bdev of the controller has a channel."""
        if self.connection is not None and self.group is not None:
            busy = any(self.group.bdevs[nsid].channels for nsid in self.paths)
            self.connection.set_io_qpairs(int(busy))

    # Connection

    def _lost(self) -> None:
        self.connection = None
        if self.state == "enabled":
            self.state = "resetting"
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Tries every path once; with a reconnect delay again and again, until the controller counts as lost."""
        lost_at = asyncio.get_running_loop().time()
        if not await self._reconnect_any():
            await self._wait_and_recover(lost_at)

    async def _wait_and_recover(self, lost_at: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        options = self.options
        since = loop.time() if lost_at is None else lost_at
        while True:
            if options.ctrlr_loss_timeout_sec > 0 and loop.time() - since >= options.ctrlr_loss_timeout_sec:
                self._recovery = None
                if self.group is not None:
                    self.group.forget_soon(self)
                return
            if options.reconnect_delay_sec == 0:
                self.state = "failed"
                return
            self.state = "reconnect_is_delayed"
            await asyncio.sleep(options.reconnect_delay_sec)
            if await self._reconnect_any():
                return

    async def _reconnect_any(self) -> bool:
        for _ in range(len(self.trids)):
            if len(self.trids) > 1:
                self.trids.append(self.trids.pop(0))
            if await self._reconnect():
                return True
        return False

    async def _reconnect(self) -> bool:
        self.state = "resetting"
        try:
            self.connection = await connect(self.trids[0], self.host, CONNECT_TIMEOUT_S)
        except OSError:
            return False
        self.state = "enabled"
        self._watch()
        return True

    async def _disconnect(self) -> None:
        connection, self.connection = self.connection, None
        if self._recovery is not None:
            self._recovery.cancel()
            self._recovery = None
        if connection is not None:
            await connection.close()

    def reset(self) -> Coroutine[Any, Any, None]:
        """Raises OSError: EBUSY while a reset is under way, EALREADY when disabled; later EPERM when it fails."""
        self._check_operable()
        if self.state == "disabled":
            raise errno_error(EALREADY)
        self.state = "resetting"
        return self._reset()

    async def _reset(self) -> None:
        await self._disconnect()
        await self._reconnect_or_recover()

    async def _reconnect_or_recover(self) -> None:
        """Raises OSError EPERM when the first try fails; more may follow it."""
        if not await self._reconnect():
            self._recovery = asyncio.create_task(self._wait_and_recover())
            raise errno_error(EPERM)

    def enable(self) -> Coroutine[Any, Any, None]:
        """Raises OSError: EALREADY when not disabled; later EPERM when it fails."""
        self._check_operable()
        if self.state != "disabled":
            raise errno_error(EALREADY)
        self.state = "resetting"
        return self._reconnect_or_recover()

    def disable(self) -> Coroutine[Any, Any, None]:
        """Raises OSError EALREADY when disabled."""
        self._check_operable()
        if self.state == "disabled":
            raise errno_error(EALREADY)
        self.state = "disabled"
        return self._disconnect()

    def _check_operable(self) -> None:
        if self.destructing:
            raise errno_error(ENXIO)
        if self.state == "resetting":
            raise errno_error(EBUSY)

    # Paths for failover

    def add_alternate(self, trid: TransportId, connection: Connection) -> None:
        """Raises OSError: EALREADY for a path it has, EINVAL for one that shows other namespaces."""
        if any(trid.canonical() == known.canonical() for known in self.trids):
            raise errno_error(EALREADY)
        shown = {namespace.nsid: namespace.identity() for namespace in connection.namespaces}
        if any(shown.get(nsid) != path.namespace.identity() for nsid, path in self.paths.items()):
            raise errno_error(EINVAL)
        self.trids.append(trid)

    async def fail_over(self) -> None:
        """Leaves the path in use for what is now the first one."""
        await self._disconnect()
        if not await self._reconnect():
            self.state = "failed"

    def begin_destruct(self) -> None:
        self.state = "deleting"

    async def destruct(self) -> None:
        """Disconnects and takes the namespaces away; bdevs without another path go."""
        self.begin_destruct()
        await self._disconnect()
        removals = [self._drop_path(nsid) for nsid in list(self.paths)]
        await asyncio.gather(*(removal.outcome() for removal in removals if removal is not None))
