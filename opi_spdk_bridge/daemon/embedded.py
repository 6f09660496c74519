"""The emulated target that the bridge brings along."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opi_spdk_bridge import errors
from opi_spdk_bridge.sockets import too_long


@asynccontextmanager
async def emulator(scratch: Path) -> AsyncIterator[str]:
    """An emulated target in a process of its own that ends with this one, however this one ends.

    Raises FailedPrecondition where the folder for temporary files is so deep that no socket can be in it.
    """
    socket, vhost = scratch / "spdk.sock", scratch / "vhost"
    if problem := too_long(socket):
        raise errors.FailedPrecondition(f"the emulated target cannot start: {problem}. Give a shorter TMPDIR.")
    vhost.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "opi_spdk_bridge", "emulate", "--socket", str(socket), "--vhost-dir", str(vhost),
        "--exit-with-stdin",
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,  # it ends after the bridge, not with it, when both are interrupted at a terminal
    )  # fmt: skip
    try:
        yield str(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
