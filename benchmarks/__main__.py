"""`python -m benchmarks`: runs every measurement and prints the report."""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from pathlib import Path

from benchmarks.effort import FULL, QUICK, Effort
from benchmarks.report import load_average, machine
from benchmarks.size import size
from benchmarks.speed import speed
from benchmarks.web import web

_PARTS = {"speed": speed, "size": size, "web": web}


async def _report(effort: Effort, parts: list[str]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # the processes end with it
    print(f"Machine: {machine()}. Load average at the start {load_average()}.\n", flush=True)
    for name in parts or _PARTS:
        with tempfile.TemporaryDirectory(prefix="opi-bench-") as folder:
            for paragraph in await _PARTS[name](Path(folder), effort):
                print(f"{paragraph}\n", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time, for a first impression")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)} (default: all)")
    given = parser.parse_args()
    if not set(given.parts) <= set(_PARTS):
        parser.error(f"the parts are {', '.join(_PARTS)}")
    asyncio.run(_report(QUICK if given.quick else FULL, given.parts))
