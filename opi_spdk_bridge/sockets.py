"""Paths of Unix sockets: what the system can have, and why one cannot be bound."""

from __future__ import annotations

import errno
import os
from pathlib import Path

LONGEST_PATH_BYTES = 107
"""`sun_path` has 108, of which the last is a NUL (unix(7))."""


def too_long(path: str | Path) -> str:
    """What is wrong with a path that no Unix socket can have; "" where one can."""
    length = len(os.fsencode(path))
    if length <= LONGEST_PATH_BYTES:
        return ""
    return f"the socket path {path} has {length} bytes, and {LONGEST_PATH_BYTES} are the most that one can have"


def why_not_bound(path: Path, problem: OSError) -> str:
    """Why a socket could not be made at `path`, naming what is in the way."""
    folder = path.parent
    if problem.errno == errno.ENOENT:
        return f"there is no folder {folder}"
    if problem.errno == errno.ENOTDIR:
        file = next((above for above in reversed(path.parents) if not above.is_dir()), folder)
        return f"{file} is no folder"
    if problem.errno in (errno.EACCES, errno.EPERM):
        return f"uid {os.geteuid()} may not make files in {folder}"
    if problem.errno == errno.EADDRINUSE:
        return "another program does"
    return f"{problem.strerror or problem} ({folder})"
