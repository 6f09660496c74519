"""The methods of the bdev layer itself (lib/bdev/bdev_rpc.c)."""

import base64
import struct
import time
from dataclasses import dataclass, replace
from errno import EINVAL, ETIMEDOUT
from typing import Any, Literal

from ..reactor import Work
from ..registry import BDEV_FAILURE, INVALID_PARAMS, NVMF_FAILURE, Failure, MethodTable, RpcError, errno_error
from ..schema import U8, U64
from .device import IO_TYPES, RATE_LIMITS, Bdev, Descriptor
from .layer import BdevLayer, LayerOptions
from .stat import TICKS_PER_SECOND, ResetMode, ticks

methods = MethodTable[BdevLayer](BDEV_FAILURE)

EXAMINE_FAILURE = Failure(INVALID_PARAMS, BDEV_FAILURE.message)
APPEAR_POLL_S = 0.1
"""How often bdev_get_bdevs with a timeout looks whether the bdev is there."""
IO_CACHES_MIN = 2
"""The I/O pool must fill the caches of this many threads."""
HISTOGRAM_BUCKETS = 128 * 57
HISTOGRAM_GRANULARITY = 7


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class GetBdevs:
    name: str | None = None
    timeout: U64 = 0


@dataclass(frozen=True)
class GetIostat:
    names: list[str] | None = None
    per_channel: bool = False
    reset_mode: Literal["all", "maxmin", "error", "none"] = "none"


@dataclass(frozen=True)
class ResetIostat:
    name: str | None = None
    mode: Literal["all", "maxmin", "error", "none"] = "all"


@dataclass(frozen=True)
class SetQosLimit:
    name: str
    rw_ios_per_sec: U64 | None = None
    rw_mbytes_per_sec: U64 | None = None
    r_mbytes_per_sec: U64 | None = None
    w_mbytes_per_sec: U64 | None = None


@dataclass(frozen=True)
class SetQueueSampling:
    name: str
    period: U64


@dataclass(frozen=True)
class EnableHistogram:
    name: str
    enable: bool
    opc: str | None = None
    granularity: U8 = HISTOGRAM_GRANULARITY
    min_nsec: U64 = 1000
    max_nsec: U64 = 120_000_000_000


@methods.partial("bdev_set_options", LayerOptions, failure=NVMF_FAILURE)
def set_options(layer: BdevLayer, given: dict[str, Any]) -> None:
    options = replace(layer.options, **given)
    if options.bdev_io_pool_size < options.bdev_io_cache_size * IO_CACHES_MIN:
        pool, cache = options.bdev_io_pool_size, options.bdev_io_cache_size
        raise RpcError(INVALID_PARAMS, f"Pool size {pool} too small for cache size {cache}")
    layer.options = options


@methods.plain("bdev_wait_for_examine", "bdev_wait_for_examine requires no parameters")
def wait_for_examine(layer: BdevLayer) -> Work[None]:
    return Work(layer.wait_for_examine())


@methods.rpc("bdev_examine", Name, failure=EXAMINE_FAILURE)
def examine(layer: BdevLayer, params: Name) -> None:
    layer.allow_examine(params.name)


@methods.rpc("bdev_get_bdevs", GetBdevs)
def get_bdevs(layer: BdevLayer, params: GetBdevs) -> list[dict[str, Any]] | Work[list[dict[str, Any]]]:
    """One bdev is opened for it (spdk_bdev_open_async), which takes a turn."""
    if params.name is None:
        return [bdev.describe() for bdev in layer]
    return Work(_describe_open(layer, params.name, params.timeout))


async def _describe_open(layer: BdevLayer, name: str, timeout_ms: int) -> list[dict[str, Any]]:
    try:
        descriptor = await _open_in_time(layer, name, timeout_ms)
    except OSError:
        await layer.reactor.message()
        raise
    await layer.reactor.message()
    answer = [descriptor.bdev.describe()]
    layer.close(descriptor)
    return answer


async def _open_in_time(layer: BdevLayer, name: str, timeout_ms: int) -> Descriptor:
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            return layer.open(name, writable=False)
        except OSError:
            if not timeout_ms:
                raise
            if time.monotonic() >= deadline:
                raise errno_error(ETIMEDOUT) from None
        await layer.reactor.sleep(APPEAR_POLL_S)


@methods.rpc("bdev_get_iostat", GetIostat)
def get_iostat(layer: BdevLayer, params: GetIostat) -> Work[dict[str, Any]]:
    names = params.names
    if params.per_channel and (names is None or len(names) != 1):
        raise errno_error(EINVAL)
    return Work(_collect(layer, params))


