"""Locks by resource name: one writer or many readers, first come first served.

Order, so that nobody waits in a circle: a resource's own name first, then, at once, the names it stands on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from opi_spdk_bridge import deadline, errors

_LONGEST_WAIT_S = 60.0


@dataclass(slots=True)
class _Lock:
    readers: int = 0
    writer: bool = False
    queue: deque[tuple[bool, asyncio.Future[None]]] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        return not (self.readers or self.writer or self.queue)

    def grantable(self, exclusive: bool) -> bool:
        return not self.writer and not (exclusive and self.readers)

    def grant(self, exclusive: bool) -> None:
        if exclusive:
            self.writer = True
        else:
            self.readers += 1

    def wake(self) -> None:
        """Hands the lock to those at the head of the queue that can have it."""
        while self.queue and self.grantable(self.queue[0][0]):
            exclusive, waiter = self.queue.popleft()
            if not waiter.done():
                self.grant(exclusive)
                waiter.set_result(None)


class NameLocks:
    """The locks of all names; a name that nobody locks costs nothing."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}

    def locked(self, name: str) -> bool:
        """Whether anybody holds or awaits the name exclusively."""
        lock = self._locks.get(name)
        return lock is not None and (lock.writer or any(exclusive for exclusive, _ in lock.queue))

    def exclusive(self, name: str) -> AbstractAsyncContextManager[None]:
        """Keeps everybody else off the name; entering raises Aborted when the wait outlasts the caller's deadline."""
        return _Held(self, {name}, exclusive=True)

    def shared(self, names: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """Keeps writers off the names; raises as `exclusive`.

        All are taken in one step, once all are free: who waits for one name while holding another could be waited for.
        """
        return _Held(self, set(names), exclusive=False)

    async def acquire(self, names: Collection[str], exclusive: bool) -> None:
        """What entering one of them does: takes all of the names, of which there is one where `exclusive`."""
        if exclusive:
            for name in names:
                await self._acquire(name, exclusive=True)
            return
        while (busy := next((name for name in names if not self._is_free(name)), None)) is not None:
            await self._acquire(busy, exclusive=False)
            self._release(busy, exclusive=False)
        for name in names:
            self._locks.setdefault(name, _Lock()).grant(exclusive=False)

    def release(self, names: Collection[str], exclusive: bool) -> None:
        """What leaving does."""
        for name in names:
            self._release(name, exclusive)

    def _is_free(self, name: str) -> bool:
        lock = self._locks.get(name)
        return lock is None or (not lock.queue and lock.grantable(exclusive=False))

    async def _acquire(self, name: str, exclusive: bool) -> None:
        lock = self._locks.setdefault(name, _Lock())
        if not lock.queue and lock.grantable(exclusive):
            lock.grant(exclusive)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lock.queue.append((exclusive, waiter))
        try:
            async with asyncio.timeout(deadline.remaining_s(_LONGEST_WAIT_S)):
                await waiter
        except BaseException as problem:
            if waiter.done() and not waiter.cancelled():
                self._release(name, exclusive)
            else:
                with contextlib.suppress(ValueError):  # a release in the same turn has dropped it already
                    lock.queue.remove((exclusive, waiter))
                lock.wake()
                self._forget_if_idle(name, lock)
            if isinstance(problem, TimeoutError):
                text = f"another request is still at work on {name}"
                raise errors.Aborted(text, resource=name) from None
            raise

    def _release(self, name: str, exclusive: bool) -> None:
        lock = self._locks[name]
        if exclusive:
            lock.writer = False
        else:
            lock.readers -= 1
        lock.wake()
        self._forget_if_idle(name, lock)

    def _forget_if_idle(self, name: str, lock: _Lock) -> None:
        if lock.idle and self._locks.get(name) is lock:
            del self._locks[name]


class _Held(AbstractAsyncContextManager[None]):
    """Names that are held while the context lasts."""

    __slots__ = ("_exclusive", "_locks", "_names")

    def __init__(self, locks: NameLocks, names: Collection[str], exclusive: bool) -> None:
        self._locks = locks
        self._names = names
        self._exclusive = exclusive

    async def __aenter__(self) -> None:
        await self._locks.acquire(self._names, self._exclusive)

    async def __aexit__(self, *_: object) -> None:
        self._locks.release(self._names, self._exclusive)
