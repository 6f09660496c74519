"""A persistent, pipelined JSON-RPC connection to an SPDK target.

Requests carry an id by which their answers are matched, so any number may be in flight. Requests submitted in one turn
of the event loop leave in one write: the target looks at its sockets every few milliseconds, and what arrives together
is answered together. Where they are many the first leave before the last are made, so that the target has work, too.

A call that was never written is a definite failure (Unavailable, DeadlineExceeded). One that was written and not
answered has an unknown outcome (ConnectionLost, AnswerTimeout). An answered error is an SpdkError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import orjson

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.release import Release
from opi_spdk_bridge.telemetry.observer import Ended, NoObserver, Observer

T = TypeVar("T")
log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 1.0
_MOST_IN_A_WRITE = 64
_UCRED = struct.Struct("=iII")  # pid, uid, gid: unix(7), SO_PEERCRED


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One JSON-RPC request and how its result is read. `params` may hold key material: never log it unmasked."""

    method: str
    params: dict[str, Any] | None
    read: Callable[[Any], T]


@dataclass(slots=True)
class _InFlight:
    call: Call[Any]
    future: asyncio.Future[Any]
    timer: asyncio.TimerHandle
    ended: Ended


class _Connection(asyncio.Protocol):
    """One socket's life: frames requests, matches answers, fails what is in flight when it ends."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._in_flight: dict[int, _InFlight] = {}
        self._given_up: dict[int, tuple[Call[Any], asyncio.Future[None]]] = {}
        self._next_id = 0
        self._unsent: list[bytes] = []
        self._received = bytearray()
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
        self._in_flight[self._next_id] = _InFlight(call, future, timer, self._observer.spdk_call(call.method))
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
                self._given_up.pop(answer["id"])[1].set_result(None)
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
        self._given_up[number] = waiting.call, self._loop.create_future()
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
        for _, answered in self._given_up.values():
            answered.set_result(None)
        self._given_up.clear()

    def given_up(self, call: Call[Any]) -> list[asyncio.Future[None]]:
        """For each such call that was given up and may still be carried out: a future that its answer ends."""
        same = (call.method, call.params)
        return [answered for late, answered in self._given_up.values() if (late.method, late.params) == same]

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


class Client:
    """Keeps one connection to the target at `address` (a Unix socket's path or host:port), forever trying to reconnect.

    `on_connected` runs after each successful handshake, `on_lost` after each loss of an established connection.
    """

    def __init__(
        self,
        address: str,
        *,
        connect_grace_s: float = 1.0,
        call_timeout_s: float = 30.0,
        observer: Observer | None = None,
    ) -> None:
        self.address = address
        self.connections = 0
        """How many have been made since the start."""
        self._observer = observer or NoObserver()
        self._connect_grace_s = connect_grace_s
        self.call_timeout_s = call_timeout_s
        self._connection: _Connection | None = None
        self._release: Release | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reason = "it has not answered yet"
        self.on_connected: list[Callable[[], None]] = []
        self.on_lost: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        """Whether the target has answered that it is up, and the connection stands."""
        return self._connected.is_set()

    @property
    def release(self) -> Release:
        """What the target can do; of the last connection when it is away. Raises Unavailable before the first."""
        if self._release is None:
            raise self.unavailable()
        return self._release

    @property
    def peer_pid(self) -> int | None:
        """The target's process; None where that cannot be known (TCP, not connected, in another container)."""
        peer = self._connection.peer if self._connection is not None else None
        return peer[0] or None if peer is not None else None

    @property
    def peer_uid(self) -> int | None:
        """The user that the target runs as; None where that cannot be known (TCP, not connected)."""
        peer = self._connection.peer if self._connection is not None else None
        return peer[1] if peer is not None else None

    def unavailable(self) -> errors.Unavailable:
        """The error that says where the target should be and why it cannot be reached."""
        return errors.Unavailable(f"the SPDK target at {self.address} cannot be reached: {self._reason}")

    async def start(self) -> None:
        """Starts connecting; returns at once."""
        self._task = asyncio.create_task(self._run(), name="spdk-connection")

    async def close(self) -> None:
        """Ends the connection and the attempts to make one."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def ready(self, grace_s: float | None = None) -> None:
        """Waits for the connection, at most the grace time or the caller's deadline; raises Unavailable."""
        if self._connected.is_set():
            return
        try:
            async with asyncio.timeout(deadline.remaining_s(self._connect_grace_s if grace_s is None else grace_s)):
                await self._connected.wait()
        except TimeoutError:
            raise self.unavailable() from None

    def submit(self, call: Call[T]) -> asyncio.Future[T]:
        """Sends without waiting for the answer; calls submitted in one go leave in one write.

        The future ends in the result, an SpdkError, or one of Unavailable, DeadlineExceeded (nothing was sent) and
        ConnectionLost, AnswerTimeout (outcome unknown).
        """
        timeout_s = deadline.remaining_s(self.call_timeout_s)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._connection is None or not self._connected.is_set():
            future.set_exception(self.unavailable())
            return future
        if timeout_s <= 0:
            future.set_exception(errors.DeadlineExceeded(f"the deadline passed before {call.method} was sent"))
            return future
        return self._connection.submit(call, timeout_s)

    async def call(self, call: Call[T]) -> T:
        """Waits for the connection if need be, sends and returns the result; errors as for `submit`."""
        await self.ready()
        return await self.submit(call)

    async def answered_late(self, call: Call[Any]) -> bool:
        """Waits until the target has answered every such call that was given up; whether there were any.

        Raises AnswerTimeout.
        """
        late = self._connection.given_up(call) if self._connection is not None else []
        if late:
            _, unanswered = await asyncio.wait(late, timeout=deadline.remaining_s(self.call_timeout_s))
            if unanswered:
                raise errors.AnswerTimeout(f"the SPDK target may still carry out an earlier {call.method}")
        return bool(late)

    async def _run(self) -> None:
        delay_s = _FIRST_DELAY_S
        try:
            while True:
                connection = await self._connect()
                if connection is not None and await self._shake_hands(connection):
                    delay_s = _FIRST_DELAY_S
                    await asyncio.shield(connection.closed)
                    self._lost()
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        finally:
            self._connected.clear()
            if self._connection is not None:
                self._connection.close()
                await asyncio.shield(self._connection.closed)

    def _new_connection(self) -> _Connection:
        return _Connection(self._observer)

    async def _connect(self) -> _Connection | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.call_timeout_s):
                if "/" in self.address:
                    _, self._connection = await loop.create_unix_connection(self._new_connection, self.address)
                else:
                    host, _, port = self.address.rpartition(":")
                    _, self._connection = await loop.create_connection(
                        self._new_connection, host.strip("[]"), int(port)
                    )
        except (OSError, OverflowError, TimeoutError, ValueError) as problem:
            self._reason = str(problem) or "no answer to the connection attempt"
            return None
        return self._connection

    async def _shake_hands(self, connection: _Connection) -> bool:
        """Connected means that the framework is up: a target accepts connections before it is."""
        calls: list[Call[Any]] = [
            Call("framework_wait_init", None, bool),
            Call("spdk_get_version", None, lambda result: result["version"]),
            Call("rpc_get_methods", None, frozenset),
        ]
        try:
            answers = [connection.submit(call, self.call_timeout_s) for call in calls]
            _, version, methods = await asyncio.gather(*answers)
        except (SpdkError, errors.BridgeError) as problem:
            self._reason = f"it does not finish its start: {problem}"
            connection.close()
            await asyncio.shield(connection.closed)
            return False
        self._release = Release(version, methods)
        self._connected.set()
        self.connections += 1
        log.info("connected to %s at %s", version, self.address)
        for notify in self.on_connected:
            notify()
        return True

    def _lost(self) -> None:
        self._connected.clear()
        self._connection = None
        self._reason = "the connection was lost"
        log.warning("lost the connection to the SPDK target at %s", self.address)
        for notify in self.on_lost:
            notify()
