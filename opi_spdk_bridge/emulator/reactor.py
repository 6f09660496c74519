"""The order in which a target does what it cannot do at once (lib/thread, lib/event).

A target runs its threads in turns on one core. A thread handles, when its turn comes, up to BATCH_SIZE messages that
were waiting then; what it sends meanwhile waits for a later turn. Methods run on the application's thread. What must
visit the NVMe-oF poll group is a message there and one back (spdk_for_each_channel), so two calls that arrive together
interleave in a way that depends on nothing but their messages.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")

BATCH_SIZE = 8
POLL_GROUP = "nvmf_tgt_poll_group_000"
"""The name of the NVMe-oF poll group's thread."""

Message = Callable[[], object]


class Thread(IntEnum):
    """The threads, in the order of their turns: a look at the sockets is the end of the application's turn."""

    POLL_GROUP = 0
    APP = 1


class Wait(Protocol):
    """What a Work can wait for: `then` has `resume` called once it has happened, at once when it has already."""

    def then(self, resume: Message) -> None: ...


class Reactor:
    """The messages under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Thread, deque[Message]] = {thread: deque() for thread in Thread}
        self._pollers: list[tuple[Callable[[], bool], Signal]] = []
        self._awake = False

    def send(self, thread: Thread, message: Message) -> None:
        self._queues[thread].append(message)
        self._wake()

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self.run)

    def run(self) -> None:
        """Turn after turn until nothing is left to do: all that happens between two looks at the sockets."""
        while any(self._queues.values()) or self._pollers:
            for queue in self._queues.values():
                for message in [queue.popleft() for _ in range(min(BATCH_SIZE, len(queue)))]:
                    message()
            self._poll()
        self._awake = False

    def _poll(self) -> None:
        """Pollers follow the messages of the application's turn, the latest first."""
        for poller in self._pollers[::-1]:
            found, over = poller
            if found():
                self._pollers.remove(poller)
                over.set()

    def poll(self, found: Callable[[], bool]) -> "Signal":
        """A poller of the application's thread that looks, turn after turn, for what messages under way bring about."""
        over = Signal()
        self._pollers.append((found, over))
        self._wake()
        return over

    def message(self) -> "Hops":
        """A message to the application's thread itself."""
        return Hops(self, [(Thread.APP, None)])

    def visit(self, on_poll_group: Message | None = None) -> "Hops":
        """A visit to the poll group, where `on_poll_group` is done, and the message back."""
        return Hops(self, [(Thread.POLL_GROUP, on_poll_group), (Thread.APP, None)])

    def sleep(self, duration_s: float) -> "Signal":
        """A timed poller of the application's thread that finds its work done the first time."""
        over = Signal()
        self._loop.call_later(duration_s, over.set)
        return over


class Signal:
    """Something that happens once."""

    def __init__(self) -> None:
        self._happened = False
        self._waiting: list[Message] = []

    def set(self) -> None:
        self._happened = True
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()

    def then(self, resume: Message) -> None:
        if self._happened:
            resume()
        else:
            self._waiting.append(resume)

    def __await__(self) -> Generator[Wait, None, None]:
        if not self._happened:
            yield self


class Hops(Signal):
    """Messages from thread to thread, each sent when the one before it is handled."""

    def __init__(self, reactor: Reactor, hops: list[tuple[Thread, Message | None]]) -> None:
        super().__init__()
        self._reactor = reactor
        self._hops = deque(hops)
        self._send()

    def _send(self) -> None:
        thread, action = self._hops.popleft()
        self._reactor.send(thread, lambda: self._handle(action))

    def _handle(self, action: Message | None) -> None:
        if action is not None:
            action()
        if self._hops:
            self._send()
        else:
            self.set()


class Work(Signal, Generic[T]):
    """Runs a coroutine that awaits nothing but Waits: up to the first at once, and on within what it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._coroutine = coroutine
        self._result: T | None = None
        self._error: Exception | None = None
        self._resume()

    def _resume(self) -> None:
        try:
            wait: Wait = self._coroutine.send(None)
        except StopIteration as end:
            self._result = end.value
        except Exception as error:
            self._error = error
        else:
            wait.then(self._resume)
            return
        self.set()

    def result(self) -> T:
        """What the coroutine returned or raised, once it has."""
        if self._error is not None:
            raise self._error
        return cast(T, self._result)

    def __await__(self) -> Generator[Wait, None, T]:  # type: ignore[override]  # a wait with a result
        yield from super().__await__()
        return self.result()

    async def outcome(self) -> T:
        """The result for a coroutine of asyncio's."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        self.then(end)
        await ended
        return self.result()
