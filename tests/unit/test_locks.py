from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.core.locks import NameLocks
from tests.support.patience import PATIENCE_S

from .fakes import spin


class Room:
    """Counts who is inside each name, and fails when a writer is not alone."""

    def __init__(self) -> None:
        self.locks = NameLocks()
        self.readers: Counter[str] = Counter()
        self.writers: Counter[str] = Counter()
        self.entered: list[str] = []

    async def write(self, name: str, label: str = "", turns: int = 3) -> None:
        async with self.locks.exclusive(name):
            self.writers[name] += 1
            self.entered.append(label)
            try:
                self.check(name)
                await spin(turns)
                self.check(name)
            finally:
                self.writers[name] -= 1

    async def read(self, *names: str, label: str = "", turns: int = 3) -> None:
        async with self.locks.shared(names):
            self.readers.update(set(names))
            self.entered.append(label)
            try:
                for name in names:
                    self.check(name)
                await spin(turns)
                for name in names:
                    self.check(name)
            finally:
                self.readers.subtract(set(names))

    def check(self, name: str) -> None:
        assert self.writers[name] <= 1
        assert not (self.writers[name] and self.readers[name])

    def require_empty(self) -> None:
        """Nobody holds or awaits anything, and the table has no entry left."""
        assert not self.locks._locks


async def started(*coroutines: asyncio.Future[None] | object) -> list[asyncio.Task[None]]:
    """Starts each and lets it run as far as it gets, one after another."""
    tasks = []
    for coroutine in coroutines:
        assert asyncio.iscoroutine(coroutine)
        tasks.append(asyncio.create_task(coroutine))
        await spin(2)
    return tasks


async def test_writers_of_one_name_go_one_after_the_other_in_the_order_they_came() -> None:
    room = Room()
    await asyncio.gather(*(room.write("a", str(number)) for number in range(5)))
    assert room.entered == ["0", "1", "2", "3", "4"]
    room.require_empty()


async def test_readers_share() -> None:
    room = Room()
    tasks = await started(*(room.read("a", label=str(number), turns=50) for number in range(3)))
    assert room.readers["a"] == 3
    await asyncio.gather(*tasks)
    room.require_empty()


async def test_names_do_not_wait_for_each_other() -> None:
    room = Room()
    tasks = await started(room.write("a", turns=50), room.write("b", turns=50))
    assert room.writers == Counter(a=1, b=1)
    await asyncio.gather(*tasks)


async def test_a_reader_that_comes_after_a_waiting_writer_waits_behind_it() -> None:
    room = Room()
    await asyncio.gather(*await started(room.read("a", label="r1"), room.write("a", "w"), room.read("a", label="r2")))
    assert room.entered == ["r1", "w", "r2"]
    room.require_empty()


async def test_readers_behind_a_writer_enter_together() -> None:
    room = Room()
    tasks = await started(room.write("a", turns=5), room.read("a", turns=50), room.read("a", turns=50))
    await spin(20)
    assert room.readers["a"] == 2
    await asyncio.gather(*tasks)


async def test_one_name_given_twice_is_locked_once() -> None:
    room = Room()
    await room.read("a", "a")
    room.require_empty()


async def test_a_name_is_locked_while_a_writer_holds_or_awaits_it() -> None:
    room = Room()
    assert not room.locks.locked("a")
    reader, *_ = await started(room.read("a", turns=50))
    assert not room.locks.locked("a"), "readers do not count"
    writer, *_ = await started(room.write("a", turns=50))
    assert room.locks.locked("a")
    await reader
    assert room.locks.locked("a")
    await writer
    assert not room.locks.locked("a")


async def test_an_error_inside_lets_go() -> None:
    room = Room()
    with pytest.raises(ZeroDivisionError):
        async with room.locks.exclusive("a"), room.locks.shared(["b", "c"]):
            raise ZeroDivisionError
    room.require_empty()


async def test_waiting_ends_with_the_deadline_and_names_what_is_busy() -> None:
    room = Room()
    holder, *_ = await started(room.write("a", turns=100_000))
    with deadline.limit(0.02), pytest.raises(errors.Aborted) as given_up:
        await room.read("a", "b")
    assert given_up.value.resource == "a"
    holder.cancel()
    await asyncio.wait([holder])
    room.require_empty()


async def test_a_free_name_is_had_even_when_the_deadline_has_passed() -> None:
    room = Room()
    with deadline.limit(0):
        await room.write("a", "in")
    assert room.entered == ["in"]


async def test_the_names_already_held_are_let_go_when_a_later_one_is_not_to_be_had() -> None:
    room = Room()
    holder, *_ = await started(room.write("b", turns=100_000))
    with deadline.limit(0.01), pytest.raises(errors.Aborted):
        await room.read("a", "b")
    await room.write("a")
    holder.cancel()
    await asyncio.wait([holder])
    room.require_empty()


