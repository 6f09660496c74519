"""The HTTP server in the test's own loop, over real sockets, with RPCs that the test makes up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

from google.protobuf.message import Message

from opi_spdk_bridge.api.connection import Connection
from opi_spdk_bridge.api.http_server import HttpServer
from opi_spdk_bridge.api.interceptors import Requests
from opi_spdk_bridge.api.limits import Limits
from opi_spdk_bridge.api.listeners import Listener
from tests.http.contract import METHODS
from tests.support.patience import HOUR_S, until

Call = Callable[[Any], Awaitable[Message]]


@contextlib.asynccontextmanager
async def serving(**calls: Call) -> AsyncIterator[tuple[HttpServer, str, int]]:
    """A server of the contract's methods; `calls` has what carries out some of them. Gives its host and port."""
    methods = [replace(item, call=calls.get(item.name, item.call)) for item in METHODS]
    server = HttpServer(methods, Requests(Limits(requests=8, request_s=10 * HOUR_S)), [Listener("127.0.0.1:0")], [])
    host, _, port = (await server.start())[0].rpartition(":")
    try:
        yield server, host, int(port)
    finally:
        await server.stop(0.1)


async def seen(server: HttpServer, *states: Any) -> None:
    """Waits until a connection of the server has read so much of a request: IDLE (nothing whole yet), SEND_BODY."""
    await until(lambda: any(each.conn.their_state in states for each in connections(server)))


def connections(server: HttpServer) -> list[Connection]:
    """Those that the server has open."""
    return [each for part in server._servers for each in cast("set[Connection]", part.server_state.connections)]


@contextlib.asynccontextmanager
async def client(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to send raw bytes on."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
