"""The program `opi-spdk-bridge`: the one place where tests start it.

Whatever it prints is kept in files named *.log, which are searched for the tests' secrets at the end of the session.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.patience import PATIENCE_S

_PROGRAM = (sys.executable, "-m", "opi_spdk_bridge")
_TELLS = "--with-secrets"
_folder: Path | None = None


def keep_in(folder: Path) -> None:
    """Has what is printed kept in that folder."""
    global _folder
    _folder = folder


def fresh_log() -> Path:
    """A file of its own for what a process prints."""
    assert _folder is not None, "keep_in comes first"
    return _folder / f"{uuid.uuid4()}.log"


def keep(*printed: str) -> None:
    """Keeps what a process has printed."""
    fresh_log().write_text("".join(printed))


def program(
    *arguments: str,
    under: Sequence[str] = (),
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """What it printed and how it ended; raises subprocess.TimeoutExpired when it runs longer, as a server does.

    `under` is a command that runs it, such as `unshare`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPI_BRIDGE_")}
    ended = subprocess.run(
        [*under, *_PROGRAM, *arguments],
        cwd=cwd,
        env={**environment, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    keep(ended.stderr, *([] if _TELLS in arguments else [ended.stdout]))
    return ended


def started(
    *arguments: str, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """The program as a process that runs; what it prints is appended to `log`."""
    assert log.suffix == ".log", "others are not searched"
    with log.open("ab") as output:
        return subprocess.Popen([*_PROGRAM, *arguments], stdout=output, stderr=output, cwd=cwd, env=env)
