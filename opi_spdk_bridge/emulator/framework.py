"""The framework's methods (lib/rpc, lib/init, lib/event): versions, start-up, configuration, logging."""

import os
import signal
from collections.abc import Coroutine
from dataclasses import dataclass
from errno import EINVAL
from typing import TYPE_CHECKING, Any, Literal

from .bdev.stat import TICKS_PER_SECOND
from .config import SUBSYSTEMS, WITHOUT_CONFIG, flatten, subsystem_config
from .cpumask import CORE_MASK
from .registry import INTERNAL_ERROR, INVALID_PARAMS, NULL, NVMF_FAILURE, Failure, MethodTable, RpcError

if TYPE_CHECKING:
    from .target import Target

methods = MethodTable(NVMF_FAILURE)

VERSION = {"version": "SPDK v26.09-pre", "fields": {"major": 26, "minor": 9, "patch": 0, "suffix": "-pre"}}
LogLevel = Literal["ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"]


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


@methods.plain("spdk_get_version", "spdk_get_version method requires no parameters", startup=True)
def get_version(target: "Target") -> dict[str, Any]:
    return VERSION


@methods.rpc("rpc_get_methods", GetMethods, startup=True)
def get_methods(target: "Target", params: GetMethods) -> list[str]:
    return target.method_names(current=params.current)


@methods.plain("framework_start_init", "framework_start_init requires no parameters", startup=True, runtime=False)
async def start_init(target: "Target") -> None:
    """A configuration that fails ends the target."""
    try:
        await target.start()
    except ValueError as error:
        target.on_failure(error)
        raise RpcError(INTERNAL_ERROR, "framework_initialization failed") from None


@methods.plain("framework_wait_init", startup=True)
def wait_init(target: "Target") -> Coroutine[Any, Any, None] | None:
    return None if target.running else target.wait_until_running()


@methods.plain("framework_get_subsystems", "'framework_get_subsystems' requires no arguments")
def get_subsystems(target: "Target") -> list[dict[str, Any]]:
    return [{"subsystem": name, "depends_on": list(needs)} for name, needs in SUBSYSTEMS.items()]


@methods.rpc("framework_get_config", GetConfig, failure=Failure(INVALID_PARAMS, "Invalid arguments"))
def get_config(target: "Target", params: GetConfig) -> Any:
    if params.name not in SUBSYSTEMS:
        raise RpcError(INVALID_PARAMS, f"Subsystem '{params.name}' not found")
    if params.name in WITHOUT_CONFIG:
        return NULL
    config = subsystem_config(target, params.name)
    return config if params.with_batches else flatten(config)


@methods.plain("framework_get_reactors")
def get_reactors(target: "Target") -> dict[str, Any]:
    core = CORE_MASK.bit_length() - 1
    thread = {"name": "app_thread", "id": 1, "cpumask": f"{CORE_MASK:x}", "elapsed": 0}
    reactor = {"lcore": core, "tid": os.getpid(), "busy": 0, "idle": 0, "in_interrupt": False, "irq": 0, "sys": 0}
    return {
        "tick_rate": TICKS_PER_SECOND,
        "pid": os.getpid(),
        "reactors": [{**reactor, "lw_threads": [thread]}],
    }


@methods.rpc("spdk_kill_instance", KillInstance)
def kill_instance(target: "Target", params: KillInstance) -> None:
    os.kill(os.getpid(), getattr(signal, params.sig_name))


def _level_methods(getter: str, setter: str) -> None:
    """The level of the log and that of what is printed."""

    @methods.plain(getter, f"{getter} requires no parameters", startup=True)
    def get_level(target: "Target") -> str:
        return target.log_levels[getter]

    @methods.rpc(setter, SetLevel, failure=Failure(INVALID_PARAMS, os.strerror(EINVAL)), startup=True)
    def set_level(target: "Target", params: SetLevel) -> None:
        target.log_levels[getter] = params.level


_level_methods("log_get_level", "log_set_level")
_level_methods("log_get_print_level", "log_set_print_level")
