"""The program `opi-spdk-bridge`, run to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = (sys.executable, "-m", "opi_spdk_bridge")


def program(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = 15.0,
) -> subprocess.CompletedProcess[str]:
    """What it printed and how it ended; raises subprocess.TimeoutExpired when it runs longer, as a server does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPI_BRIDGE_")}
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=cwd,
        env={**environment, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
