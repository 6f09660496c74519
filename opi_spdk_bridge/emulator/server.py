"""Runs one emulated target: its JSON-RPC socket, its pace, its start and its end."""

import asyncio
import contextlib
import fcntl
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from .connection import Connection
from .options import EmulatorOptions
from .startup import Configuration
from .target import Target

SOCKET_PATH_MAX = 107
CONNECTIONS_MAX = 64
BACKLOG = 512


class SocketError(OSError):
    """The JSON-RPC socket cannot be made; the text says why."""


async def serve(options: EmulatorOptions, *, ready: Callable[[], None] | None = None) -> None:
    """Serves until SIGTERM, SIGINT or cancellation, and takes its sockets away.

    `ready` is called once the socket accepts connections and the configuration has been executed. Raises SocketError
    when the socket cannot be created or another target has it, and OSError or ValueError when the configuration fails.
    """
    path = options.config
    configuration = Configuration([]) if path is None else await asyncio.to_thread(Configuration.read, path)
    target = Target(options, configuration)
    await target.prepare()
    with _stop_signals() as stopped, _listen(options.socket) as listener:
        server = Server(target, listener, options.poll_interval_ms / 1000)
        target.on_failure = stopped.set_exception
        accepting = asyncio.create_task(server.accept())
        try:
            if not options.wait_for_rpc:
                await target.start()
            if ready is not None:
                ready()
            await stopped
        finally:
            accepting.cancel()
            server.close()
            await target.close()


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Future[None]]:
    """A future that a signal completes."""
    loop = asyncio.get_running_loop()
    stopped = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _listen(address: str) -> Iterator[socket.socket]:
    """A listening socket on a path or `host:port`; raises SocketError."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "/" not in address:
        with _bound_tcp(address, host, port) as listener:
            yield listener
    else:
        with _locked(address), _bound_unix(address) as listener:
            try:
                yield listener
            finally:
                Path(address).unlink(missing_ok=True)


def _bound_tcp(address: str, host: str, port: str) -> socket.socket:
    try:
        return socket.create_server((host, int(port)), backlog=BACKLOG)
    except OSError as problem:
        raise SocketError(f"cannot listen on {address}: {problem.strerror}") from None
    except (OverflowError, UnicodeError) as problem:
        raise SocketError(f"cannot listen on {address}: {problem}") from None


def _bound_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as problem:
        listener.close()
        raise SocketError(f"cannot listen on {path}: {problem.strerror}") from None
    return listener


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds a path by a lock beside it, as the target does (spdk_rpc_server_listen)."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_MAX:
        raise SocketError(f"the path {path} has {length} bytes, and {SOCKET_PATH_MAX} are the most of a Unix socket's")
    lock_path = Path(f"{path}.lock")
    try:
        lock = lock_path.open("w")
    except OSError as problem:
        raise SocketError(f"cannot listen on {path}: {problem.strerror} ({lock_path.parent})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SocketError(f"cannot listen on {path}: another target has it ({lock_path})") from None
        try:
            yield
        finally:
            lock_path.unlink(missing_ok=True)


class Server:
    """Accepts up to 64 connections and looks at them: at once, or every `interval_s` as the target does.

    The looks are at multiples of the interval since the start, so they do not drift; nothing runs while there is
    nothing to look at.
    """

    def __init__(self, target: Target, listener: socket.socket, interval_s: float) -> None:
        self._target = target
        self._listener = listener
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._connections: set[Connection] = set()
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self._woken: dict[Connection, None] = {}
        self._next_look: asyncio.Handle | None = None
        self._look_number = 0
        target.on_resume = self._resume

    async def accept(self) -> None:
        self._listener.setblocking(False)
        while True:
            await self._room.acquire()
            connection, _ = await self._loop.sock_accept(self._listener)
            _, protocol = await self._loop.connect_accepted_socket(self._make_connection, connection)
            self._connections.add(protocol)

    def _make_connection(self) -> Connection:
        return Connection(self._target.handle, self._target.activity, self, self._forget)

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._woken.pop(connection, None)
        self._room.release()

    def wake(self, connection: Connection) -> None:
        """Has a connection looked at: data arrived, or an answer became ready."""
        self._woken[connection] = None
        if self._next_look is None and not self._target.paused:
            self._schedule()

    def _resume(self) -> None:
        if self._woken and self._next_look is None:
            self._schedule()

    def _schedule(self) -> None:
        """A look is never repeated: a loop whose clock counts whole milliseconds can be early for one."""
        if not self._interval_s:
            self._next_look = self._loop.call_soon(self._look)
            return
        elapsed = self._loop.time() - self._started_at
        self._look_number = max(self._look_number, math.floor(elapsed / self._interval_s)) + 1
        self._next_look = self._loop.call_at(self._started_at + self._look_number * self._interval_s, self._look)

    def _look(self) -> None:
        self._next_look = None
        if self._target.paused:
            return
        woken, self._woken = self._woken, {}
        for connection in woken:
            connection.look()
        if not self._interval_s:
            self._target.reactor.run()
            for connection in woken:
                connection.flush()
        for connection in woken:
            if connection.busy:
                self.wake(connection)

    def close(self) -> None:
        for connection in list(self._connections):
            connection.hang_up()
