"""One emulated target: the state of all families, and the dispatch of calls to them."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from . import accel, faults, framework, io, keyring, notifications, settings, vhost
from .accel import CryptoKeys
from .bdev import aio, crypto, malloc, null
from .bdev import rpc as bdev_rpc
from .bdev.crypto import CryptoModule
from .bdev.layer import BdevLayer
from .catalogue import ANY_STATE, METHOD_NAMES, STARTUP_ONLY
from .config import Configuration
from .faults import Activity, Faults
from .keyring import Keyring
from .notifications import Notifications
from .nvme import rpc as nvme_rpc
from .nvme import rpc_cmd, rpc_path
from .nvme.module import NvmeModule
from .nvmf import rpc_access, rpc_subsystem, rpc_transport
from .nvmf.target import NvmfTarget
from .options import EmulatorOptions
from .reactor import Reactor, Work
from .registry import INVALID_STATE, METHOD_NOT_FOUND, NOT_EMULATED, Method, RpcError
from .settings import Settings
from .vhost import Vhost

FAMILIES = (
    framework.methods,
    settings.methods,
    notifications.methods,
    keyring.methods,
    accel.methods,
    bdev_rpc.methods,
    malloc.methods,
    null.methods,
    aio.methods,
    crypto.methods,
    rpc_transport.methods,
    rpc_subsystem.methods,
    rpc_access.methods,
    vhost.methods,
    nvme_rpc.methods,
    rpc_path.methods,
    rpc_cmd.methods,
    faults.methods,
    io.methods,
)
METHODS: dict[str, Method] = {method.name: method for family in FAMILIES for method in family.methods}

TOO_EARLY = "Method may only be called after framework is initialized using framework_start_init RPC."
TOO_LATE = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter and then "
    "issue this RPC before the framework_start_init RPC."
)


class Target:
    """The state of one `spdk_tgt`."""

    def __init__(self, options: EmulatorOptions, configuration: Configuration) -> None:
        self.reactor = Reactor()
        self.notifications = Notifications()
        self.keyring = Keyring()
        self.crypto_keys = CryptoKeys()
        self.bdevs = BdevLayer(self.notifications, self.reactor)
        self.crypto = CryptoModule(self.bdevs, self.crypto_keys)
        self.nvmf = NvmfTarget(self.bdevs, self.keyring, self.reactor)
        self.nvme = NvmeModule(self.bdevs, self.keyring, self.spawn)
        self.vhost = Vhost(options.vhost_dir, self.bdevs)
        self.settings = Settings()
        self.faults = Faults()
        self.activity = Activity()
        self.malloc_count = 0
        self.log_levels = {"log_get_level": "NOTICE", "log_get_print_level": "NOTICE"}
        self.paused = False
        self.on_resume: Callable[[], None] = lambda: None
        self.on_failure: Callable[[Exception], None] = lambda error: None
        self._configuration = configuration
        self._running = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

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
        if not current:
            return list(METHOD_NAMES)
        if self.running:
            return [name for name in METHOD_NAMES if name not in STARTUP_ONLY]
        return [name for name in METHOD_NAMES if name in STARTUP_ONLY or name in ANY_STATE]

    def is_due(self, name: str) -> bool:
        """Whether a call of a configuration is to be made in the present state."""
        before_start = name in STARTUP_ONLY or name in ANY_STATE
        return before_start is not self.running

    def handle(self, name: str, params: Any) -> Any:
        """Starts a call: the result, or a Work or a coroutine of it. Raises RpcError."""
        method = METHODS.get(name)
        if method is None and name not in METHOD_NAMES:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        startup = name in STARTUP_ONLY or name in ANY_STATE if method is None else method.startup
        runtime = name not in STARTUP_ONLY if method is None else method.runtime
        if not (runtime if self.running else startup):
            raise RpcError(INVALID_STATE, TOO_LATE if self.running else TOO_EARLY)
        if method is None:
            raise RpcError(NOT_EMULATED, f"Operation not supported: {name} is not emulated")
        try:
            answer = method.call(self, params)
        except OSError as error:
            raise method.error(error) from None
        if isinstance(answer, Work):
            return Work(_completed(method, answer))
        return _completed(method, answer) if inspect.iscoroutine(answer) else method.result(answer)

    async def call(self, name: str, params: Any) -> Any:
        """A call from within: its result. Raises RpcError."""
        answer = self.handle(name, params)
        if isinstance(answer, Work):
            return await answer.outcome()
        return await answer if inspect.iscoroutine(answer) else answer

    async def close(self) -> None:
        """Lets go of everything outside the process: sockets, connections, tasks."""
        await self.nvme.close()
        self.nvmf.close()
        self.vhost.close()
        for task in list(self._tasks):
            task.cancel()


async def _completed(method: Method, work: Awaitable[Any]) -> Any:
    try:
        answer = await work
    except OSError as error:
        raise method.error(error) from None
    return method.result(answer)
