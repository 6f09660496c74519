"""The crash test in short: a few seconds of it, with a seed of its own each time."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.support.target import real_target

SECONDS = 10


def test_nothing_gets_lost_when_bridge_and_target_die_under_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m tests.chaos --seconds 10 --seed S` repeats a run as far as the machine's timing lets it."""
    if real_target("SPDK"):
        pytest.skip("needs a target that can be killed and disturbed: an emulated one")
    report = run(SECONDS, secrets.token_hex(4), tmp_path, calm_s=2.0, pause_s=0.5, least=51)
    with capsys.disabled():
        print(f"\nchaos with seed {report.seed}: {report.operations} operations, {report.bridge_kills} kills of the"
              f" bridge, {report.target_kills} of the target, {len(report.recoveries_s)} recoveries")  # fmt: skip
    assert report.clean, "\n".join(report.lines())
    assert report.acknowledged > 50
    assert report.bridge_kills + report.target_kills > 0
