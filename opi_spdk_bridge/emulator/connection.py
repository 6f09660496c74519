"""One client of the JSON-RPC socket (lib/jsonrpc/jsonrpc_server_tcp.c)."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from .activity import Activity
from .dispatch import Handler, HangUpError
from .framing import Scanner
from .reactor import Work
from .registry import INTERNAL_ERROR, RpcError
from .requests import (
    InvalidRequestError,
    Request,
    decode,
    decode_first,
    error_answer,
    invalid_request_answer,
    parse_request,
    result_answer,
)

logger = logging.getLogger(__name__)

RECEIVE_BUFFER_BYTES = 256 * 1024

Reply = Callable[[bytes], None]


class Looks(Protocol):
    """Decides when a connection that has something to do is looked at (server.py)."""

    def wake(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """Reads requests, has the target execute them, sends the answers.

    At one look the answers that are ready leave, and what has arrived is read and started: an answer never leaves at
    the look at which its request was read. `look` and `flush` are called by Looks.
    """

    def __init__(
        self, handle: Handler, activity: Activity, looks: Looks, closed: Callable[["Connection"], None]
    ) -> None:
        self._start_call = handle
        self._activity = activity
        self._looks = looks
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._arrived = bytearray()
        self._buffer = bytearray()
        self._scanner: Scanner | None = None
        self._ready: list[bytes] = []
        self._outstanding: set[object] = set()
        self._end_of_input = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._closed(self)

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        self._looks.wake(self)

    def eof_received(self) -> bool:
        """Answers to what was asked still leave; then the connection ends."""
        self._end_of_input = True
        self._looks.wake(self)
        return True

    @property
    def busy(self) -> bool:
        """Whether the next look will find something to do."""
        return bool(self._ready or self._arrived)

    def look(self) -> None:
        self.flush()
        if self._arrived:
            self._activity.traffic.looks += 1
            self._receive()
        self._end_if_done()

    def flush(self) -> None:
        """Sends the answers that are ready."""
        if self._ready and self._transport is not None:
            self._transport.write(b"".join(self._ready))
        self._ready.clear()
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._end_of_input and not self._outstanding and not self.busy and self._transport is not None:
            self._transport.close()

    def hang_up(self) -> None:
        self._arrived.clear()
        self._buffer.clear()
        self._ready.clear()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _receive(self) -> None:
        """Reads one receive buffer. A request that fills all of it and is not complete ends the connection."""
        room = RECEIVE_BUFFER_BYTES - len(self._buffer)
        if not room:
            self._arrived.clear()
            self._end_of_input = True
            return
        self._buffer += self._arrived[:room]
        del self._arrived[:room]
        try:
            self._handle_buffer()
        except ValueError:
            self.hang_up()

    def _handle_buffer(self) -> None:
        """Handles the complete values in the buffer. Raises ValueError for bytes that are no JSON."""
        while self._buffer and self._transport is not None:
            if self._scanner is None and self._handle_whole_values():
                return
            if self._scanner is None:
                self._scanner = Scanner()
            end = self._scanner.scan(self._buffer)
            if end is None:
                return
            value = decode(self._buffer[:end].decode())
            self._consume(end)
            self._handle(value)

    def _consume(self, end: int) -> None:
        del self._buffer[:end]
        self._scanner = None

    def _handle_whole_values(self) -> bool:
        """The quick way for values that have arrived whole. False: the rest needs the scanner."""
        if not self._buffer.isascii():
            return False
        text = self._buffer.decode("ascii")
        position = 0
        try:
            while position < len(text) and self._transport is not None:
                value, position = decode_first(text, position)
                self._handle(value)
        except ValueError:
            self._consume(position)
            return False
        self._consume(position)
        return True

    # Requests

    def _handle(self, value: Any) -> None:
        if isinstance(value, list) and value:
            batch = _Batch(len(value), self._reply)
            for member in value:
                self._handle_request(member, batch.add)
        else:
            self._handle_request(value, self._reply)

    def _handle_request(self, value: Any, reply: Reply) -> None:
        try:
            request = parse_request(value)
        except InvalidRequestError as error:
            reply(invalid_request_answer(error.request_id))
            return
        try:
            answer = self._start_call(request.method, request.params)
        except Exception as error:
            self._fail(request, error, reply)
            return
        if isinstance(answer, Work):
            self._outstanding.add(answer)
            answer.then(lambda: self._finish_work(request, answer, reply))
        elif inspect.iscoroutine(answer):
            task = asyncio.create_task(self._finish(request, answer, reply))
            self._outstanding.add(task)
            task.add_done_callback(self._forget)
        else:
            reply(result_answer(request.request_id, answer))

    def _finish_work(self, request: Request, work: Work[Any], reply: Reply) -> None:
        try:
            reply(result_answer(request.request_id, work.result()))
        except Exception as error:
            self._fail(request, error, reply)
        self._forget(work)

    async def _finish(self, request: Request, work: Coroutine[Any, Any, Any], reply: Reply) -> None:
        try:
            reply(result_answer(request.request_id, await work))
        except Exception as error:
            self._fail(request, error, reply)

    def _fail(self, request: Request, error: Exception, reply: Reply) -> None:
        if isinstance(error, HangUpError):
            self.hang_up()
        else:
            reply(_failed_answer(request, error))

    def _forget(self, call: object) -> None:
        self._outstanding.discard(call)
        self._looks.wake(self)

    def _reply(self, answer: bytes) -> None:
        if answer and self._transport is not None:
            self._activity.traffic.count_answer(len(answer))
            self._ready.append(answer)


def _failed_answer(request: Request, error: Exception) -> bytes:
    """The answer of a call that failed, as the target would or because the emulator is at fault."""
    if isinstance(error, RpcError):
        return error_answer(request.request_id, error)
    logger.error("%s failed in the emulator", request.method, exc_info=error)
    return error_answer(request.request_id, RpcError(INTERNAL_ERROR, "Internal error"))


class _Batch:
    """Collects the answers of a batch in the order in which its calls complete; sends them as one when all have."""

    def __init__(self, size: int, reply: Reply) -> None:
        self._missing = size
        self._reply = reply
        self._answers: list[bytes] = []

    def add(self, answer: bytes) -> None:
        self._missing -= 1
        if answer:
            self._answers.append(answer.rstrip(b"\n"))
        if not self._missing and self._answers:
            self._reply(b"[" + b",".join(self._answers) + b"]\n")
