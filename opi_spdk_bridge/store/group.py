"""Grouped work: what is submitted while a batch is being worked on is worked on together, as the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Grouped(Generic[T]):
    """Hands batches of items to `work`, one batch at a time, in the order of their submission.

    `work` does a batch as a whole, or raises, and then every item of the batch has failed with that error.
    """

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._work = work
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None

    def submit(self, item: T) -> asyncio.Future[None]:
        """The future ends when the item is done. Cancelling it does not take the item back."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return done

    async def drain(self) -> None:
        """Waits until nothing is left to do."""
        if self._worker is not None:
            await self._worker

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._work([item for item, _ in batch])
            except Exception as problem:
                _finish(batch, problem)
            else:
                _finish(batch, None)


def _finish(batch: Sequence[tuple[T, asyncio.Future[None]]], problem: Exception | None) -> None:
    for _, done in batch:
        if done.done():
            continue  # its caller was cancelled
        if problem is None:
            done.set_result(None)
        else:
            done.set_exception(problem)
