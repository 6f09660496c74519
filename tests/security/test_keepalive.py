"""Connections that stand: clients that keep theirs alive are left alone, dead ones are shed, slow ones wait alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from opi_spdk_bridge.api import server
from tests.security.conftest import QUICKER
from tests.security.served import GRPC, Served, serving
from tests.support.patience import HOUR_S, PATIENCE_S

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_NO_WINDOW = b"\x00\x04\x00\x00\x00\x00"  # SETTINGS_INITIAL_WINDOW_SIZE: what is sent may have no byte
_ACK = 1
_PING_S = 10.0 / QUICKER  # as clients in the field ping: every 10 s
_PINGS = 15  # a server that takes these for abuse hangs up at the fourth

pytestmark = pytest.mark.usefixtures("hurried")


class HungUp(Exception):
    """The server ends the connection, and says why."""


class Peer:
    """A client's end of an HTTP/2 connection (RFC 9113), frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.kinds: list[int] = []
        """The types of the frames that came."""

    async def frame(self) -> tuple[int, int, bytes]:
        """The next frame: its type, flags and payload."""
        head = await self._reader.readexactly(9)
        self.kinds.append(head[3])
        return head[3], head[4], await self._reader.readexactly(int.from_bytes(head[:3], "big"))

    def send(self, kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> None:
        """Sends a frame."""
        self._writer.write(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)

    async def ping(self) -> None:
        """Pings and waits for the answer; raises HungUp."""
        self.send(_PING, bytes(8))
        while True:
            kind, flags, payload = await asyncio.wait_for(self.frame(), PATIENCE_S)
            if kind == _GOAWAY:
                raise HungUp(payload[8:].decode())
            if kind == _PING and flags & _ACK:
                return
            self.answer(kind, flags, payload)

    def answer(self, kind: int, flags: int, payload: bytes) -> None:
        """Answers the server's own pings."""
        if kind == _PING and not flags & _ACK:
            self.send(_PING, payload, _ACK)

    def watch(self) -> None:
        """Begins to watch the server's health."""
        texts = {":path": "/grpc.health.v1.Health/Watch", ":authority": "bridge", "te": "trailers"}
        texts["content-type"] = "application/grpc"
        head = b"\x83\x86" + b"".join(b"\x00" + _literal(name) + _literal(text) for name, text in texts.items())
        self.send(_HEADERS, head, 0x4, 1)
        self.send(_DATA, bytes(5), 0x1, 1)


def _literal(text: str) -> bytes:
    """Text in a head, without compression (RFC 7541, section 5.2)."""
    return bytes([len(text)]) + text.encode()


@contextlib.asynccontextmanager
async def _peer(served: Served) -> AsyncIterator[Peer]:
    host, _, port = served.at(GRPC).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_PREFACE)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize("alive", [True, False])
async def test_a_peer_is_shed_exactly_when_it_is_dead(alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers is asked again and again; the next ping comes only when the last one was answered."""
    if alive:
        _give(monkeypatch, "timeout", HOUR_S)
    async with serving(http=[]) as served, _peer(served) as peer, asyncio.timeout(PATIENCE_S):
        pings, shed = 0, False
        while not shed and pings < 3:
            try:
                kind, flags, payload = await peer.frame()
            except (ConnectionError, asyncio.IncompleteReadError):
                shed = True
                continue
            pings += kind == _PING and not flags & _ACK
            if alive:
                peer.answer(kind, flags, payload)
        assert pings >= 1
        assert shed is not alive


def _give(monkeypatch: pytest.MonkeyPatch, part: str, seconds: float) -> None:
    """Gives the options of that part of a name another time."""
    options = [(name, round(seconds * 1000) if part in name else value) for name, value in server._OPTIONS]
    monkeypatch.setattr(server, "_OPTIONS", options)


@pytest.mark.parametrize("watching", [False, True], ids=["idle", "watching"])
async def test_a_client_that_pings_every_10_s_stays_connected(watching: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, "timeout", HOUR_S)  # for this client's answers
    async with serving(http=[]) as served, _peer(served) as peer:
        if watching:
            peer.watch()
        for _ in range(_PINGS):
            await peer.ping()
            await asyncio.sleep(_PING_S)
        assert (_DATA in peer.kinds) is watching, "the first health, and nothing since"


async def test_a_client_that_floods_with_pings_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, "min_recv_ping_interval", HOUR_S)  # a flood however slow the machine
    async with serving(http=[]) as served, _peer(served) as peer:
        with pytest.raises(HungUp, match="too_many_pings"):
            await _flood(peer)


async def _flood(peer: Peer) -> None:
    for _ in range(100):
        await peer.ping()


async def test_a_watcher_that_takes_nothing_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    _give(monkeypatch, "timeout", HOUR_S)
    async with serving(http=[]) as served, _peer(served) as greedy, _peer(served) as watcher:
        greedy.send(_SETTINGS, _NO_WINDOW)
        greedy.watch()
        await greedy.ping()
        watcher.watch()
        for changes in range(1, 4):
            while watcher.kinds.count(_DATA) < changes:
                await asyncio.wait_for(watcher.frame(), PATIENCE_S)
            served.grpc.set_serving(bool(changes % 2))
        assert _DATA not in greedy.kinds
