"""Clients that send or take slowly, or not HTTP at all, and the server's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import pytest
from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.api import connection
from opi_spdk_bridge.api.http_server import HttpServer
from opi_spdk_bridge.api.interceptors import Requests
from opi_spdk_bridge.api.limits import Limits
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.pb.storage.backend_null_pb2 import ListNullVolumesResponse, NullVolume
from tests.http.contract import METHODS
from tests.http.server import client, connections, seen, serving
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, PATIENCE_S, spin, until

_HEAD = b"POST /v1/nullVolumes HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n"
_GET = b"GET /v1/nullVolumes HTTP/1.1\r\nhost: x\r\n\r\n"
_NONE = {"nullVolumes": [], "nextPageToken": ""}


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is what takes longer than this."""
    monkeypatch.setattr(connection, "SLOWEST_S", HOUR_S)


def _parse(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("sent", [b"GET /v1/null", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow:"])
async def test_a_head_that_does_not_end_is_a_408(sent: bytes, clock: Clock) -> None:
    async with serving() as (server, host, port), client(host, port) as (reader, writer):
        writer.write(sent)
        await _begun(server)
        clock.advance(HOUR_S)
        code, status = _parse(await asyncio.wait_for(reader.read(), PATIENCE_S))
        assert (code, status["code"]) == (408, 4)


async def test_a_head_that_drips_is_a_408(clock: Clock) -> None:
    async with serving() as (server, host, port), client(host, port) as (reader, writer):
        for sixth in range(1, 6):
            writer.write(b"a")
            await _begun(server, sixth)
            clock.advance(HOUR_S / 6)
        writer.write(b"a")
        await _begun(server, 6)
        clock.advance(HOUR_S / 6)
        assert _parse(await asyncio.wait_for(reader.read(), PATIENCE_S))[0] == 408


async def test_a_client_that_says_nothing_is_hung_up_on(clock: Clock) -> None:
    async with serving() as (server, host, port), client(host, port) as (reader, _writer):
        await seen(server, h11.IDLE)
        clock.advance(HOUR_S)
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""


async def test_a_second_request_may_be_slow_no_more_than_the_first(clock: Clock) -> None:
    async with serving(ListNullVolumes=_no_volumes) as (server, host, port), client(host, port) as (reader, writer):
        writer.write(_GET)
        await reader.readuntil(json.dumps(_NONE, separators=(",", ":")).encode())
        writer.write(_GET[:10])
        await _begun(server)
        clock.advance(HOUR_S)
        assert _parse(await asyncio.wait_for(reader.read(), PATIENCE_S))[0] == 408


async def test_a_body_that_does_not_come_is_a_408(clock: Clock) -> None:
    async with serving() as (server, host, port), client(host, port) as (reader, writer):
        writer.write(_HEAD + b'{"block')
        await seen(server, h11.SEND_BODY)
        await spin()  # up to where the body is waited for
        clock.advance(HOUR_S)
        code, status = _parse(await asyncio.wait_for(reader.read(), PATIENCE_S))
        assert (code, status["code"]) == (408, 4)


async def test_requests_at_work_are_not_hurried(clock: Clock) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    slow = _slow(begun, finish)
    async with serving(ListNullVolumes=slow) as (_, host, port), client(host, port) as (reader, writer):
        writer.write(_GET.replace(b"host", b"connection: close\r\nhost"))
        await begun.wait()
        clock.advance(2 * HOUR_S)
        await spin()
        finish.set()
        assert _parse(await asyncio.wait_for(reader.read(), PATIENCE_S)) == (200, _NONE)


async def test_a_client_that_takes_nothing_is_hung_up_on(clock: Clock) -> None:
    async def much(_request: Any) -> Message:
        return ListNullVolumesResponse(null_volumes=[NullVolume(uuid="x" * 1000)] * 20_000)

    async with serving(ListNullVolumes=much) as (server, host, port), client(host, port) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(_GET)
        await until(lambda: any(each._taking_limit for each in connections(server)))
        clock.advance(HOUR_S)
        await until(lambda: not connections(server))
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        taken = b""
        with contextlib.suppress(ConnectionError):
            taken = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert len(taken) < 20_000_000, "the whole answer was sent"


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET /" + b"a" * 100_000])
async def test_what_is_no_http_is_a_400(sent: bytes) -> None:
    async with serving() as (_, host, port), client(host, port) as (reader, writer):
        writer.write(sent)
        code, status = _parse(await asyncio.wait_for(reader.read(), PATIENCE_S))
        assert (code, status["code"]) == (400, 3)


async def test_a_body_that_breaks_off_in_bad_chunks_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ListNullVolumes=_no_volumes) as (server, host, port):
        async with client(host, port) as (reader, writer):
            writer.write(b"POST /v1/nullVolumes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            await seen(server, h11.SEND_BODY)
            writer.write(b"no number\r\n")
            assert _parse(await asyncio.wait_for(reader.read(), PATIENCE_S))[0] == 400
        async with client(host, port) as (reader, writer):
            writer.write(_GET)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_goes_away_in_its_body_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (server, host, port):
        async with client(host, port) as (_, writer):
            writer.write(_HEAD)
            await seen(server, h11.SEND_BODY)
        await until(lambda: not connections(server))
        await spin()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_stop_waits_for_requests_at_work() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    slow = _slow(begun, finish)
    async with serving(ListNullVolumes=slow) as (server, host, port), client(host, port) as (reader, writer):
        writer.write(_GET)
        await begun.wait()
        stopping = asyncio.create_task(server.stop(HOUR_S))
        await until(lambda: _is_refused(host, port))
        assert not stopping.done()
        finish.set()
        assert _parse(await asyncio.wait_for(reader.read(), PATIENCE_S)) == (200, _NONE)
        await stopping


async def _is_refused(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def test_an_address_that_is_taken_is_said_so() -> None:
    async with serving() as (_, host, port):
        second = HttpServer(METHODS, Requests(Limits()), [Listener(f"{host}:{port}")], [])
        with pytest.raises(errors.Unavailable, match=f"cannot listen on {host}:{port}"):
            await second.start()


@pytest.mark.parametrize("address", ["127.0.0.1:many", "nowhere.invalid:80", "nonsense"])
async def test_an_address_that_is_none_is_said_so(address: str) -> None:
    server = HttpServer(METHODS, Requests(Limits()), [Listener(address)], [])
    with pytest.raises(errors.Unavailable, match="cannot listen on"):
        await server.start()


def _slow(begun: asyncio.Event, finish: asyncio.Event) -> Callable[[Any], Awaitable[Message]]:
    """Carries out a request that tells when it has begun, and ends when it may."""

    async def slow(_request: Any) -> Message:
        begun.set()
        await finish.wait()
        return ListNullVolumesResponse()

    return slow


async def _begun(server: HttpServer, length: int = 1) -> None:
    """Waits until the server has read so much of a head that has not ended."""
    await until(lambda: any(each._begun and len(each.conn.trailing_data[0]) >= length for each in connections(server)))


async def _no_volumes(_request: Any) -> Message:
    return ListNullVolumesResponse()
