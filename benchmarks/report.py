"""The report: markdown tables, with each target beside what was measured."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """What only one in a hundred exceeds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table, the first column to the left and the others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def at_most(value: float, target: float) -> str:
    """A target and whether it is met."""
    return f"≤ {target:g}: {'met' if value <= target else '**missed**'}"


def at_least(value: float, target: float) -> str:
    """A target and whether it is met."""
    return f"≥ {target:g}: {'met' if value >= target else '**missed**'}"


def machine() -> str:
    """What it runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def load_average() -> str:
    """Of the last minute."""
    return f"{os.getloadavg()[0]:.1f}"
