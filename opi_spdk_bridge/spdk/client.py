"""A persistent, pipelined JSON-RPC client of an SPDK target, which connects again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any, TypeVar

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk import silence
from opi_spdk_bridge.spdk.connection import Call as Call
from opi_spdk_bridge.spdk.connection import Connection
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.release import Release
from opi_spdk_bridge.telemetry.observer import NoObserver, Observer

T = TypeVar("T")
log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 1.0


class Client:
    """Keeps one connection to the target at `address` (a Unix socket's path or host:port), forever trying to reconnect.

    A target that has answered nothing for `silence_s` is away, too, though the connection stands: it may be stopped, or
    hang. What was sent waits for its answers; nothing more is sent until one comes. `on_connected` runs after each
    successful handshake and when a silence ends, `on_lost` after each loss of an established connection and when a
    silence has been noticed.
    """

    def __init__(
        self,
        address: str,
        *,
        connect_grace_s: float = 1.0,
        call_timeout_s: float = 30.0,
        silence_s: float = 5.0,
        observer: Observer | None = None,
    ) -> None:
        self.address = address
        self.connections = 0
        """How many have been made since the start."""
        self._observer = observer or NoObserver()
        self._connect_grace_s = connect_grace_s
        self._silence_s = silence_s
        self.call_timeout_s = call_timeout_s
        self._connection: Connection | None = None
        self._release: Release | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reason = "it has not answered yet"
        self._silent = False
        self.on_connected: list[Callable[[], None]] = []
        self.on_lost: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        """Whether the target has answered that it is up, the connection stands, and it goes on answering."""
        return self._connected.is_set()

    @property
    def silent_s(self) -> float:
        """For how many seconds the target has left calls unanswered; 0 while it answers, and without a connection."""
        return self._connection.silent_s() if self._connection is not None else 0.0

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
        return errors.Unavailable(f"the SPDK target at {self.address} {self.trouble}")

    @property
    def trouble(self) -> str:
        """Why the target cannot be reached, or could not when it last was away, as the end of a sentence about it."""
        if self._silent:
            return f"does not answer: nothing has come from it for {self.silent_s:.0f} s"
        return f"cannot be reached: {self._reason}"

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
                    await self._until_closed(connection)
                    self._lost()
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        finally:
            self._connected.clear()
            if self._connection is not None:
                self._connection.close()
                await asyncio.shield(self._connection.closed)

    def _new_connection(self) -> Connection:
        return Connection(self._observer)

    async def _connect(self) -> Connection | None:
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

    async def _shake_hands(self, connection: Connection) -> bool:
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

    async def _until_closed(self, connection: Connection) -> None:
        work = silence.watch(connection, self._silence_s, self._fell_silent, self._answers_again)
        watching = asyncio.create_task(work, name="spdk-silence")
        try:
            await asyncio.shield(connection.closed)
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    def _fell_silent(self) -> None:
        self._silent = True
        self._connected.clear()
        log.warning("the SPDK target at %s does not answer: nothing has come for %.1f s", self.address, self.silent_s)
        for notify in self.on_lost:
            notify()

    def _answers_again(self) -> None:
        if self._connection is None or self._connection.closed.done():
            return
        self._silent = False
        self._connected.set()
        log.info("the SPDK target at %s answers again", self.address)
        for notify in self.on_connected:
            notify()

    def _lost(self) -> None:
        self._connected.clear()
        self._connection = None
        self._silent = False
        self._reason = "the connection was lost"
        log.warning("lost the connection to the SPDK target at %s", self.address)
        for notify in self.on_lost:
            notify()
