"""How long to measure, and the pace of the target."""

from __future__ import annotations

from dataclasses import dataclass

PACE_MS = 4.0


@dataclass(frozen=True)
class Effort:
    """Rounds: of latencies by number in flight, of calls per second (each `rate_s` long), of reads; starts; returns."""

    latency_rounds: dict[int, int]
    rate_rounds: int
    rate_s: float
    read_rounds: int
    starts: int
    returns: int


FULL = Effort({1: 100, 8: 40, 64: 8}, rate_rounds=5, rate_s=0.7, read_rounds=300, starts=5, returns=3)
QUICK = Effort({1: 20, 8: 8, 64: 2}, rate_rounds=2, rate_s=0.4, read_rounds=60, starts=2, returns=1)