async def test_a_writer_that_gave_up_does_not_hold_up_those_behind_it() -> None:
    room = Room()
    first, writer, second = await started(
        room.read("a", turns=200), room.write("a", "w"), room.read("a", label="r2", turns=200)
    )
    writer.cancel()
    await spin(5)
    assert room.readers["a"] == 2, "the second reader may join the first"
    await asyncio.gather(first, second)
    room.require_empty()


async def test_a_writer_that_gave_up_does_not_hold_up_those_that_come_later() -> None:
    room = Room()
    first, writer = await started(room.read("a", turns=200), room.write("a", "w"))
    writer.cancel()
    await spin(5)
    assert not room.locks.locked("a")
    second, *_ = await started(room.read("a", turns=200))
    assert room.readers["a"] == 2
    await asyncio.gather(first, second)
    room.require_empty()


async def test_a_waiter_cancelled_in_the_turn_in_which_the_name_comes_free_breaks_nothing() -> None:
    room = Room()
    holding, let_go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with room.locks.exclusive("a"):
            holding.set()
            await let_go.wait()

    holder = asyncio.create_task(hold())
    await holding.wait()
    (waiter,) = await started(room.write("a"))
    let_go.set()
    await asyncio.sleep(0)  # the holder runs next, and with it the cancelled waiter
    waiter.cancel()
    outcome = (await asyncio.gather(holder, waiter, return_exceptions=True))[1]
    assert isinstance(outcome, asyncio.CancelledError)
    room.require_empty()


async def test_a_waiter_cancelled_just_before_the_name_comes_free_takes_nobody_elses_lock() -> None:
    room = Room()
    lock = room.locks.exclusive("a")
    await lock.__aenter__()
    (waiter,) = await started(room.write("a"))
    waiter.cancel()
    await lock.__aexit__(None, None, None)
    others = [asyncio.create_task(room.write("a", turns=10)) for _ in range(2)]
    outcomes = await asyncio.gather(waiter, *others, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [None, None]
    room.require_empty()


requests = st.lists(
    st.tuples(st.booleans(), st.sets(st.sampled_from("abc"), min_size=1, max_size=2), st.integers(0, 4)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150)
@given(requests, st.lists(st.tuples(st.integers(0, 7), st.integers(0, 12)), max_size=5))
@example([(True, {"a"}, 3), (True, {"a"}, 0), (True, {"a"}, 0)], [(1, 7)])
async def test_cancelling_anyone_at_any_point_leaves_the_others_alone_and_nothing_behind(
    asked: list[tuple[bool, set[str], int]], cancellations: list[tuple[int, int]]
) -> None:
    room = Room()
    tasks = [
        asyncio.create_task(room.write(min(names), turns=turns) if exclusive else room.read(*names, turns=turns))
        for exclusive, names, turns in asked
    ]
    cancelled = set()
    for turn in range(14):
        for number, at in cancellations:
            if at == turn and number < len(tasks) and not tasks[number].done():
                tasks[number].cancel()
                cancelled.add(tasks[number])
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for task, outcome in zip(tasks, outcomes, strict=True):
        assert outcome is None or (isinstance(outcome, asyncio.CancelledError) and task in cancelled), repr(outcome)
    room.require_empty()


@st.composite
def acyclic(draw: st.DrawFn) -> list[tuple[str, list[str], int]]:
    """Who locks what: resources in an order of dependency under names in any order, each with what it stands on."""
    order = draw(st.permutations("abcd"))
    drawn = []
    for _ in range(draw(st.integers(2, 7))):
        place = draw(st.integers(0, len(order) - 1))
        below = draw(st.lists(st.sampled_from(order[:place]), unique=True)) if place else []
        drawn.append((order[place], below, draw(st.integers(0, 3))))
    return drawn


@settings(max_examples=200)
@given(acyclic())
@example([("b", [], 0), ("n", ["a", "b"], 4), ("b", ["a"], 1), ("a", [], 2)])
async def test_nobody_waits_in_a_circle_when_each_locks_its_own_name_and_then_what_it_stands_on(
    asked: list[tuple[str, list[str], int]],
) -> None:
    locks = NameLocks()

    async def change(name: str, stands_on: list[str], delay: int) -> None:
        await spin(delay)
        async with locks.exclusive(name):
            await asyncio.sleep(0)
            async with locks.shared(stands_on):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(change(*one)) for one in asked]
    await spin(200)
    stuck = [one for one, task in zip(asked, tasks, strict=True) if not task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not stuck
    assert not locks._locks
