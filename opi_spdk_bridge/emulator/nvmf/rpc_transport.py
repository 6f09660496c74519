"""The methods of the target as a whole: transports, statistics, start-up options."""

from dataclasses import dataclass, fields, replace
from errno import ENODEV
from typing import Any

from ..bdev.stat import TICKS_PER_SECOND
from ..reactor import POLL_GROUP, Work
from ..registry import INTERNAL_ERROR, INVALID_PARAMS, NVMF_FAILURE, MethodTable, RpcError, errno_error
from ..schema import I32, U16, U32
from .target import NAME, NvmfTarget
from .transport import AQ_DEPTH_MIN, DEFAULTS, KEEP_ALIVE_UNIT_MS, MAX_IO_SIZE_MIN, TransportOptions

methods = MethodTable[NvmfTarget](NVMF_FAILURE)

SOCK_PRIORITY_MAX = 16
LARGE_BUFFER_BYTES = 132 * 1024
SGL_ENTRIES_MAX = 16
QPAIRS_MAX = 2**16 - 2
VFIO_USER_QPAIRS_MAX = 511
TCP_AQ_DEPTHS = range(2, 4097)


@dataclass(frozen=True)
class CreateTransport:
    trtype: str
    tgt_name: str = NAME
    max_queue_depth: U16 = 0
    max_io_qpairs_per_ctrlr: U16 = 0
    in_capsule_data_size: U32 = 0
    max_io_size: U32 = 0
    io_unit_size: U32 = 0
    max_aq_depth: U32 = 0
    num_shared_buffers: U32 = 0
    buf_cache_size: U32 = 0
    iobuf_small_cache_size: U32 = 0
    iobuf_large_cache_size: U32 = 0
    zcopy: bool = False
    num_cqe: I32 = 0
    max_srq_depth: U32 = 0
    no_srq: bool = False
    c2h_success: bool = True
    dif_insert_or_strip: bool = False
    sock_priority: U32 = 0
    acceptor_backlog: I32 = 0
    abort_timeout_sec: U32 = 0
    no_wr_batching: bool = False
    control_msg_num: U16 = 0
    disable_mappable_bar0: bool = False
    disable_adaptive_irq: bool = False
    disable_shadow_doorbells: bool = False
    acceptor_poll_rate: U32 = 0
    ack_timeout: U32 = 0
    data_wr_pool_size: U32 = 0
    disable_command_passthru: bool = False
    kas: U16 = 0
    min_kato: U32 = 0
    masked_oncs: object = None
    masked_fuses: object = None


@dataclass(frozen=True)
class GetTransports:
    tgt_name: str | None = None
    trtype: str | None = None


@dataclass(frozen=True)
class GetStats:
    tgt_name: str | None = None


@dataclass(frozen=True)
class SetMaxSubsystems:
    max_subsystems: U32


@dataclass(frozen=True)
class SetCrdt:
    crdt1: U16 = 0
    crdt2: U16 = 0
    crdt3: U16 = 0


@dataclass(frozen=True)
class SetConfig:
    admin_cmd_passthru: object = None
    poll_groups_mask: str | None = None
    discovery_filter: str | None = None
    discovery_filters: object = None
    dhchap_digests: list[str] | None = None
    dhchap_dhgroups: list[str] | None = None
    dup_host_policy: str | None = None


