"""The framework's methods (lib/rpc, lib/init, lib/event): versions, start-up, configuration, logging."""

import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from errno import EINVAL
from typing import Any, Literal, Protocol

from .bdev.stat import TICKS_PER_SECOND
from .cpumask import CORE_MASK
from .registry import INTERNAL_ERROR, INVALID_PARAMS, NULL, NVMF_FAILURE, Failure, MethodTable, RpcError

methods = MethodTable["Framework"](NVMF_FAILURE)

VERSION = {"version": "SPDK v26.09-pre", "fields": {"major": 26, "minor": 9, "patch": 0, "suffix": "-pre"}}
SUBSYSTEMS: dict[str, tuple[str, ...]] = {
    "scheduler": (),
    "fsdev": (),
    "vmd": (),
    "keyring": (),
    "iobuf": (),
    "sock": (),
    "accel": ("iobuf",),
    "bdev": ("accel", "keyring", "vmd", "sock", "iobuf"),
    "scsi": ("bdev",),
    "nbd": ("bdev",),
    "nvmf": ("bdev", "keyring", "sock", "accel", "iobuf"),
    "iscsi": ("scsi", "sock"),
    "vfio_user_target": ("bdev", "scsi", "fsdev"),
    "vhost_blk": ("bdev",),
    "vhost_scsi": ("scsi",),
}
"""The subsystems of spdk_tgt with what each needs, in an order in which they can start."""

WITHOUT_CONFIG = frozenset({"scsi"})
"""The subsystems that answer null when asked for their configuration."""

LogLevel = Literal["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"]


class Framework(Protocol):
    """The target as a whole: what it lists, its start, its configuration, its log."""

    log_levels: dict[str, str]
    """What log_get_level and log_get_print_level answer, by method."""
    on_failure: Callable[[Exception], None]
    """Told of a start that failed, which is the end of the target."""

    @property
    def running(self) -> bool: ...

    async def start(self) -> None: ...

    async def wait_until_running(self) -> None: ...

    def method_names(self, *, current: bool) -> list[str]: ...

    def config(self, subsystem: str) -> list[Any]: ...


@dataclass(frozen=True)
class GetMethods:
    current: bool = False
    include_aliases: bool = False


@dataclass(frozen=True)
class GetConfig:
    name: str
    with_batches: bool = False


@dataclass(frozen=True)
class SetLevel:
    level: LogLevel


@dataclass(frozen=True)
class KillInstance:
    sig_name: Literal["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"]


@methods.plain("spdk_get_version", "spdk_get_version method requires no parameters")
def get_version(target: Framework) -> dict[str, Any]:
    return VERSION


@methods.rpc("rpc_get_methods", GetMethods)
def get_methods(target: Framework, params: GetMethods) -> list[str]:
    return target.method_names(current=params.current)


@methods.plain("framework_start_init", "framework_start_init requires no parameters")
async def start_init(target: Framework) -> None:
    """A configuration that fails ends the target."""
    try:
        await target.start()
    except ValueError as error:
        target.on_failure(error)
        raise RpcError(INTERNAL_ERROR, "framework_initialization failed") from None


@methods.plain("framework_wait_init")
def wait_init(target: Framework) -> Coroutine[Any, Any, None] | None:
    return None if target.running else target.wait_until_running()


@methods.plain("framework_get_subsystems", "'framework_get_subsystems' requires no arguments")
def get_subsystems(target: Framework) -> list[dict[str, Any]]:
    return [{"subsystem": name, "depends_on": list(needs)} for name, needs in SUBSYSTEMS.items()]


@methods.rpc("framework_get_config", GetConfig, failure=Failure(INVALID_PARAMS, "Invalid arguments"))
def get_config(target: Framework, params: GetConfig) -> Any:
    if params.name not in SUBSYSTEMS:
        raise RpcError(INVALID_PARAMS, f"Subsystem '{params.name}' not found")
    if params.name in WITHOUT_CONFIG:
        return NULL
    config = target.config(params.name)
    return config if params.with_batches else _flatten(config)


def _flatten(config: list[Any]) -> list[Any]:
    """The calls one after another, without batches."""
    return [call for entry in config for call in (entry if isinstance(entry, list) else [entry])]


@methods.plain("framework_get_reactors")
def get_reactors(target: Framework) -> dict[str, Any]:
    core = CORE_MASK.bit_length() - 1
    thread = {"name": "app_thread", "id": 1, "cpumask": f"{CORE_MASK:x}", "elapsed": 0}
    reactor = {"lcore": core, "tid": os.getpid(), "busy": 0, "idle": 0, "in_interrupt": False, "irq": 0, "sys": 0}
    return {
        "tick_rate": TICKS_PER_SECOND,
        "pid": os.getpid(),
        "reactors": [{**reactor, "lw_threads": [thread]}],
    }


@methods.rpc("spdk_kill_instance", KillInstance)
def kill_instance(target: Framework, params: KillInstance) -> None:
    os.kill(os.getpid(), getattr(signal, params.sig_name))


def _level_methods(getter: str, setter: str) -> None:
    """The level of the log and that of what is printed."""

    @methods.plain(getter, f"{getter} requires no parameters")
    def get_level(target: Framework) -> str:
        return target.log_levels[getter]

    @methods.rpc(setter, SetLevel, failure=Failure(INVALID_PARAMS, os.strerror(EINVAL)))
    def set_level(target: Framework, params: SetLevel) -> None:
        target.log_levels[getter] = params.level


_level_methods("log_get_level", "log_set_level")
_level_methods("log_get_print_level", "log_set_print_level")
