"""Group commit: changes that arrive while others are being written are written together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from opi_spdk_bridge.store.base import Row


@dataclass(frozen=True, slots=True)
class Change:
    """Deletes, then puts."""

    puts: Sequence[Row]
    deletes: Sequence[str]


class GroupCommit:
    """Hands batches of changes to `apply`, one batch at a time, in the order of the calls.

    `apply` makes a batch durable as a whole, or raises, and then each change's caller gets that error.
    """

    def __init__(self, apply: Callable[[Sequence[Change]], Awaitable[None]]) -> None:
        self._apply = apply
        self._waiting: list[tuple[Change, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def commit(self, change: Change) -> None:
        """Returns when the change is durable. Cancelling the caller does not take the change back."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="group-commit")
        await done

    async def drain(self) -> None:
        """Waits until nothing is left to write."""
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._apply([change for change, _ in batch])
            except Exception as problem:
                _finish(batch, problem)
            else:
                _finish(batch, None)


def _finish(batch: Sequence[tuple[Change, asyncio.Future[None]]], problem: Exception | None) -> None:
    for _, done in batch:
        if done.done():
            continue  # its caller was cancelled
        if problem is None:
            done.set_result(None)
        else:
            done.set_exception(problem)
