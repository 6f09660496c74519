"""A raw JSON-RPC client: what a call of the target costs without a bridge."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson


class Raw:
    """One connection; any number of calls may be in flight."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def __aenter__(self) -> Raw:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=64 * 1024 * 1024)
        self._task = asyncio.create_task(self._receive())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self._writer.close()

    def submit(self, method: str, **params: Any) -> asyncio.Future[Any]:
        """Sends; the future ends in the result."""
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, **({"params": params} if params else {})}
        future = self._waiting[self._next_id] = asyncio.get_running_loop().create_future()
        self._writer.write(orjson.dumps(request))
        return future

    async def call(self, method: str, **params: Any) -> Any:
        """The result; raises RuntimeError when the target answers an error."""
        return await self.submit(method, **params)

    async def _receive(self) -> None:
        while line := await self._reader.readline():
            answer = orjson.loads(line)
            waiting = self._waiting.pop(answer["id"])
            if "error" in answer:
                waiting.set_exception(RuntimeError(str(answer["error"])))
            else:
                waiting.set_result(answer["result"])
