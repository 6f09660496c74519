"""How gRPC calls are read and refused, whatever they are for.

Requests come as bytes and are read here, so that what cannot be read is refused in words of ours: gRPC would tell the
client the exception.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from opi_spdk_bridge import errors

M = TypeVar("M", bound=Message)
log = logging.getLogger(__name__)

_GRPC_LOG = logging.getLogger("grpc._cython.cygrpc")

Write = Callable[[Message], Awaitable[None]]
"""Sends a message to the client; takes as long as the client lets it."""


def parse(message: type[M], received: bytes) -> M:
    """What was received, as a message; raises InvalidArgument where it is none."""
    try:
        return message.FromString(received)
    except DecodeError:
        raise errors.InvalidArgument(f"what came is no {message.DESCRIPTOR.full_name}") from None


async def refuse(context: Any, status: status_pb2.Status, *trailers: tuple[str, str]) -> None:
    """Ends a call with an error."""
    sent = rpc_status.to_status(status)
    await context.abort(sent.code, sent.details, (*sent.trailing_metadata, *trailers))


@asynccontextmanager
async def refusing(context: Any) -> AsyncIterator[None]:
    """Ends the call with a status for what is raised inside, but for what gRPC itself raises: no exception's text is
    for clients.
    """
    try:
        yield
    except grpc.aio.BaseError:
        raise
    except errors.BridgeError as problem:
        await refuse(context, errors.to_status(problem))
    except Exception as problem:
        log.exception("a call failed: this is a bug")
        await refuse(context, errors.to_status(problem))


class _LeftAlone(logging.Filter):
    """Takes out of gRPC's log what it tells of clients that have gone before they were answered.

    Sending to them fails, which gRPC ignores if it has learnt before that they have gone, and else, when a deadline
    passes or a connection breaks at that moment, logs with a traceback as an error of the server's.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        problem = record.exc_info[1] if record.exc_info else None
        gone = isinstance(problem, grpc.aio.InternalError) and str(problem).startswith('Failed "execute_batch"')
        if gone:
            log.debug("a client has gone before it was answered: %s", record.getMessage())
        return not gone


_left_alone = _LeftAlone()


def leave_gone_clients_alone() -> None:
    """Keeps gRPC from logging as errors that clients have gone."""
    _GRPC_LOG.addFilter(_left_alone)


def unary(request: type[M], call: Callable[[M], Message]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a method with one request and one answer; `call` may raise BridgeError."""

    async def handle(received: bytes, context: Any) -> Any:
        async with refusing(context):
            return call(parse(request, received))

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=_serialized)


def unary_stream(request: type[M], call: Callable[[M, Write], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a method that answers one request again and again."""

    async def handle(received: bytes, context: Any) -> None:
        async with refusing(context):
            await call(parse(request, received), context.write)

    return grpc.unary_stream_rpc_method_handler(handle, response_serializer=_serialized)


def each(request: type[M], call: Callable[[M], Message]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a method that answers each of its requests."""

    async def handle(received: AsyncIterator[bytes], context: Any) -> None:
        async with refusing(context):
            async for item in received:
                await context.write(call(parse(request, item)))

    return grpc.stream_stream_rpc_method_handler(handle, response_serializer=_serialized)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
