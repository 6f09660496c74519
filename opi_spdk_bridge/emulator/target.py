"""One emulated target: the state of all families, and the layers that a call passes on its way to them."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from . import accel, activity, faults, framework, io, keyring, notifications, settings, vhost
from .accel import CryptoKeys
from .activity import Activity
from .bdev import aio, crypto, malloc, null
from .bdev import rpc as bdev_rpc
from .bdev.crypto import CryptoModule
from .bdev.layer import BdevLayer
from .bdev.malloc import MallocModule
from .catalogue import SPDK_26_09
from .config import subsystem_config
from .dispatch import answering, layered, outcome
from .faults import Faults
from .keyring import Keyring
from .notifications import Notifications
from .nvme import rpc as nvme_rpc
from .nvme import rpc_cmd, rpc_path
from .nvme.module import NvmeModule
from .nvmf import rpc_access, rpc_subsystem, rpc_transport
from .nvmf.target import NvmfTarget
from .options import EmulatorOptions
from .reactor import Reactor
from .registry import NOT_EMULATED, Method, RpcError
from .settings import Settings
from .startup import Configuration
from .vhost import Vhost


class Target:
    """The state of one `spdk_tgt`.

    `handle` starts a call that a client makes (dispatch.Handler).
    """

    def __init__(self, options: EmulatorOptions, configuration: Configuration) -> None:
        self.reactor = Reactor()
        self.notifications = Notifications()
        self.keyring = Keyring()
        self.crypto_keys = CryptoKeys()
        self.bdevs = BdevLayer(self.notifications, self.reactor)
        self.malloc = MallocModule(self.bdevs)
        self.crypto = CryptoModule(self.bdevs, self.crypto_keys)
        self.nvmf = NvmfTarget(self.bdevs, self.keyring, self.reactor)
        self.nvme = NvmeModule(self.bdevs, self.keyring, self.spawn)
        self.vhost = Vhost(options.vhost_dir, self.bdevs)
        self.settings = Settings()
        self.faults = Faults()
        self.activity = Activity()
        self.log_levels = {"log_get_level": "NOTICE", "log_get_print_level": "NOTICE"}
        self.paused = False
        self.on_resume: Callable[[], None] = lambda: None
        self.on_failure: Callable[[Exception], None] = lambda error: None
        self._configuration = configuration
        self._running = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        catalogue = SPDK_26_09.layer(lambda: self.running)
        core = layered(catalogue, answering(*self._families()), below=_not_emulated)
        own = (faults.methods.of(self.faults), activity.methods.of(self.activity), io.methods.of(self.bdevs))
        self._handle_within = layered(answering(*own), below=core)
        self.handle = layered(self.activity.layer, self.faults.layer, below=self._handle_within)

    def _families(self) -> Iterator[list[Method]]:
        """The methods of a real target, each family on its own state."""
        yield framework.methods.of(self)
        yield settings.methods.of(self.settings)
        yield notifications.methods.of(self.notifications)
        yield keyring.methods.of(self.keyring)
        yield accel.methods.of(self.crypto_keys)
        yield bdev_rpc.methods.of(self.bdevs)
        yield malloc.methods.of(self.malloc)
        yield null.methods.of(self.bdevs)
        yield aio.methods.of(self.bdevs)
        yield crypto.methods.of(self.crypto)
        yield rpc_transport.methods.of(self.nvmf)
        yield rpc_subsystem.methods.of(self.nvmf)
        yield rpc_access.methods.of(self.nvmf)
        yield nvme_rpc.methods.of(self.nvme)
        yield rpc_path.methods.of(self.nvme)
        yield rpc_cmd.methods.of(self.nvme)
        yield vhost.methods.of(self.vhost)

    @property
    def running(self) -> bool:
        """Whether the framework is initialized: past the state that --wait-for-rpc keeps the target in."""
        return self._running.is_set()

    async def prepare(self) -> None:
        """Executes the part of the configuration that comes before the start. Raises ValueError."""
        await self._configuration.execute(self)

    async def start(self) -> None:
        """Initializes the framework and executes the rest of the configuration. Raises ValueError.

        While that goes on the sockets are not looked at (spdk_rpc_server_pause).
        """
        self._running.set()
        self.paused = True
        try:
            await self._configuration.execute(self)
        finally:
            self.paused = False
            self.on_resume()

    async def wait_until_running(self) -> None:
        await self._running.wait()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Has work done in the turns to come, without waiting for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def method_names(self, *, current: bool) -> list[str]:
        """What rpc_get_methods lists; `current`: only what may be called now."""
        names = SPDK_26_09.names
        return [name for name in names if not current or SPDK_26_09.permits(name, running=self.running)]

    def is_due(self, name: str) -> bool:
        """Whether a call of a configuration is to be made in the present state."""
        return SPDK_26_09.is_due(name, running=self.running)

    async def call(self, name: str, params: Any) -> Any:
        """A call from within, which is not counted and no fault strikes: its result. Raises RpcError."""
        return await outcome(self._handle_within(name, params))

    def config(self, subsystem: str) -> list[Any]:
        """The calls that make a subsystem what it is; a list among them is a batch."""
        return subsystem_config(self, subsystem)

    async def close(self) -> None:
        """Lets go of everything outside the process: sockets, connections, tasks."""
        await self.nvme.close()
        self.nvmf.close()
        self.vhost.close()
        for task in list(self._tasks):
            task.cancel()


def _not_emulated(name: str, params: Any) -> Any:
    raise RpcError(NOT_EMULATED, f"Operation not supported: {name} is not emulated")
