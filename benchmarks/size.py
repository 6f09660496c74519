"""How big: memory and start-up, sweeps, the return of a target that was killed, and reads, with many resources."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import opi
from benchmarks.effort import PACE_MS, Effort
from benchmarks.jsonrpc import Raw
from benchmarks.processes import Bridge, Emulator, load, started
from benchmarks.report import at_most, load_average, p50, table

_SUBSYSTEMS = 100
_RESOURCES = 10_000
_THINGS = (_RESOURCES - _SUBSYSTEMS) // 2  # a namespace and its volume each
_NAMESPACES = 10_000  # for the reads
_SWEEP_INTERVAL_S = 30.0  # the default of --sweep-interval-s
_REST_FACTOR = 100  # a bridge rests so many times as long as a sweep took
_SETTLED_S = 1.0  # after a start, before memory is read
_QUIET_S = 2.0
_LONGEST_RETURN_S = 300.0

_MOST_GROWTH = 1.3
_MOST_MIB = 120.0
_LONGEST_START_S = 2.0
_SLOWEST_RETURN = 1.5
_MOST_SWEEPING = 0.01
_LONGEST_ANSWER_MB = 1.0

Rows = list[list[str]]


async def size(folder: Path, effort: Effort) -> list[str]:
    """The paragraphs of the report."""
    target, other = Emulator(folder, "big-target", PACE_MS), Emulator(folder, "small-target", PACE_MS)
    bare = Emulator(folder, "bare-target", PACE_MS)
    big, empty, few = Bridge(folder, "big", target), Bridge(folder, "empty", other), Bridge(folder, "few", other)
    async with started(target, other, big, empty):
        rate = await load("fill", address=big.address, subsystems=_SUBSYSTEMS, first=0, last=_THINGS)
        rows = [*await _starts("empty", empty, effort.starts), *await _starts("10,000 resources", big, effort.starts)]
        await empty.stop()
        rows += await _idle_sweep(target, big)
        rows += await _return(target, bare, effort.returns)
        rows.append(["resident memory then", f"{_mib(big):.0f} MiB", at_most(_mib(big), _MOST_MIB)])
        await load("fill", address=big.address, subsystems=_SUBSYSTEMS, first=_THINGS, last=_NAMESPACES)
        await _quiet(target)
        async with started(few):
            await load("fill", address=few.address, subsystems=1, first=0, last=10)
            reads = await load(
                "reads", few=[few.address, 1, 10], many=[big.address, _SUBSYSTEMS, _NAMESPACES],
                rounds=effort.read_rounds,
            )  # fmt: skip
    return [
        f"## Many resources (load average {load_average()})",
        table(["", "measured", "target"], [*_growth(reads), *rows]),
        f"They were made through the bridge, 64 calls in flight, at {rate:.0f} resources/s.",
    ]


def _growth(reads: dict[str, list[float]]) -> Rows:
    rows = []
    for verb, judged in (("Get", True), (f"List({opi.PAGE})", True), (f"List({opi.SMALL_PAGE})", False)):
        few, many = p50(reads[f"few {verb}"]), p50(reads[f"many {verb}"])
        name = f"{verb} with 10,000 against 10 namespaces"
        target = at_most(many / few, _MOST_GROWTH) if judged else ""
        rows.append([name, f"{many:.2f} / {few:.2f} ms = {many / few:.2f}", target])
    return rows


async def _starts(name: str, bridge: Bridge, times: int) -> Rows:
    """Start-up time and the memory soon after."""
    starts, memory = [], []
    for _ in range(times):
        await bridge.stop()
        await bridge.start()
        starts.append(bridge.start_s)
        await asyncio.sleep(_SETTLED_S)
        memory.append(_mib(bridge))
    return [
        [f"start to health SERVING, {name}", f"{p50(starts):.2f} s", at_most(p50(starts), _LONGEST_START_S)],
        [f"resident memory, {name}", f"{p50(memory):.0f} MiB", at_most(p50(memory), _MOST_MIB)],
    ]


def _mib(bridge: Bridge) -> float:
    return bridge.resident_bytes / 2**20


# Sweeps


@dataclass
class _Burst:
    """What the target was asked until it was left alone: the counts, and the seconds from the first to the last."""

    counts: dict[str, Any]
    took_s: float


async def _counts(raw: Raw, *, reset: bool = False) -> dict[str, Any]:
    return dict(await raw.call("emulator_call_counts", reset=reset))


async def _quiet(target: Emulator) -> _Burst:
    async with Raw(target.socket) as raw:
        seen = await _counts(raw)
        first = last = time.perf_counter()
        while time.perf_counter() < last + _QUIET_S:
            await asyncio.sleep(0.02)
            now = await _counts(raw)
            if _work(now) != _work(seen):
                last = time.perf_counter()
            seen = now
        return _Burst(seen, last - first)


def _work(counts: dict[str, Any]) -> dict[str, int]:
    """The calls but for those by which an idle bridge keeps itself informed."""
    return {method: count for method, count in counts["calls"].items() if method != "notify_get_notifications"}


async def _idle_sweep(target: Emulator, bridge: Bridge) -> Rows:
    """The sweep at a bridge's start on a target where nothing is missing."""
    await bridge.stop()
    async with Raw(target.socket) as raw:
        await _counts(raw, reset=True)
    before_s = target.busy_s
    await bridge.start()
    burst = await _quiet(target)
    busy_s = target.busy_s - before_s
    share = busy_s / (burst.took_s + max(_SWEEP_INTERVAL_S, _REST_FACTOR * burst.took_s))
    calls, longest_mb = sum(burst.counts["calls"].values()), burst.counts["longest_answer_bytes"] / 1e6
    return [
        ["idle sweep: calls and duration", f"{calls:,} in {burst.took_s:.2f} s", ""],
        ["idle sweep: longest answer", f"{longest_mb:.2f} MB", at_most(longest_mb, _LONGEST_ANSWER_MB)],
        ["idle sweep: share of the target's time", f"{busy_s:.2f} s = {share:.4f}", at_most(share, _MOST_SWEEPING)],
    ]


