"""The floor: a grpc.aio server whose handlers do nothing but answer. `python -m benchmarks.floor` prints its port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import Any

import grpc
from google.protobuf.message import Message

from benchmarks import opi


def _handler(method: str) -> Callable[[Message, Any], Awaitable[Message]]:
    answer = opi.answer(method)

    async def handle(_request: Message, _context: Any) -> Message:
        return answer

    return handle


async def serve() -> None:
    """Serves the measured methods until it is killed."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for service, names in groupby(opi.METHODS, key=lambda name: opi.METHODS[name][0]):
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                _handler(name),
                request_deserializer=opi.METHODS[name][1].FromString,
                response_serializer=opi.METHODS[name][2].SerializeToString,
            )
            for name in names
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serves gRPC on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    opi.run(serve())