@methods.partial("nvmf_create_transport", CreateTransport, relaxed=True)
def create_transport(nvmf: NvmfTarget, given: dict[str, Any]) -> Work[None]:
    name = given["trtype"]
    trtype = name.upper()
    if given.get("tgt_name", NAME) != NAME:
        raise RpcError(INTERNAL_ERROR, "Unable to find a target.")
    if trtype not in DEFAULTS:
        raise RpcError(INVALID_PARAMS, f"Invalid transport type '{name}'")
    if given.get("max_io_qpairs_per_ctrlr", 0) > QPAIRS_MAX:
        raise RpcError(INVALID_PARAMS, "max_io_qpairs_per_ctrlr too large")
    if nvmf.find_transport(trtype):
        raise RpcError(INTERNAL_ERROR, f"Transport type '{name}' already exists")
    options = _options(DEFAULTS[trtype], given)
    size = options.max_io_size
    if (size and (size & (size - 1) or size < MAX_IO_SIZE_MIN)) or not options.kas or not options.min_kato:
        raise RpcError(INTERNAL_ERROR, f"Transport type '{name}' create failed")
    step = options.kas * KEEP_ALIVE_UNIT_MS
    options.max_aq_depth = max(options.max_aq_depth, AQ_DEPTH_MIN)
    options.min_kato = -(-options.min_kato // step) * step
    return Work(_create(nvmf, trtype, options, given))


def _options(defaults: TransportOptions, given: dict[str, Any]) -> TransportOptions:
    """The options with what was given; disable_command_passthru is taken and has no effect."""
    names = {option.name for option in fields(TransportOptions)} - {"disable_command_passthru"}
    options = {name: value for name, value in given.items() if name in names}
    if given.get("buf_cache_size"):
        options["iobuf_small_cache_size"] = given["buf_cache_size"]
    return replace(defaults, **options)


async def _create(nvmf: NvmfTarget, trtype: str, options: TransportOptions, given: dict[str, Any]) -> None:
    await nvmf.reactor.message()
    extra: dict[str, Any] = {}
    failed = trtype == "RDMA"  # No RDMA device is there.
    if trtype == "TCP":
        extra = {"c2h_success": given.get("c2h_success", True), "sock_priority": given.get("sock_priority", 0)}
        options.in_capsule_data_size = min(options.in_capsule_data_size, options.max_io_size)
        options.max_queue_depth = 128 if options.max_queue_depth < 2 else options.max_queue_depth
        options.max_aq_depth = options.max_aq_depth if options.max_aq_depth in TCP_AQ_DEPTHS else 128
        buffers = options.max_io_size // LARGE_BUFFER_BYTES
        failed = extra["sock_priority"] > SOCK_PRIORITY_MAX or buffers > SGL_ENTRIES_MAX
    if trtype == "VFIOUSER":
        failed = options.max_io_qpairs_per_ctrlr > VFIO_USER_QPAIRS_MAX
    if failed:
        raise RpcError(INTERNAL_ERROR, "Failed to create transport.")
    if nvmf.find_transport(trtype):
        raise RpcError(INTERNAL_ERROR, "Failed to add transport to tgt.(-17)")
    await nvmf.reactor.visit()
    nvmf.add_transport(trtype, options, extra)


@methods.rpc("nvmf_get_transports", GetTransports)
def get_transports(nvmf: NvmfTarget, params: GetTransports) -> list[dict[str, Any]]:
    if params.tgt_name not in (None, NAME):
        raise RpcError(INTERNAL_ERROR, "Unable to find a target.")
    transports = nvmf.transports
    if params.trtype is None:
        return [transport.describe() for transport in transports]
    transport = nvmf.find_transport(params.trtype.upper())
    if transport is None:
        raise errno_error(ENODEV)
    return [transport.describe()]


@methods.plain("nvmf_get_targets", "nvmf_get_targets has no parameters.")
def get_targets(nvmf: NvmfTarget) -> list[str]:
    return [NAME]


@methods.rpc("nvmf_get_stats", GetStats)
def get_stats(nvmf: NvmfTarget, params: GetStats) -> dict[str, Any]:
    if params.tgt_name not in (None, NAME):
        raise RpcError(INTERNAL_ERROR, "Unable to find a target.")
    counts = nvmf.counts
    group = {
        "name": POLL_GROUP,
        "admin_qpairs": counts.admin_total,
        "io_qpairs": counts.io_total,
        "current_admin_qpairs": counts.admin_now,
        "current_io_qpairs": counts.io_now,
        "current_unassociated_qpairs": 0,
        "pending_bdev_io": 0,
        "completed_nvme_io": counts.completed_io,
        "transports": [{"trtype": transport.trtype} for transport in nvmf.transports],
    }
    return {"tick_rate": TICKS_PER_SECOND, "poll_groups": [group]}


@methods.rpc("nvmf_set_max_subsystems", SetMaxSubsystems)
def set_max_subsystems(nvmf: NvmfTarget, params: SetMaxSubsystems) -> None:
    try:
        nvmf.set_max_subsystems(params.max_subsystems)
    except OSError:
        raise RpcError(INTERNAL_ERROR, "Must not call more than once") from None


@methods.rpc("nvmf_set_crdt", SetCrdt)
def set_crdt(nvmf: NvmfTarget, params: SetCrdt) -> None:
    nvmf.options.crdt = (params.crdt1, params.crdt2, params.crdt3)


@methods.partial("nvmf_set_config", SetConfig)
def set_config(nvmf: NvmfTarget, given: dict[str, Any]) -> None:
    nvmf.options.settings |= given