# The return of a target


async def _return(target: Emulator, bare: Emulator, times: int) -> Rows:
    """How long until everything is back on a target that was killed, against the same calls sent raw."""
    ratios, measured = [], []
    for _ in range(times):
        async with started(bare):
            raw_s = await load("replay", socket=bare.socket, subsystems=_SUBSYSTEMS, namespaces=_THINGS)
        await target.kill()
        await target.start()
        asked_s, back_s = await _all_back(target)
        ratios.append(back_s / raw_s)
        measured.append(f"{back_s:.2f} s ({asked_s:.2f} s until the bridge asks) / {raw_s:.2f} s")
    median = sorted(range(times), key=lambda number: ratios[number])[times // 2]
    text = f"{measured[median]} = {ratios[median]:.2f}"
    name = "target killed, empty again: all 10,000 back, against the calls sent raw"
    return [[name, text, at_most(ratios[median], _SLOWEST_RETURN)]]


async def _all_back(target: Emulator) -> tuple[float, float]:
    """Seconds since the target is up until the bridge asks it, and until everything is there."""
    up = time.perf_counter()
    asked_s: float | None = None
    wanted = {"nvmf_create_subsystem": _SUBSYSTEMS, "bdev_null_create": _THINGS, "nvmf_subsystem_add_ns": _THINGS}
    async with Raw(target.socket) as raw:
        while time.perf_counter() < up + _LONGEST_RETURN_S:
            calls, seen_s = (await _counts(raw))["calls"], time.perf_counter() - up
            if asked_s is None and "framework_wait_init" in calls:
                asked_s = seen_s
            if all(calls.get(method, 0) >= count for method, count in wanted.items()):
                subsystems = await raw.call("nvmf_get_subsystems")
                if sum(len(subsystem.get("namespaces", ())) for subsystem in subsystems) == _THINGS:
                    return asked_s or 0.0, seen_s
            await asyncio.sleep(0.02)
    raise RuntimeError("not everything came back")
