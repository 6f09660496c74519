"""An SPDK target's socket whose every byte the test decides; only the handshake answers itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from opi_spdk_bridge import deadline
from opi_spdk_bridge.spdk.client import Client
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, PATIENCE_S, spin
from tests.support.patience import until as until

T = TypeVar("T")

METHODS = ["bdev_get_bdevs", "keyring_file_add_key"]


class ScriptedTarget:
    """Listens on `path`. Requests other than the handshake's go to `answers`, by method, or wait in `requests`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.up = asyncio.Event()
        self.up.set()
        self.handshake = True
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.received: list[dict[str, Any]] = []
        self.reads: list[int] = []
        """How many requests each read of the socket brought."""
        self.connections = 0
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, self.path)

    async def close(self) -> None:
        """Stops listening and drops the connection."""
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        await self.drop()
        for task in list(self._serving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def drop(self) -> None:
        """Closes the connection."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None

    async def request(self, method: str) -> dict[str, Any]:
        """The next request, which must be of that method."""
        async with asyncio.timeout(PATIENCE_S):
            request = await self.requests.get()
        assert request["method"] == method
        return request

    def answer(self, request: dict[str, Any], result: Any) -> None:
        self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def refuse(self, request: dict[str, Any], code: int, message: str) -> None:
        self.send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message}})

    def send(self, message: Any) -> None:
        self.send_bytes(json.dumps(message).encode() + b"\n")

    def send_bytes(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.connections += 1
        self._writer = writer
        try:
            await self._serve(reader)
        except OSError:
            pass
        finally:
            writer.close()
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        decoder, text = json.JSONDecoder(), ""
        while data := await reader.read(1 << 20):
            text += data.decode()
            count = 0
            while text:
                try:
                    request, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    break
                text = text[end:]
                count += 1
                self._take(request)
            self.reads.append(count)

    def _take(self, request: dict[str, Any]) -> None:
        greetings: dict[str, Any] = {"spdk_get_version": {"version": "SPDK v26.09"}, "rpc_get_methods": METHODS}
        method = request["method"]
        if self.handshake and method in greetings:
            self.answer(request, greetings[method])
        elif self.handshake and method == "framework_wait_init":
            task = asyncio.create_task(self._answer_when_up(request))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        else:
            self.received.append(request)
            if method in self.answers:
                result = self.answers[method](request.get("params"))
                if isinstance(result, tuple):
                    self.refuse(request, *result)
                elif result is not None:
                    self.answer(request, result)
            else:
                self.requests.put_nowait(request)

    async def _answer_when_up(self, request: dict[str, Any]) -> None:
        await self.up.wait()
        self.answer(request, True)

    @property
    def methods(self) -> list[str]:
        """The methods called so far, the handshake's left out."""
        return [request["method"] for request in self.received]


@asynccontextmanager
async def scripted(**client_options: Any) -> AsyncIterator[tuple[ScriptedTarget, Client]]:
    """A scripted target with a client connected to it, which takes no silence for one unless it is told to."""
    with tempfile.TemporaryDirectory() as folder:
        target = ScriptedTarget(Path(folder) / "spdk.sock")
        await target.listen()
        client = Client(str(target.path), **{"silence_s": 1000 * HOUR_S, **client_options})
        await client.start()
        await client.ready(PATIENCE_S)
        try:
            yield target, client
        finally:
            await client.close()
            await target.close()


async def overdue(clock: Clock, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work when its deadline passes while it waits, all being done that it does not wait for."""
    with deadline.limit(HOUR_S):
        task = asyncio.create_task(work)
    await spin()
    assert not task.done()
    clock.advance(HOUR_S)
    return await task
