"""How fast: what one call costs, beside the raw call and the floors, and how many can be made in a second."""

from __future__ import annotations

from pathlib import Path

from benchmarks import opi
from benchmarks.effort import PACE_MS, Effort
from benchmarks.processes import Bridge, Emulator, Floor, load, started
from benchmarks.report import at_least, at_most, load_average, p50, p99, table

_CALLS = 3  # in a row, before it is another label's turn
_DEAREST_CALL = 1.15  # of a raw one
_LEAST_SHARE = 0.5  # of the bare server's calls per second
_VERBS = {"Create": "Create", "Get": "Get", "List": f"List({opi.PAGE})", "Delete": "Delete"}

Numbers = dict[str, list[float]]


async def speed(folder: Path, effort: Effort) -> list[str]:
    """The paragraphs of the report."""
    paced, instant = Emulator(folder, "paced", PACE_MS), Emulator(folder, "instant", 0)
    bridges = Bridge(folder, "on-paced", paced), Bridge(folder, "on-instant", instant)
    floor = Floor(folder)
    paragraphs = []
    async with started(paced, instant, *bridges, floor):
        sides = {"paced": [bridges[0].address, paced.socket], "instant": [bridges[1].address, instant.socket]}
        most = max(effort.latency_rounds)
        await load("prepare", sides=sides, workers=most, calls=_CALLS)
        for workers, rounds in effort.latency_rounds.items():
            durations = await load(
                "latency", sides=sides, floor=floor.address, state=str(folder / "commits.sqlite"), workers=workers,
                calls=_CALLS, rounds=rounds,
            )  # fmt: skip
            rates = await load(
                "throughput", sides=sides, floor=floor.address, workers=workers, seconds=effort.rate_s,
                rounds=effort.rate_rounds,
            )  # fmt: skip
            if workers == 1:
                paragraphs += _one_call(durations)
            paragraphs += _in_flight(workers, durations, rates, judged=workers == most)
    return paragraphs


def _one_call(durations: Numbers) -> list[str]:
    raw = p50(durations["paced raw"])
    rows = [["raw JSON-RPC call", *_ms(durations["paced raw"]), "1", "", f"{p50(durations['instant raw']):.2f}", ""]]
    for label, name in {**_VERBS, "CreateSubsystem": "Create of a subsystem with a host"}.items():
        ratio = p50(durations[f"paced {label}"]) / raw
        own, bare = p50(durations[f"instant {label}"]), p50(durations[f"floor {label}"])
        rows.append(
            [name, *_ms(durations[f"paced {label}"]), f"{ratio:.2f}", at_most(ratio, _DEAREST_CALL), f"{own:.2f}",
             f"{bare:.2f}"]
        )  # fmt: skip
    head = ["one in flight", "p50 ms", "p99 ms", "/ raw p50", "target", "p50 ms at 0 ms pace", "bare server p50 ms"]
    commit = " and p99 ".join(_ms(durations["commit"]))
    return [
        f"## One call, on a target at its pace of {PACE_MS:g} ms (load average {load_average()})",
        table(head, rows),
        f"One store commit (SQLite, full sync) takes p50 {commit} ms.",
    ]


def _in_flight(workers: int, durations: Numbers, rates: Numbers, *, judged: bool) -> list[str]:
    rate = {label: p50(values) for label, values in rates.items()}
    rows = [["raw JSON-RPC call", *_ms(durations["paced raw"]), f"{rate['paced raw']:.0f}", "", "", ""]]
    for label, name in _VERBS.items():
        rows.append([name, *_ms(durations[f"paced {label}"]), "", "", "", ""])
    for label in ("Create+Delete", "Get", "List"):
        ours, bare = rate[f"paced {label}"], rate[f"floor {label}"]
        target = at_least(ours / bare, _LEAST_SHARE) if judged and label == "Create+Delete" else ""
        name = f"{_VERBS.get(label, label)} without pauses"
        rows.append([name, "", "", f"{ours:.0f}", f"{bare:.0f}", f"{ours / bare:.2f}", target])
    return [
        f"## {workers} in flight (load average {load_average()})",
        table(["", "p50 ms", "p99 ms", "calls/s", "bare server calls/s", "share", "target"], rows),
        f"On a target that answers at once Create+Delete reaches {rate['instant Create+Delete']:.0f} calls/s.",
    ]


def _ms(values: list[float]) -> tuple[str, str]:
    return f"{p50(values):.2f}", f"{p99(values):.2f}"
