"""The processes of a run: emulators, bridges, the bare server, the load client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.jsonrpc import Raw

_LONGEST_START_S = 60.0
_AT_ONCE = [  # a channel that tries again at once, and with a connection of its own
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 10),
    ("grpc.min_reconnect_backoff_ms", 10),
    ("grpc.max_reconnect_backoff_ms", 10),
]


class Process:
    """A Python module as a process, its output in a file of `folder`."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self._arguments = arguments
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns at once."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self._arguments, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """Ends it in good order."""
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
            self._process = None

    @property
    def resident_bytes(self) -> int:
        """Memory in use now."""
        return int(self._seen.memory_info().rss)

    @property
    def busy_s(self) -> float:
        """CPU time used so far, in seconds."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def _seen(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    async def said(self, pattern: str) -> str:
        """The group of the first match in its output; raises RuntimeError when it ends or takes too long."""
        deadline = time.monotonic() + _LONGEST_START_S
        while True:
            found = re.search(pattern, self._log.read_text())
            if found:
                return found[1]
            self._require_starting(deadline)
            await asyncio.sleep(0.002)

    def _require_starting(self, deadline: float) -> None:
        if self._process is None or self._process.returncode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{' '.join(self._arguments)} does not start: {self._log.read_text()}")


class Emulator(Process):
    """An emulated target at the given pace (a real one's is 4 ms)."""

    def __init__(self, folder: Path, name: str, poll_interval_ms: float) -> None:
        self.socket = str(folder / f"{name}.sock")
        flags = ("--socket", self.socket, "--vhost-dir", str(folder), "--poll-interval-ms", str(poll_interval_ms))
        super().__init__(folder, name, "opi_spdk_bridge", "emulate", *flags)

    async def start(self) -> None:
        """Returns when it answers."""
        self._forget_socket()
        await super().start()
        deadline = time.monotonic() + _LONGEST_START_S
        while True:
            with contextlib.suppress(OSError):
                async with Raw(self.socket) as raw:
                    await raw.call("spdk_get_version")
                    return
            self._require_starting(deadline)
            await asyncio.sleep(0.002)

    def _forget_socket(self) -> None:
        Path(self.socket).unlink(missing_ok=True)


class Bridge(Process):
    """A bridge with a SQLite state, on a target; `address` is known once it serves."""

    def __init__(self, folder: Path, name: str, target: Emulator) -> None:
        fixed = ("--spdk", target.socket, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        state = ("--state", f"sqlite:{folder / name}.sqlite")
        super().__init__(folder, name, "opi_spdk_bridge", "serve", *fixed, *state)
        self.address = ""
        self.http_address = ""
        self.start_s = 0.0

    async def start(self) -> None:
        """Returns when its health is SERVING; `start_s` is how long that took."""
        started = time.perf_counter()
        await super().start()
        self.address = await self.said(r"serves gRPC on ([^\s,]+)")
        self.http_address = await self.said(r"http://([^\s,]+)")
        async with grpc.aio.insecure_channel(self.address, options=_AT_ONCE) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
                await asyncio.sleep(0.002)
        self.start_s = time.perf_counter() - started


class Floor(Process):
    """The gRPC server that does nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "floor", "benchmarks.floor")
        self.address = ""

    async def start(self) -> None:
        await super().start()
        self.address = await self.said(r"serves gRPC on (\S+)")


@asynccontextmanager
async def started(*processes: Process) -> AsyncIterator[None]:
    """Runs them, in order, while the context lasts."""
    try:
        for process in processes:
            await process.start()
        yield
    finally:
        for process in reversed(processes):
            await process.kill()


async def load(job: str, **parameters: Any) -> Any:
    """Has the load client do a job (see load.py) and returns what it found."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as found:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.load", job, json.dumps(parameters), found.name
        )
        if await process.wait():
            raise RuntimeError(f"the load client failed at {job}")
        return json.load(found)
