"""python -m tests.chaos --seconds N [--seed S] [--keep FOLDER]: exits 1 unless 0 lost, 0 orphans, 0 unexplained."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import run


def main() -> int:
    """Runs it and prints the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to disturb")
    parser.add_argument("--seed", default=str(int(time.time())), help="what makes the random choices repeatable")
    parser.add_argument("--keep", type=Path, help="a folder for logs and state that stays; default: a temporary one")
    given = parser.parse_args()
    print(f"chaos with seed {given.seed} for {given.seconds:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="opi-chaos-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        report = run(given.seconds, given.seed, folder, calm_s=min(10.0, given.seconds / 4), pause_s=1.2)
    for line in report.lines():
        print(line)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