async def _collect(layer: BdevLayer, params: GetIostat) -> dict[str, Any]:
    """Opens the bdevs and collects from all their channels at a time: those without any are done first."""
    names = [bdev.name for bdev in layer] if params.names is None else params.names
    collected: list[dict[str, Any]] = []
    visits: list[Work[None]] = []
    failure: OSError | None = None
    for name in names:
        try:
            descriptor = layer.open(name, writable=False)
        except OSError as error:
            failure = error
            break
        visits.append(Work(_collect_from(layer, descriptor, params, collected)))
    for visit in visits:
        await visit
    if failure is not None:
        raise failure
    answer: dict[str, Any] = {"tick_rate": TICKS_PER_SECOND, "ticks": ticks()}
    return answer | (collected[0] if params.per_channel else {"bdevs": collected})


async def _collect_from(
    layer: BdevLayer, descriptor: Descriptor, params: GetIostat, collected: list[dict[str, Any]]
) -> None:
    bdev = descriptor.bdev
    await layer.visit_channels(bdev)
    if params.per_channel:
        collected.append({"name": bdev.name, "channels": _channel_stats(bdev, params.reset_mode)})
    else:
        collected.append(_device_stat(bdev, params.reset_mode))
    layer.close(descriptor)


def _channel_stats(bdev: Bdev, mode: ResetMode) -> list[dict[str, Any]]:
    if not bdev.channels:
        return []
    answer = [{"thread_id": 2, **bdev.channel_stat.describe()}]
    bdev.channel_stat.reset(mode)
    return answer


def _device_stat(bdev: Bdev, mode: ResetMode) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": bdev.name, **bdev.total_stat().describe()}
    if bdev.queue_sampling_period_us:
        answer["queue_depth_polling_period"] = bdev.queue_sampling_period_us
        answer |= {"queue_depth": 0, "io_time": 0, "weighted_io_time": 0}
    device = bdev.device_stat()
    if device is not None:
        answer["driver_specific"] = device
    _reset(bdev, mode)
    return answer


def _reset(bdev: Bdev, mode: ResetMode) -> None:
    bdev.stat.reset(mode)
    bdev.channel_stat.reset(mode)


@methods.rpc("bdev_reset_iostat", ResetIostat)
def reset_iostat(layer: BdevLayer, params: ResetIostat) -> None:
    if params.mode == "none":
        return
    for bdev in [layer.find(params.name)] if params.name is not None else list(layer):
        _reset(bdev, params.mode)


@methods.rpc("bdev_set_qos_limit", SetQosLimit)
def set_qos_limit(layer: BdevLayer, params: SetQosLimit) -> Work[None]:
    descriptor = layer.open(params.name, writable=False)
    try:
        limits = {name: getattr(params, name) for name in RATE_LIMITS}
        if all(limit is None for limit in limits.values()):
            raise RpcError(-EINVAL, "No rate limits specified")
        return Work(_limited(layer.set_rate_limits(descriptor.bdev, limits)))
    except OSError as error:
        raise _limit_failure(error) from None
    finally:
        layer.close(descriptor)


async def _limited(change: Work[None]) -> None:
    try:
        await change
    except OSError as error:
        raise _limit_failure(error) from None


def _limit_failure(error: OSError) -> RpcError:
    return RpcError(INVALID_PARAMS, f"Failed to configure rate limit: {error.strerror}")


@methods.rpc("bdev_set_qd_sampling_period", SetQueueSampling)
def set_qd_sampling_period(layer: BdevLayer, params: SetQueueSampling) -> None:
    layer.find(params.name).queue_sampling_period_us = params.period


@methods.rpc("bdev_enable_histogram", EnableHistogram)
def enable_histogram(layer: BdevLayer, params: EnableHistogram) -> None:
    bdev = layer.find(params.name)
    if params.opc is not None and params.opc not in IO_TYPES:
        raise RpcError(BDEV_FAILURE.code, "Invalid Io type")
    bdev.histogram = (params.opc or "") if params.enable else None


@methods.rpc("bdev_get_histogram", Name)
def get_histogram(layer: BdevLayer, params: Name) -> dict[str, Any]:
    bdev = layer.find(params.name)
    if bdev.histogram is None:
        raise RpcError(BDEV_FAILURE.code, "Bad address")
    counts = [0] * HISTOGRAM_BUCKETS
    return {
        "histogram": base64.b64encode(struct.pack(f"<{HISTOGRAM_BUCKETS}Q", *counts)).decode(),
        "granularity": HISTOGRAM_GRANULARITY,
        "min_range": 0,
        "max_range": HISTOGRAM_BUCKETS // 128,
        "tsc_rate": TICKS_PER_SECOND,
    }
