"""What one reading of the target's statistics gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class VolumeSample:
    """A volume's counters since its bdev was made, by operation (read, write, unmap), and its errors by status.

    `name` and `kind` are those of its resource; of a bdev that the bridge does not manage, the bdev's name and "bdev".
    `nqn` is the subsystem that shows it to hosts, or "".
    """

    name: str
    kind: str
    nqn: str
    size_bytes: Mapping[str, int]
    operations: Mapping[str, int]
    latency_s: Mapping[str, float]
    failures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TargetSample:
    """`paths` has the state of each path of a remote controller by the path's name."""

    volumes: list[VolumeSample] = field(default_factory=list)
    paths: Mapping[str, str] = field(default_factory=dict)
