"""Options that the target keeps and the emulator has no other use for: taken, checked for their types, saved again."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from .registry import ACCEL_FAILURE, NVMF_FAILURE, MethodTable
from .schema import I32, U8, U32, U64

methods = MethodTable["Settings"](NVMF_FAILURE)


@dataclass(frozen=True)
class IobufOptions:
    small_pool_count: U64 = 8192
    large_pool_count: U64 = 1024
    small_bufsize: U32 = 8192
    large_bufsize: U32 = 135168
    enable_numa: bool = False


@dataclass(frozen=True)
class AccelOptions:
    small_cache_size: U32 = 128
    large_cache_size: U32 = 16
    task_count: U32 = 2048
    sequence_count: U32 = 2048
    buf_count: U32 = 2048


@dataclass(frozen=True)
class SocketImplementation:
    impl_name: str


@dataclass(frozen=True)
class SocketOptions:
    impl_name: str
    recv_buf_size: U32 = 2097152
    send_buf_size: U32 = 2097152
    enable_recv_pipe: bool = True
    enable_quickack: bool = False
    enable_placement_id: U32 = 0
    enable_zerocopy_send_server: bool = True
    enable_zerocopy_send_client: bool = False
    zerocopy_threshold: U32 = 0
    tls_version: U32 = 0
    enable_ktls: bool = False


@dataclass(frozen=True)
class Scheduler:
    name: str
    period: U64 = 0
    load_limit: U8 = 0
    core_limit: U8 = 0
    core_busy: U8 = 0
    mappings: str = ""


@dataclass(frozen=True)
class SchedulerOptions:
    scheduling_core: U32 = 0
    isolated_core_mask: str = ""


@dataclass(frozen=True)
class RaidOptions:
    process_window_size_kb: U32 = 1024
    process_max_bandwidth_mb_sec: U32 = 0


@dataclass(frozen=True)
class FsdevOptions:
    fsdev_io_pool_size: U32
    fsdev_io_cache_size: U32


@dataclass(frozen=True)
class IscsiOptions:
    auth_file: str = ""
    node_base: str = "iqn.2016-06.io.spdk"
    nop_timeout: I32 = 60
    nop_in_interval: I32 = 30
    disable_chap: bool = False
    require_chap: bool = False
    mutual_chap: bool = False
    chap_group: I32 = 0
    max_sessions: U32 = 128
    max_queue_depth: U32 = 64
    max_connections_per_session: U32 = 2
    default_time2wait: U32 = 2
    default_time2retain: U32 = 20
    first_burst_length: U32 = 8192
    immediate_data: bool = True
    error_recovery_level: U32 = 0
    allow_duplicated_isid: bool = False
    max_large_datain_per_connection: U32 = 64
    max_r2t_per_connection: U32 = 4
    pdu_pool_size: U32 = 36864
    immediate_data_pool_size: U32 = 16384
    data_out_pool_size: U32 = 2048


SOCKET_IMPLEMENTATIONS = ("posix", "ssl")
DEFAULTS: dict[str, Any] = {
    "iobuf_set_options": IobufOptions(),
    "accel_set_options": AccelOptions(),
    "sock_set_default_impl": SocketImplementation("posix"),
    "framework_set_scheduler": Scheduler("static"),
    "bdev_raid_set_options": RaidOptions(),
    "fsdev_set_opts": FsdevOptions(65535, 256),
    "iscsi_set_options": IscsiOptions(),
}
SAVED = {
    "iobuf": ("iobuf_set_options",),
    "accel": ("accel_set_options",),
    "sock": ("sock_set_default_impl", *(f"sock_impl_set_options:{name}" for name in SOCKET_IMPLEMENTATIONS)),
    "scheduler": ("framework_set_scheduler",),
    "bdev": ("bdev_raid_set_options",),
    "fsdev": ("fsdev_set_opts",),
    "iscsi": ("iscsi_set_options",),
}
"""The settings that belong to each subsystem's configuration; those of a socket implementation carry its name."""


class Settings:
    """What was set last, by method."""

    def __init__(self) -> None:
        sockets = {f"sock_impl_set_options:{name}": SocketOptions(name) for name in SOCKET_IMPLEMENTATIONS}
        self._values: dict[str, dict[str, Any]] = {name: asdict(value) for name, value in (DEFAULTS | sockets).items()}

    def update(self, name: str, given: dict[str, Any]) -> None:
        self._values[name] = self._values.get(name, {}) | given

    def config(self, subsystem: str) -> Iterator[dict[str, Any]]:
        """The calls that set it all again; what a method need not be told is left out."""
        for name in SAVED.get(subsystem, ()):
            values = self._values[name]
            if name == "framework_set_scheduler":
                values = {member: value for member, value in values.items() if value}
            yield {"method": name.partition(":")[0], "params": values}


def _kept(name: str, parameters: type[Any], **options: Any) -> None:
    """Registers a method that only keeps what it is given."""

    @methods.partial(name, parameters, **options)
    def keep(settings: Settings, given: dict[str, Any]) -> None:
        implementation = given.get("impl_name")
        several = implementation is not None and len(fields(parameters)) > 1
        settings.update(f"{name}:{implementation}" if several else name, given)


_kept("iobuf_set_options", IobufOptions)
_kept("accel_set_options", AccelOptions, failure=ACCEL_FAILURE)
_kept("sock_set_default_impl", SocketImplementation)
_kept("sock_impl_set_options", SocketOptions)
_kept("framework_set_scheduler", Scheduler)
_kept("scheduler_set_options", SchedulerOptions)
_kept("bdev_raid_set_options", RaidOptions)
_kept("fsdev_set_opts", FsdevOptions)
_kept("iscsi_set_options", IscsiOptions)
