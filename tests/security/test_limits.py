"""No peer holds the daemon: connections, requests at once, peers that are dead."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import httpx
import pytest
from google.protobuf.message import Message

from opi_spdk_bridge.api import connection, server
from opi_spdk_bridge.pb.storage.backend_null_pb2 import ListNullVolumesResponse
from tests.http.web import problem_of
from tests.security.served import BOTH, GRPC, HTTP, Served, call, serving

_MANY = 1000
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_PING = 6
_QUICKER = 100


async def _answers(served: Served, protocol: str) -> bool:
    if protocol == GRPC:
        return (await call(served.at(GRPC), "ListNullVolumes"))[0] == "OK"
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{served.at(HTTP)}/v1/nullVolumes")).status_code == 200


@pytest.mark.parametrize("protocol", BOTH)
async def test_a_peer_that_opens_a_thousand_connections_stops_nobody_else(protocol: str) -> None:
    async with serving() as served, contextlib.AsyncExitStack() as opened:
        host, _, port = served.at(protocol).rpartition(":")
        for _ in range(_MANY):
            _, writer = await asyncio.open_connection(host, int(port))
            opened.callback(writer.close)
        started = time.monotonic()
        assert await _answers(served, protocol)
        assert time.monotonic() - started < 2


async def test_connections_that_say_nothing_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SLOWEST_S", 0.3)
    async with serving() as served:
        host, _, port = served.at(HTTP).rpartition(":")
        readers = [(await asyncio.open_connection(host, int(port))) for _ in range(100)]
        async with asyncio.timeout(5):
            assert {await reader.read() for reader, _ in readers} == {b""}
        for _, writer in readers:
            writer.close()


@pytest.mark.parametrize("protocol", BOTH)
async def test_more_requests_at_once_than_are_taken_are_told_so(protocol: str) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any) -> Message:
        begun.set()
        await finish.wait()
        return ListNullVolumesResponse()

    async with serving(most_at_once=1, ListNullVolumes=slow) as served:
        first = asyncio.create_task(call(served.at(GRPC), "ListNullVolumes"))
        await begun.wait()
        if protocol == GRPC:
            code, told = await call(served.at(GRPC), "GetNullVolume", {"name": "nullVolumes/x"})
            assert code == "RESOURCE_EXHAUSTED"
            assert "at work on 1 requests" in told
        else:
            async with httpx.AsyncClient() as client:
                assert problem_of(await client.get(f"http://{served.at(HTTP)}/v1/nullVolumes/x")) == (429, 8, "")
        finish.set()
        assert (await first)[0] == "OK"
        assert await _answers(served, protocol)


async def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    async with serving() as served:
        code, told = await call(served.at(GRPC), "GetNullVolume", {"name": "x" * (5 << 20)})
        assert code == "RESOURCE_EXHAUSTED"
        assert "larger than max" in told


class TestKeepalive:
    @pytest.fixture(autouse=True)
    def _hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The daemon's own options, but all times a hundredth."""
        hurried = [(name, value // _QUICKER if name.endswith("_ms") else value) for name, value in server._OPTIONS]
        monkeypatch.setattr(server, "_OPTIONS", hurried)

    @pytest.mark.parametrize("alive", [True, False])
    async def test_a_peer_is_shed_exactly_when_it_is_dead(self, alive: bool) -> None:
        async with serving(http=[]) as served:
            host, _, port = served.at(GRPC).rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(_PREFACE)
            until = asyncio.get_running_loop().time() + 2
            pings, shed = 0, False
            while not shed and asyncio.get_running_loop().time() < until:
                try:
                    kind, flags, body = await asyncio.wait_for(_frame(reader), 1)
                except TimeoutError:
                    continue
                except (ConnectionError, asyncio.IncompleteReadError):
                    shed = True
                    continue
                if kind == _PING and not flags & 1:
                    pings += 1
                    if alive:
                        writer.write(b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + body)
            writer.close()
            assert pings >= 1
            assert shed is not alive


async def _frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """An HTTP/2 frame: its type, flags and payload (RFC 9113, section 4.1)."""
    head = await reader.readexactly(9)
    return head[3], head[4], await reader.readexactly(int.from_bytes(head[:3], "big"))
