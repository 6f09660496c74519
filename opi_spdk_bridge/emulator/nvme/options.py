"""The options of the NVMe bdev module, and those of one controller."""

from dataclasses import asdict, dataclass, field
from errno import EINVAL
from typing import Any, Literal

from ..registry import errno_error
from ..schema import I32, U8, U16, U32, U64

Policy = Literal["active_passive", "active_active"]
Selector = Literal["round_robin", "queue_depth"]


@dataclass(frozen=True)
class MultipathOptions:
    policy: Policy = "active_passive"
    selector: Selector = "round_robin"
    min_io: U32 = 1

    def check(self) -> None:
        """Raises OSError EINVAL."""
        if self.policy == "active_active" and self.selector == "round_robin" and self.min_io == 0:
            raise errno_error(EINVAL)


@dataclass(frozen=True)
class ModuleOptions:
    """The parameters of bdev_nvme_set_options; the defaults are the module's."""

    action_on_timeout: Literal["none", "reset", "abort"] = "none"
    timeout_us: U64 = 0
    timeout_admin_us: U64 = 0
    keep_alive_timeout_ms: U32 = 10000
    arbitration_burst: U32 = 0
    low_priority_weight: U32 = 0
    medium_priority_weight: U32 = 0
    high_priority_weight: U32 = 0
    nvme_adminq_poll_period_us: U64 = 10000
    nvme_ioq_poll_period_us: U64 = 0
    io_queue_requests: U32 = 0
    delay_cmd_submit: bool = True
    transport_retry_count: U32 = 4
    bdev_retry_count: I32 = 3
    transport_ack_timeout: U8 = 0
    ctrlr_loss_timeout_sec: I32 = 0
    reconnect_delay_sec: U32 = 0
    fast_io_fail_timeout_sec: U32 = 0
    disable_auto_failback: bool = False
    generate_uuids: bool = False
    transport_tos: U8 = 0
    nvme_error_stat: bool = False
    rdma_srq_size: U32 = 0
    io_path_stat: bool = False
    allow_accel_sequence: bool = False
    rdma_max_cq_size: U32 = 0
    rdma_cm_event_timeout_ms: U16 = 0
    dhchap_digests: list[str] = field(default_factory=lambda: ["sha256", "sha384", "sha512"])
    dhchap_dhgroups: list[str] = field(
        default_factory=lambda: ["null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"]
    )
    rdma_umr_per_io: bool = False
    tcp_connect_timeout_ms: U32 = 0
    enable_flush: bool = False
    multipath_opts: MultipathOptions = MultipathOptions()

    def check(self) -> None:
        """Raises OSError EINVAL for options that contradict each other."""
        if (self.timeout_us == 0 and self.timeout_admin_us != 0) or self.bdev_retry_count < -1:
            raise errno_error(EINVAL)
        check_resiliency(self.ctrlr_loss_timeout_sec, self.reconnect_delay_sec, self.fast_io_fail_timeout_sec)
        self.multipath_opts.check()

    def config(self) -> dict[str, Any]:
        return {"method": "bdev_nvme_set_options", "params": asdict(self)}


def check_resiliency(ctrlr_loss_timeout_s: int, reconnect_delay_s: int, fast_io_fail_timeout_s: int) -> None:
    """Raises OSError EINVAL unless fast_io_fail lies between reconnect_delay and ctrlr_loss, where they are set."""
    valid = ctrlr_loss_timeout_s >= -1
    if ctrlr_loss_timeout_s == 0:
        valid = reconnect_delay_s == 0 and fast_io_fail_timeout_s == 0
    else:
        longest = ctrlr_loss_timeout_s if ctrlr_loss_timeout_s > 0 else max(reconnect_delay_s, fast_io_fail_timeout_s)
        valid = valid and 0 < reconnect_delay_s <= longest
        if fast_io_fail_timeout_s:
            valid = valid and reconnect_delay_s <= fast_io_fail_timeout_s <= longest
    if not valid:
        raise errno_error(EINVAL)


@dataclass(frozen=True)
class ControllerOptions:
    """What bdev_nvme_attach_controller sets for a controller; `multipath` False means failover."""

    multipath: bool
    multipath_opts: MultipathOptions
    prchk_reftag: bool
    prchk_guard: bool
    hdgst: bool
    ddgst: bool
    ctrlr_loss_timeout_sec: int
    reconnect_delay_sec: int
    fast_io_fail_timeout_sec: int
    fabrics_connect_timeout_us: int
    num_io_queues: int
    disable_sq_flow_control: bool
