"""The load client: `python -m benchmarks.load JOB JSON FILE` does a job and puts what it measured into FILE, as JSON.

Durations are in milliseconds. A worker has one call in flight, so the number of workers is the number in flight. Before
each call of a latency measurement a worker pauses for a random 0 to 4 ms: else every call would fall into step with
the target's looks.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import opi
from benchmarks.jsonrpc import Raw
from opi_spdk_bridge.store.base import Row
from opi_spdk_bridge.store.sqlite import SqliteStore

LONGEST_PAUSE_S = 0.004
PARENTS = 8
LISTED = "listed"

Work = Callable[[int, int], Awaitable[object]]
"""One call of worker number `w`, its `i`-th."""


class Samples:
    """Durations in ms by label, and calls per second of whole phases."""

    def __init__(self) -> None:
        self.durations_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.rates: defaultdict[str, list[float]] = defaultdict(list)

    async def one(self, label: str, work: Callable[[], Awaitable[object]]) -> None:
        """One call, after a pause."""
        await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_S))
        started = time.perf_counter()
        await work()
        self.durations_ms[label].append(1e3 * (time.perf_counter() - started))

    async def phase(self, label: str, workers: int, calls: int, work: Work) -> None:
        """Each worker makes that many calls, with pauses."""

        async def worker(number: int) -> None:
            for index in range(calls):
                await self.one(label, partial(work, number, index))

        await asyncio.gather(*map(worker, range(workers)))

    async def rate(self, label: str, workers: int, seconds: float, work: Work, *, calls_each: int = 1) -> None:
        """Each worker works without a pause until the time is over; `work` makes `calls_each` calls."""
        started = time.perf_counter()
        done = 0

        async def worker(number: int) -> None:
            nonlocal done
            while time.perf_counter() < started + seconds:
                await work(number, 0)
                done += calls_each

        await asyncio.gather(*map(worker, range(workers)))
        self.rates[label].append(done / (time.perf_counter() - started))


class Side:
    """A bridge on a target, prepared for a number of workers that each work on volumes of their own."""

    def __init__(self, name: str, client: opi.Client, raw: Raw) -> None:
        self.name = name
        self.client = client
        self.raw = raw
        self._made = 0

    async def prepare(self, workers: int, calls: int) -> None:
        """Subsystems, a volume for each call, and a subsystem with more namespaces than a page has."""
        for parent in [LISTED, *(self.parent(number) for number in range(PARENTS))]:
            await self.client.create_subsystem(parent)
        listed = [f"{LISTED}-{number:03}" for number in range(opi.PAGE + 10)]
        volumes = [self.volume(worker, index) for worker in range(workers) for index in range(calls)]
        await at_once(self.client.create_volume(name) for name in (*listed, *volumes))
        await at_once(self.client.create(LISTED, name) for name in listed)

    def parent(self, worker: int) -> str:
        return f"parent-{worker % PARENTS}"

    def volume(self, worker: int, index: int) -> str:
        return f"volume-{worker:02}-{index:02}"

    async def ask_raw(self, _worker: int, _index: int) -> None:
        await self.raw.call("spdk_get_version")

    async def create(self, worker: int, index: int) -> None:
        await self.client.create(self.parent(worker), self.volume(worker, index))

    async def get(self, worker: int, index: int) -> None:
        await self.client.get(self.parent(worker), self.volume(worker, index))

    async def get_listed(self, worker: int, _index: int) -> None:
        await self.client.get(LISTED, f"{LISTED}-{worker % opi.PAGE:03}")

    async def list(self, _worker: int, _index: int) -> None:
        await self.client.list(LISTED)

    async def delete(self, worker: int, index: int) -> None:
        await self.client.delete(self.parent(worker), self.volume(worker, index))

    async def create_and_delete(self, worker: int, index: int) -> None:
        await self.create(worker, index)
        await self.delete(worker, index)

    async def create_subsystem(self, worker: int, index: int) -> None:
        await self.client.create_subsystem(f"made-{worker:02}-{index:02}")

    async def delete_subsystem(self, worker: int, index: int) -> None:
        await self.client.delete_subsystem(f"made-{worker:02}-{index:02}")


async def at_once(work: Iterator[Awaitable[object]], most: int = 64) -> None:
    """Awaits all of it, `most` at a time."""

    async def worker() -> None:
        for item in work:
            await item

    await asyncio.gather(*(worker() for _ in range(most)))


async def _sides(stack: AsyncExitStack, sides: dict[str, list[str]]) -> list[Side]:
    return [
        Side(
            name,
            await stack.enter_async_context(opi.Client(address)),
            await stack.enter_async_context(Raw(socket)),
        )
        for name, (address, socket) in sides.items()
    ]


async def prepare(sides: dict[str, list[str]], workers: int, calls: int) -> None:
    """Makes on each side what the other jobs work on."""
    async with AsyncExitStack() as stack:
        for side in await _sides(stack, sides):
            await side.prepare(workers, calls)


async def latency(
    sides: dict[str, list[str]], floor: str, state: str, workers: int, calls: int, rounds: int
) -> dict[str, Any]:
    """What each call costs with so many in flight: raw and OPI calls of each side, the bare server and the store."""
    samples = Samples()
    async with AsyncExitStack() as stack:
        opened = await _sides(stack, sides)
        bare = Side("floor", await stack.enter_async_context(opi.Client(floor)), opened[0].raw)
        store = SqliteStore(Path(state))
        await store.open()
        stack.push_async_callback(store.close)

        async def commit(worker: int, index: int) -> None:
            now = time.time()
            name = opi.namespace("parent", f"{worker}-{index}")
            await store.commit([Row(name, "nvmeNamespace", "ready", 1, b"d" * 80, None, b"f" * 200, b"", now, now)])

        for _ in range(rounds):
            for side in opened:
                for label, work in (
                    ("raw", side.ask_raw),
                    ("Create", side.create),
                    ("raw", side.ask_raw),
                    ("Get", side.get),
                    ("List", side.list),
                    ("raw", side.ask_raw),
                    ("Delete", side.delete),
                    ("CreateSubsystem", side.create_subsystem),
                    ("cleanup", side.delete_subsystem),
                ):
                    await samples.phase(f"{side.name} {label}", workers, calls, work)
            for label, work in (
                ("Create", bare.create), ("Get", bare.get), ("List", bare.list), ("Delete", bare.delete),
                ("CreateSubsystem", bare.create_subsystem),
            ):  # fmt: skip
                await samples.phase(f"floor {label}", workers, calls, work)
            await samples.phase("commit", workers, calls, commit)
    return samples.durations_ms


async def throughput(
    sides: dict[str, list[str]], floor: str, workers: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """Calls per second, without pauses."""
    samples = Samples()
    async with AsyncExitStack() as stack:
        opened = await _sides(stack, sides)
        bare = Side("floor", await stack.enter_async_context(opi.Client(floor)), opened[0].raw)
        for _ in range(rounds):
            for side in (*opened, bare):
                if side is not bare:
                    await samples.rate(f"{side.name} raw", workers, seconds, side.ask_raw)
                for label, work, calls_each in (
                    ("Create+Delete", side.create_and_delete, 2), ("Get", side.get_listed, 1), ("List", side.list, 1)
                ):  # fmt: skip
                    await samples.rate(f"{side.name} {label}", workers, seconds, work, calls_each=calls_each)
    return samples.rates


def _place(number: int, subsystems: int) -> tuple[str, str]:
    """Subsystem and name of the namespace with that number."""
    return f"big-{number % subsystems:03}", f"thing-{number:05}"


async def fill(address: str, subsystems: int, first: int, last: int) -> float:
    """Makes namespaces `first` to `last` with their volumes, and the subsystems; returns calls per second."""
    async with opi.Client(address) as client:
        started = time.perf_counter()
        await at_once(client.create_subsystem(f"big-{number:03}") for number in range(subsystems))
        numbers = range(first, last)
        await at_once(client.create_volume(_place(number, subsystems)[1]) for number in numbers)
        await at_once(client.create(*_place(number, subsystems)) for number in numbers)
        return (subsystems + 2 * len(numbers)) / (time.perf_counter() - started)


async def reads(few: list[Any], many: list[Any], rounds: int) -> dict[str, Any]:
    """Get and List of bridges with few and many namespaces, in turns; each is [address, subsystems, namespaces]."""
    samples = Samples()
    async with AsyncExitStack() as stack:
        sides = [
            (name, await stack.enter_async_context(opi.Client(address)), subsystems, namespaces)
            for name, (address, subsystems, namespaces) in (("few", few), ("many", many))
        ]
        for _ in range(rounds):
            for name, client, subsystems, namespaces in sides:
                parent, volume = _place(random.randrange(namespaces), subsystems)
                await samples.one(f"{name} Get", partial(client.get, parent, volume))
                for size in (opi.PAGE, opi.SMALL_PAGE):
                    await samples.one(f"{name} List({size})", partial(client.list, parent, size))
    return samples.durations_ms


async def replay(socket: str, subsystems: int, namespaces: int) -> float:
    """Sends an empty target all the calls that make what `fill` makes; returns how many seconds they take."""
    async with Raw(socket) as raw:
        started = time.perf_counter()
        answers: list[asyncio.Future[Any]] = []
        for number in range(subsystems):
            spec = opi.subsystem_request(f"big-{number:03}").nvme_subsystem.spec
            common = {"nqn": spec.nqn, "serial_number": f"{number:020}", "max_namespaces": opi.MOST_NAMESPACES}
            answers += (
                raw.submit("nvmf_create_subsystem", **common, allow_any_host=False),
                raw.submit("nvmf_subsystem_add_host", nqn=spec.nqn, host=spec.hostnqn),
            )
        for number in range(namespaces):
            uuid = f"00000000-0000-4000-8000-{number:012}"
            _, name = _place(number, subsystems)
            answers.append(raw.submit("bdev_null_create", name=name, block_size=512, num_blocks=2048, uuid=uuid))
        for number in range(namespaces):
            parent, name = _place(number, subsystems)
            nqn = opi.subsystem_request(parent).nvme_subsystem.spec.nqn
            inner = {"bdev_name": name, "nguid": f"{number + 1:032X}", "uuid": f"00000000-0000-4000-8000-{number:012}"}
            answers.append(raw.submit("nvmf_subsystem_add_ns", nqn=nqn, namespace=inner))
        await asyncio.gather(*answers)
        return time.perf_counter() - started


async def web(grpc: str, http: str, workers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Get and List over gRPC and over HTTP, in turns; calls per second by label. What `fill` made must be there."""
    samples = Samples()
    parent, volume = _place(0, 1)
    subsystem = f"http://{http}/v1/{opi.subsystem(parent)}"
    connector = aiohttp.TCPConnector(limit=workers)
    async with opi.Client(grpc) as client, aiohttp.ClientSession(connector=connector) as over_http:

        async def ask(url: str) -> None:
            async with over_http.get(url) as answer:
                answer.raise_for_status()
                await answer.read()

        work: dict[str, Work] = {
            "grpc Get": lambda _w, _i: client.get(parent, volume),
            "http Get": lambda _w, _i: ask(f"http://{http}/v1/{opi.namespace(parent, volume)}"),
            "grpc List": lambda _w, _i: client.list(parent),
            "http List": lambda _w, _i: ask(f"{subsystem}/nvmeNamespaces?page_size={opi.PAGE}"),
        }
        for _ in range(rounds):
            for label, each in work.items():
                await samples.rate(label, workers, seconds, each)
    return samples.rates


_JOBS: dict[str, Callable[..., Any]] = {
    job.__name__: job for job in (prepare, latency, throughput, fill, reads, replay, web)
}

if __name__ == "__main__":
    job, parameters, place = sys.argv[1:]
    measured = opi.run(_JOBS[job](**json.loads(parameters)))
    Path(place).write_text(json.dumps(measured))
