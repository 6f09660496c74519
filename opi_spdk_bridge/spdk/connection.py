"""One connection to an SPDK target: frames requests, matches answers, fails what is in flight when it ends.

Requests carry an id by which their answers are matched, so any number may be in flight. Requests submitted in one turn
of the event loop leave in one write: the target looks at its sockets every few milliseconds, and what arrives together
is answered together. Where they are many the first leave before the last are made, so that the target has work, too.

A call that was never written is a definite failure (Unavailable, DeadlineExceeded). One that was written and not
answered has an unknown outcome (ConnectionLost, AnswerTimeout). An answered error is an SpdkError.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import orjson

from opi_spdk_bridge import errors
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.telemetry.observer import Ended, Observer

T = TypeVar("T")
log = logging.getLogger(__name__)

_MOST_IN_A_WRITE = 64
_UCRED = struct.Struct("=iII")  # pid, uid, gid: unix(7), SO_PEERCRED


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One JSON-RPC request and how its result is read. `params` may hold key material: never log it unmasked."""

    method: str
    params: dict[str, Any] | None
    read: Callable[[Any], T]


_PROBE: Call[Any] = Call("spdk_get_version", None, lambda result: result)
_PROBE_TIMEOUT_S = 3600.0  # its answer, however late, is the end of a silence


@dataclass(slots=True)
class _InFlight:
    call: Call[Any]
    future: asyncio.Future[Any]
    timer: asyncio.TimerHandle
    ended: Ended
    sent_at: float
    """On the loop's clock."""


@dataclass(slots=True)
class _GivenUp:
    call: Call[Any]
    answered: asyncio.Future[None]
    sent_at: float


class Connection(asyncio.Protocol):
    """One socket's life: frames requests, matches answers, fails what is in flight when it ends."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._in_flight: dict[int, _InFlight] = {}
        self._given_up: dict[int, _GivenUp] = {}
        self._next_id = 0
        self._unsent: list[bytes] = []
        self._received = bytearray()
        self._heard_at = self._loop.time()
        self.heard = asyncio.Event()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=4 * 1024 * 1024)

    def submit(self, call: Call[Any], timeout_s: float) -> asyncio.Future[Any]:
        """Queues the request for the write at the end of this turn of the loop."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.closed.done() or self._transport is None or self._transport.is_closing():
            future.set_exception(errors.Unavailable("the SPDK target has closed the connection"))
            return future
        self._next_id += 1
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": self._next_id, "method": call.method}
        if call.params is not None:
            request["params"] = call.params
        timer = self._loop.call_later(timeout_s, self._time_out, self._next_id, timeout_s)
        ended = self._observer.spdk_call(call.method)
        self._in_flight[self._next_id] = _InFlight(call, future, timer, ended, self._loop.time())
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(orjson.dumps(request))
        if len(self._unsent) >= _MOST_IN_A_WRITE:
            self._flush()
        return future

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        if data and self._transport is not None and not self.closed.done():
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self.heard.set()
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._received) + lines[0]
            self._received.clear()
        self._received += rest
        for line in lines:
            if line:
                self._answer(line)

    def _answer(self, line: bytes) -> None:
        try:
            answer = orjson.loads(line)
            error = answer.get("error")
            refusal = None if error is None else (int(error["code"]), str(error["message"]))
            waiting = self._in_flight.pop(answer["id"], None)
        except (AttributeError, ValueError, KeyError, TypeError):
            log.error("the SPDK target sent what is not a JSON-RPC answer (%d bytes): reconnecting", len(line))
            self.close()
            return
        if waiting is None:
            if answer["id"] in self._given_up:
                self._given_up.pop(answer["id"]).answered.set_result(None)
            return
        waiting.timer.cancel()
        waiting.ended("ok" if refusal is None else "error")
        if waiting.future.done():
            return
        if refusal is not None:
            waiting.future.set_exception(SpdkError(waiting.call.method, *refusal))
            return
        try:
            waiting.future.set_result(waiting.call.read(answer.get("result")))
        except errors.BridgeError as judged:
            waiting.future.set_exception(judged)
        except Exception as problem:  # the reader is given whatever the target sent
            log.error("%s answered something unexpected: %s", waiting.call.method, type(problem).__name__)
            text = f"the SPDK target's answer to {waiting.call.method} has an unknown shape"
            waiting.future.set_exception(errors.AnswerUnreadable(text))

    def _time_out(self, number: int, timeout_s: float) -> None:
        waiting = self._in_flight.pop(number)
        waiting.ended("unknown")
        self._given_up[number] = _GivenUp(waiting.call, self._loop.create_future(), waiting.sent_at)
        if not waiting.future.done():
            said = f"the SPDK target did not answer {waiting.call.method} within {timeout_s:.3g} s"
            text = f"{said}; it may still carry it out"
            waiting.future.set_exception(errors.AnswerTimeout(text))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        for waiting in self._in_flight.values():
            waiting.timer.cancel()
            waiting.ended("unknown")
            if not waiting.future.done():
                text = f"the connection to the SPDK target was lost during {waiting.call.method}"
                waiting.future.set_exception(errors.ConnectionLost(text))
        self._in_flight.clear()
        for late in self._given_up.values():
            late.answered.set_result(None)
        self._given_up.clear()

    def given_up(self, call: Call[Any]) -> list[asyncio.Future[None]]:
        """For each such call that was given up and may still be carried out: a future that its answer ends."""
        same = (call.method, call.params)
        return [late.answered for late in self._given_up.values() if (late.call.method, late.call.params) == same]

    def silent_s(self) -> float:
        """For how many seconds nothing has come although a call is waiting; 0 where none is."""
        sent_at = [call.sent_at for call in self._in_flight.values()]
        sent_at += [call.sent_at for call in self._given_up.values()]
        return self._loop.time() - max(self._heard_at, min(sent_at)) if sent_at else 0.0

    def probe(self) -> None:
        """Sends a call that costs the target nothing."""
        self.submit(_PROBE, _PROBE_TIMEOUT_S).add_done_callback(lambda done: done.cancelled() or done.exception())

    @property
    def peer(self) -> tuple[int, int] | None:
        """(pid, uid) of the process at the other end of a Unix socket; None for TCP."""
        connection = self._transport.get_extra_info("socket") if self._transport is not None else None
        if connection is None or connection.family != socket.AF_UNIX:
            return None
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except (OSError, ValueError):  # the connection has just been lost
            return None
        pid, uid, _gid = _UCRED.unpack(credentials)
        return pid, uid

    def close(self) -> None:
        """Drops the connection at once."""
        if self._transport is not None:
            self._transport.abort()
