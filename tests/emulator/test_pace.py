"""The pace of the target: what is read at one look is answered at the next."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from opi_spdk_bridge.emulator.options import EmulatorOptions
from opi_spdk_bridge.emulator.server import serve
from tests.emulator.conftest import StartTarget
from tests.support.clock import Clock
from tests.support.patience import HOUR_S

INTERVAL_MS = 4
INTERVAL_S = HOUR_S
"""Of targets in the test's own process: no look comes but by the test's clock."""


class Watched:
    """A target in the test's own process, with the one client that it has."""

    def __init__(self, clock: Clock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clock = clock
        self._reader = reader
        self._writer = writer
        self._sent = 0
        self.answered: list[int] = []
        """The calls that have been answered, by number from 1."""

    async def send(self, *methods: str, **params: Any) -> None:
        """The calls in one write."""
        requests = []
        for method in methods:
            self._sent += 1
            requests.append({"id": self._sent, "method": method, **({"params": params} if params else {})})
        self._writer.write(b"".join(json.dumps(request).encode() for request in requests))
        await self.settle()

    async def later(self, intervals: float) -> list[int]:
        """What has been answered in all when so many intervals have passed."""
        self._clock.advance(intervals * INTERVAL_S)
        await self.settle()
        return self.answered

    async def settle(self) -> None:
        """Lets everything happen that waits for no clock: both ends are in this loop."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def read(self) -> None:
        while line := await self._reader.readline():
            self.answered.append(json.loads(line)["id"])


Start = Callable[[float], Awaitable[Watched]]


@pytest.fixture
async def start(folder: Path, clock: Clock) -> AsyncIterator[Start]:
    """Starts one that looks every so many seconds."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_one(interval_s: float) -> Watched:
            return await stack.enter_async_context(watched(folder, clock, interval_s))

        yield start_one


@contextlib.asynccontextmanager
async def watched(folder: Path, clock: Clock, interval_s: float) -> AsyncIterator[Watched]:
    path, up = folder / "spdk.sock", asyncio.Event()
    options = EmulatorOptions(str(path), vhost_dir=folder, poll_interval_ms=1000 * interval_s)
    serving = asyncio.create_task(serve(options, ready=up.set))
    await up.wait()
    reader, writer = await asyncio.open_unix_connection(path)
    made = Watched(clock, reader, writer)
    tasks = [serving, asyncio.create_task(made.read())]
    await made.settle()
    yield made
    writer.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_call_takes_two_looks(start: Start) -> None:
    target = await start(INTERVAL_S)
    await target.send("spdk_get_version")
    assert target.answered == []
    assert await target.later(1) == [], "it has been read"
    assert await target.later(1) == [1]


async def test_thirty_calls_in_one_write_take_no_longer(start: Start) -> None:
    target = await start(INTERVAL_S)
    await target.send(*["bdev_get_bdevs"] * 30)
    assert await target.later(1) == []
    assert await target.later(1) == list(range(1, 31))


async def test_the_looks_do_not_drift(start: Start) -> None:
    target = await start(INTERVAL_S)
    await target.later(0.3)
    await target.send("spdk_get_version")
    assert await target.later(0.7) == [], "read at 1, not at 1.3"
    await target.later(0.4)
    await target.send("spdk_get_version")
    assert await target.later(0.6) == [1], "and answered at 2, at which the next is read"
    assert await target.later(0.9) == [1]
    assert await target.later(0.1) == [1, 2]


async def test_a_call_that_needs_more_turns_is_answered_at_the_same_look(start: Start) -> None:
    target = await start(INTERVAL_S)
    nqn = "nqn.2016-06.io.spdk:a"
    await target.send("nvmf_create_subsystem", nqn=nqn)
    await target.later(2)
    await target.later(1)
    await target.send("nvmf_subsystem_get_listeners", nqn=nqn)
    assert await target.later(1) == [1]
    assert await target.later(1) == [1, 2]


async def test_without_a_pace_calls_are_answered_at_once(start: Start) -> None:
    target = await start(0)
    await target.send("spdk_get_version")
    assert target.answered == [1]


def test_the_pace_is_the_one_that_was_asked_for(start_target: StartTarget) -> None:
    client, calls = start_target("paced", poll_interval_ms=INTERVAL_MS).client, 40
    started = time.monotonic()
    for _ in range(calls):
        client.call("spdk_get_version")
    assert 1000 * (time.monotonic() - started) > (2 * calls - 2) * INTERVAL_MS, "a slow machine takes longer"
