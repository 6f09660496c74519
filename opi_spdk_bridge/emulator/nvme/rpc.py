"""The bdev_nvme_* methods (module/bdev/nvme/bdev_nvme_rpc.c)."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields, replace
from errno import EALREADY, EINVAL, ENODEV, ENOKEY, EPERM
from typing import Any, Literal

from ..fabric.trid import ADRFAMS, TRADDR_LENGTH_MAX, TRSVCID_LENGTH_MAX, TRTYPE_LENGTH_MAX, TransportId
from ..keyring import Key, Keyring
from ..registry import (
    BDEV_FAILURE,
    ERRNO_FAILURE,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Failure,
    MethodTable,
    RpcError,
    errno_error,
)
from ..schema import I32, U16, U32, U64
from .bdev import FIRMWARE
from .connection import HostIdentity
from .controller import NvmeController
from .module import HOTPLUG_PERIOD_US_DEFAULT, ControllerGroup, NvmeModule
from .options import ControllerOptions, ModuleOptions, MultipathOptions, check_resiliency

methods = MethodTable[NvmeModule](BDEV_FAILURE)

NQN_LENGTH_MAX = 223
NAME_LENGTH_MAX = 511
IO_QUEUES_MAX = 65536
HOTPLUG_PERIOD_US_MAX = 10_000_000
TRTYPES = {"PCIE": "PCIe", "RDMA": "RDMA", "FC": "FC", "TCP": "TCP", "VFIOUSER": "VFIOUSER"}


@dataclass(frozen=True)
class Attach:
    name: str
    trtype: str
    traddr: str
    adrfam: str | None = None
    trsvcid: str | None = None
    priority: str | None = None
    subnqn: str | None = None
    hostnqn: str | None = None
    hostaddr: str | None = None
    hostsvcid: str | None = None
    prchk_reftag: bool = False
    prchk_guard: bool = False
    hdgst: bool = False
    ddgst: bool = False
    fabrics_connect_timeout_us: U64 = 500_000
    multipath: Literal["failover", "multipath", "disable"] = "multipath"
    num_io_queues: U32 = 1024
    ctrlr_loss_timeout_sec: I32 | None = None
    reconnect_delay_sec: U32 | None = None
    fast_io_fail_timeout_sec: U32 | None = None
    psk: str | None = None
    max_bdevs: U32 = 128
    dhchap_key: str | None = None
    dhchap_ctrlr_key: str | None = None
    allow_unrecognized_csi: bool = False
    multipath_opts: MultipathOptions | None = None
    disable_sq_flow_control: bool = False


@dataclass(frozen=True)
class Detach:
    name: str
    trtype: str | None = None
    traddr: str | None = None
    adrfam: str | None = None
    trsvcid: str | None = None
    subnqn: str | None = None
    hostaddr: str | None = None
    hostsvcid: str | None = None


@dataclass(frozen=True)
class OptionalName:
    name: str | None = None


@dataclass(frozen=True)
class NvmeName:
    name: str


@dataclass(frozen=True)
class NamedController:
    name: str
    cntlid: U16 = 0


@dataclass(frozen=True)
class SetHotplug:
    enable: bool
    period_us: U64 = 0


@dataclass(frozen=True)
class SetKeys:
    name: str
    dhchap_key: str | None = None
    dhchap_ctrlr_key: str | None = None


def _check_length(member: str, value: str | None, longest: int) -> str:
    if value is not None and len(value) > longest:
        raise RpcError(-EINVAL, f"{member} too long: {value}")
    return value or ""


def _trid(params: Attach | Detach) -> TransportId:
    """Raises RpcError for a member that is too long or an unknown address family."""
    trtype = params.trtype or ""
    if len(trtype) > TRTYPE_LENGTH_MAX:
        raise RpcError(-EINVAL, f"Failed to parse trtype: {trtype}")
    traddr = _check_length("traddr", params.traddr, TRADDR_LENGTH_MAX)
    adrfam = "" if params.adrfam is None else ADRFAMS.get(params.adrfam.lower())
    if adrfam is None:
        raise RpcError(-EINVAL, f"Failed to parse adrfam: {params.adrfam}")
    return TransportId(
        TRTYPES.get(trtype.upper(), "CUSTOM" if trtype else ""),
        traddr,
        adrfam,
        _check_length("trsvcid", params.trsvcid, TRSVCID_LENGTH_MAX),
        _check_length("subnqn", params.subnqn, NQN_LENGTH_MAX),
    )


@methods.rpc("bdev_nvme_attach_controller", Attach)
def attach_controller(module: NvmeModule, params: Attach) -> Coroutine[Any, Any, list[str]]:
    if params.max_bdevs == 0:
        raise RpcError(-EINVAL, "max_bdevs cannot be zero")
    trid = _trid(params)
    host = HostIdentity(
        _check_length("hostnqn", params.hostnqn, NQN_LENGTH_MAX) or module.default_hostnqn,
        module.hostid,
        _check_length("hostaddr", params.hostaddr, TRADDR_LENGTH_MAX),
        _check_length("hostsvcid", params.hostsvcid, TRSVCID_LENGTH_MAX),
    )
    group = module.groups.get(params.name)
    if group is not None:
        _check_join(group, params, trid, host)
    if not 0 < params.num_io_queues <= IO_QUEUES_MAX:
        raise RpcError(-EINVAL, f"num_io_queues out of bounds, min: 1 max: {IO_QUEUES_MAX}")
    if not 0 < len(params.name) <= NAME_LENGTH_MAX:
        raise errno_error(EINVAL)
    options = _controller_options(params, module.options, group)
    host = replace(
        host,
        psk=_get_key(module.keyring, params.psk),
        dhchap_key=_get_key(module.keyring, params.dhchap_key),
        dhchap_ctrlr_key=_get_key(module.keyring, params.dhchap_ctrlr_key),
    )
    return module.attach(params.name, trid, host, options, params.max_bdevs)


def _check_join(group: ControllerGroup, params: Attach, trid: TransportId, host: HostIdentity) -> None:
    """What a further path under a known name must share with the first one, and must not."""
    name, first = params.name, group.controllers[0]
    if params.multipath == "disable":
        raise RpcError(-EALREADY, f"A controller named {name} already exists and multipath is disabled")
    known = first.trids[0]
    if (trid.traddr, trid.trsvcid, host.addr, host.svcid) == (
        known.traddr,
        known.trsvcid,
        first.host.addr,
        first.host.svcid,
    ):
        raise RpcError(-EALREADY, f"A controller named {name} already exists with the specified network path")
    prefix = f"A controller named {name} already exists"
    if trid.subnqn != known.subnqn:
        raise RpcError(-EINVAL, f"{prefix}, but uses a different subnqn ({known.subnqn})")
    if host.nqn != first.host.nqn:
        raise RpcError(-EINVAL, f"{prefix}, but uses a different hostnqn ({first.host.nqn})")
    if params.prchk_reftag or params.prchk_guard:
        raise RpcError(-EINVAL, f"{prefix}. To add a path, do not specify PI options.")


def _controller_options(params: Attach, module: ModuleOptions, group: ControllerGroup | None) -> ControllerOptions:
    names = {option.name for option in fields(ControllerOptions)} & set(vars(params))
    given = {name: value for name, value in vars(params).items() if name in names and value is not None}
    inherited = {
        "ctrlr_loss_timeout_sec": module.ctrlr_loss_timeout_sec,
        "reconnect_delay_sec": module.reconnect_delay_sec,
        "fast_io_fail_timeout_sec": module.fast_io_fail_timeout_sec,
        "multipath_opts": module.multipath_opts,
    }
    if group is not None:
        first = group.controllers[0].options
        inherited |= {"prchk_reftag": first.prchk_reftag, "prchk_guard": first.prchk_guard}
    options = ControllerOptions(**{**inherited, **given, "multipath": params.multipath == "multipath"})
    check_resiliency(options.ctrlr_loss_timeout_sec, options.reconnect_delay_sec, options.fast_io_fail_timeout_sec)
    options.multipath_opts.check()
    return options


def _get_key(keyring: Keyring, name: str | None) -> Key | None:
    key = None if name is None else keyring.get(name)
    if name is not None and key is None:
        raise errno_error(ENOKEY)
    return key


@methods.rpc("bdev_nvme_detach_controller", Detach)
def detach_controller(module: NvmeModule, params: Detach) -> Coroutine[Any, Any, None]:
    wanted = _trid(params)
    _check_length("hostaddr", params.hostaddr, TRADDR_LENGTH_MAX)
    _check_length("hostsvcid", params.hostsvcid, TRSVCID_LENGTH_MAX)

    def matches(trid: TransportId, host: HostIdentity) -> bool:
        """Whatever is not given matches anything."""
        shape = replace(wanted.canonical(), adrfam=wanted.adrfam or trid.adrfam).canonical()
        known = trid.canonical()
        pairs = [(getattr(shape, member.name), getattr(known, member.name)) for member in fields(TransportId)]
        pairs += [(params.hostaddr, host.addr), (params.hostsvcid, host.svcid)]
        return all(not given or given == present for given, present in pairs)

    return module.detach(params.name, matches)


@methods.rpc("bdev_nvme_get_controllers", OptionalName)
def get_controllers(module: NvmeModule, params: OptionalName) -> list[dict[str, Any]]:
    groups = module.groups
    if params.name is None:
        return [group.describe() for group in groups.values()]
    if params.name not in groups:
        raise RpcError(-EINVAL, f"Controller {params.name} does not exist")
    return [groups[params.name].describe()]


def _operation(
    name: str, operation: Callable[[NvmeController], Coroutine[Any, Any, None]]
) -> Callable[[NvmeModule, NamedController], Coroutine[Any, Any, None]]:
    @methods.rpc(name, NamedController, failure=ERRNO_FAILURE)
    def operate(module: NvmeModule, params: NamedController) -> Coroutine[Any, Any, None]:
        controllers = module.group(params.name).controllers
        chosen = [controller for controller in controllers if params.cntlid in (0, controller.data.cntlid)]
        if not chosen:
            raise errno_error(ENODEV)
        return module.operate(chosen, operation)

    return operate


reset_controller = _operation("bdev_nvme_reset_controller", NvmeController.reset)
enable_controller = _operation("bdev_nvme_enable_controller", NvmeController.enable)
disable_controller = _operation("bdev_nvme_disable_controller", NvmeController.disable)


@methods.rpc("bdev_nvme_get_controller_health_info", NvmeName, failure=Failure(INTERNAL_ERROR, "Invalid parameters"))
def get_controller_health_info(module: NvmeModule, params: NvmeName) -> dict[str, Any]:
    group = module.groups.get(params.name)
    if group is None:
        raise RpcError(INTERNAL_ERROR, "Device not found")
    controller = group.controllers[0]
    counters = (
        "percentage_used",
        "data_units_read",
        "data_units_written",
        "host_read_commands",
        "host_write_commands",
        "controller_busy_time",
        "power_cycles",
        "power_on_hours",
        "unsafe_shutdowns",
        "media_errors",
        "num_err_log_entries",
        "warning_temperature_time_minutes",
        "critical_composite_temperature_time_minutes",
    )
    return {
        "model_number": controller.data.model_number,
        "serial_number": controller.data.serial_number,
        "firmware_revision": FIRMWARE,
        "traddr": controller.trids[0].traddr,
        "critical_warning": 0,
        "temperature_celsius": 2**64 - 273,
        "available_spare_percentage": 0,
        "available_spare_threshold_percentage": 0,
        **dict.fromkeys(counters, 0),
    }


@methods.partial("bdev_nvme_set_options", ModuleOptions)
def set_options(module: NvmeModule, given: dict[str, Any]) -> None:
    options = replace(module.options, **given)
    options.check()
    if module.groups:
        raise RpcError(-EPERM, "RPC not permitted with nvme controllers already attached")
    module.options = options


@methods.rpc("bdev_nvme_set_hotplug", SetHotplug, failure=ERRNO_FAILURE)
def set_hotplug(module: NvmeModule, params: SetHotplug) -> None:
    period_us = params.period_us or HOTPLUG_PERIOD_US_DEFAULT
    module.hotplug = (params.enable, min(period_us, HOTPLUG_PERIOD_US_MAX))


@methods.rpc("bdev_nvme_set_keys", SetKeys, failure=Failure(INVALID_PARAMS, BDEV_FAILURE.message))
def set_keys(module: NvmeModule, params: SetKeys) -> None:
    group = module.group(params.name)
    for controller in group.controllers:
        key, ctrlr_key = _get_key(module.keyring, params.dhchap_key), _get_key(module.keyring, params.dhchap_ctrlr_key)
        module.keyring.put(controller.host.dhchap_key)
        module.keyring.put(controller.host.dhchap_ctrlr_key)
        controller.host = replace(controller.host, dhchap_key=key, dhchap_ctrlr_key=ctrlr_key)


@methods.plain("bdev_nvme_get_discovery_info")
def get_discovery_info(module: NvmeModule) -> list[dict[str, Any]]:
    return []
