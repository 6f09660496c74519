"""The HTTP side: calls per second beside gRPC in one run, and a scrape of the metrics of 10,000 volumes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from benchmarks.effort import PACE_MS, Effort
from benchmarks.jsonrpc import Raw
from benchmarks.processes import Bridge, Emulator, load, started
from benchmarks.report import at_most, load_average, p50, table

_VOLUMES = 10_000
_SUBSYSTEMS = 100
_LONGEST_SCRAPE_S = 2.0
_LONGEST_ANSWER_MB = 1.1
_TTL_S = 6.0  # what a scrape read is good for 5 s


async def web(folder: Path, effort: Effort) -> list[str]:
    """The paragraphs of the report."""
    target = Emulator(folder, "web-target", PACE_MS)
    bridge = Bridge(folder, "web", target)
    async with started(target, bridge):
        await load("fill", address=bridge.address, subsystems=_SUBSYSTEMS, first=0, last=_VOLUMES)
        addresses = {"grpc": bridge.address, "http": bridge.http_address}
        rows = []
        for workers in (1, 8, 64):
            rates = await load(
                "web", **addresses, workers=workers, seconds=effort.rate_s, rounds=effort.rate_rounds
            )  # fmt: skip
            for verb in ("Get", "List"):
                ours, beside = p50(rates[f"http {verb}"]), p50(rates[f"grpc {verb}"])
                rows.append([f"{verb}, {workers} in flight", f"{ours:.0f}", f"{beside:.0f}", f"{ours / beside:.2f}"])
        scrapes = await _scrapes(target, bridge, effort.starts)
    return [
        f"## HTTP beside gRPC (load average {load_average()})",
        table(["", "HTTP calls/s", "gRPC calls/s", "HTTP / gRPC"], rows),
        f"## One scrape of {_VOLUMES:,} volumes (load average {load_average()})",
        table(["", "measured", "target"], scrapes),
    ]


async def _scrapes(target: Emulator, bridge: Bridge, times: int) -> list[list[str]]:
    took_s, size_bytes = [], 0
    async with Raw(target.socket) as raw, httpx.AsyncClient(timeout=60.0) as client:
        await raw.call("emulator_call_counts", reset=True)
        for _ in range(times):
            started_at = time.perf_counter()
            answer = await client.get(f"http://{bridge.http_address}/metrics")
            took_s.append(time.perf_counter() - started_at)
            answer.raise_for_status()
            size_bytes = len(answer.content)
            await asyncio.sleep(_TTL_S)
        counts = await raw.call("emulator_call_counts")
    longest_mb = counts["longest_answer_bytes"] / 1e6
    calls = counts["calls"].get("bdev_get_iostat", 0) / times
    return [
        ["duration", f"{p50(took_s):.2f} s", at_most(p50(took_s), _LONGEST_SCRAPE_S)],
        ["bdev_get_iostat calls", f"{calls:.0f}", ""],
        ["longest answer of the target", f"{longest_mb:.2f} MB", at_most(longest_mb, _LONGEST_ANSWER_MB)],
        ["size of the page", f"{size_bytes / 1e6:.1f} MB", ""],
    ]
