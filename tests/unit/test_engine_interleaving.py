"""Requests cut off at any point and requests at one time: all or nothing, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.locks import NameLocks
from opi_spdk_bridge.core.record import AnyRecord, Phase
from tests.support.patience import PATIENCE_S

from .fakes import Bridge, spin

TURNS = range(45)
"""More turns of the loop than any of the requests takes."""


def locks(bridge: Bridge) -> NameLocks:
    found = bridge.engine._locks
    assert isinstance(found, NameLocks)
    return found


async def cut_off(bridge: Bridge, request: Awaitable[Any], turns: int) -> bool:
    """Cancels the request after so many turns; whether it was still running. Then waits until nothing is at work."""
    task = asyncio.ensure_future(request)
    await spin(turns)
    running = not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() == running, "a cancelled request ends at once, whatever becomes of the change"
    await asyncio.wait_for(bridge.engine.drain(), PATIENCE_S)
    assert not locks(bridge)._locks, "no name stays locked"
    return running


async def consistent(bridge: Bridge) -> dict[str, AnyRecord]:
    """The stored records, after checking that store, catalog and target tell the same."""
    stored = await bridge.stored()
    assert {record.name: record for record in bridge.catalog} == stored
    assert all(record.phase is Phase.READY for record in stored.values())
    sides: Any = {singular: entry.side for singular, entry in bridge.registry.items()}
    assert bridge.target.objects == {name: sides[record.kind].wanted(record) for name, record in stored.items()}
    return stored


@pytest.mark.parametrize("turns", TURNS)
async def test_a_create_cut_off_at_any_point_is_done_wholly_or_not_at_all(turns: int) -> None:
    bridge = Bridge()
    await cut_off(bridge, bridge.create_disk("d"), turns)
    assert set(await consistent(bridge)) <= {"nullVolumes/d"}
    assert (await bridge.create_disk("d")).name == "nullVolumes/d"


@pytest.mark.parametrize("turns", TURNS)
async def test_an_update_cut_off_at_any_point_is_done_wholly_or_not_at_all(turns: int) -> None:
    bridge = Bridge()
    await bridge.create_disk("d", 8)
    await cut_off(bridge, bridge.resize_disk("d", 9), turns)
    stored = await consistent(bridge)
    assert stored["nullVolumes/d"].desired.blocks_count in (8, 9)


@pytest.mark.parametrize("turns", TURNS)
async def test_a_delete_cut_off_at_any_point_is_done_wholly_or_not_at_all(turns: int) -> None:
    bridge = Bridge()
    await bridge.create_disk("d")
    await cut_off(bridge, bridge.delete_disk("d"), turns)
    await consistent(bridge)
    await bridge.delete_disk("d", allow_missing=True)
    assert await consistent(bridge) == {}


@pytest.mark.parametrize("turns", TURNS)
async def test_a_create_of_a_child_cut_off_at_any_point_is_done_wholly_or_not_at_all(turns: int) -> None:
    bridge = Bridge()
    await bridge.create_disk("d")
    await bridge.create_subsystem("s")
    await cut_off(bridge, bridge.create_namespace("s", "n", "d"), turns)
    await consistent(bridge)


@pytest.mark.parametrize("turns", TURNS)
async def test_a_failing_create_cut_off_at_any_point_leaves_nothing(turns: int) -> None:
    bridge = Bridge()
    bridge.target.fail("create", errors.ResourceExhausted("full"))
    if await cut_off(bridge, bridge.create_disk("d"), turns):
        assert await consistent(bridge) == {}


def test_the_turns_reach_beyond_the_end_of_every_request() -> None:
    async def longest() -> bool:
        bridge = Bridge()
        await bridge.create_disk("d")
        await bridge.create_subsystem("s")
        return await cut_off(bridge, bridge.create_namespace("s", "n", "d"), TURNS[-1])

    assert not asyncio.run(longest())


@pytest.mark.parametrize("turns", TURNS)
async def test_a_request_cut_off_while_it_waits_for_another_spoils_neither(turns: int) -> None:
    bridge = Bridge()
    first = asyncio.ensure_future(bridge.create_disk("d", 8))
    await spin(2)
    await cut_off(bridge, bridge.resize_disk("d", 9), turns)
    await first
    stored = await consistent(bridge)
    assert stored["nullVolumes/d"].desired.blocks_count in (8, 9)


# One name, many requests at one time


class Seen:
    """A finished request: what it asked, when it began and ended, what came of it."""

    def __init__(self, verb: str, value: int, began: int) -> None:
        self.verb = verb
        self.value = value
        self.began = began
        self.ended = 0
        self.outcome: object = None


def apply(state: int | None, request: Seen) -> tuple[int | None, object]:
    """What a request does to the number of blocks of the one disk, and what it answers."""
    if request.verb == "create":
        if state in (None, request.value):
            return request.value, request.value
        return state, errors.AlreadyExists
    if state is None:
        return None, errors.NotFound
    if request.verb == "update":
        return request.value, request.value
    if request.verb == "delete":
        return None, None
    return state, state


def linearizable(state: int | None, left: list[Seen]) -> bool:
    """Whether the requests have an order, agreeing with who ended before whom began, that explains all outcomes."""
    if not left:
        return True
    earliest = min(request.ended for request in left)
    for request in left:
        if request.began <= earliest:
            after, outcome = apply(state, request)
            if outcome == request.outcome and linearizable(after, [one for one in left if one is not request]):
                return True
    return False


requests = st.lists(
    st.tuples(st.sampled_from(["create", "update", "delete", "get"]), st.integers(1, 2), st.integers(0, 30)),
    min_size=2,
    max_size=7,
)


@settings(max_examples=150)
@given(requests)
async def test_requests_on_one_name_behave_as_one_after_the_other(asked: list[tuple[str, int, int]]) -> None:
    bridge = Bridge()
    clock = iter(range(10_000))
    verbs: dict[str, Callable[[int], Awaitable[Any]]] = {
        "create": lambda value: bridge.create_disk("d", value),
        "update": lambda value: bridge.resize_disk("d", value),
        "delete": lambda _: bridge.delete_disk("d"),
        "get": lambda _: bridge.get_disk("d"),
    }

    async def run(verb: str, value: int, delay: int) -> Seen:
        await spin(delay)
        seen = Seen(verb, value, next(clock))
        try:
            answer = await verbs[verb](value)
            seen.outcome = answer.blocks_count if answer is not None else None
        except errors.BridgeError as problem:
            seen.outcome = type(problem)
        seen.ended = next(clock)
        return seen

    history = await asyncio.gather(*(run(*one) for one in asked))
    assert linearizable(None, list(history)), [vars(seen) for seen in history]
    await consistent(bridge)
    assert not locks(bridge)._locks


def test_the_check_of_histories_finds_what_no_order_explains() -> None:
    first, second = Seen("create", 1, 0), Seen("get", 0, 2)
    first.ended, first.outcome = 1, 1
    second.ended, second.outcome = 3, errors.NotFound
    assert not linearizable(None, [first, second]), "a get after the create must find it"
    second.began, second.ended = 0, 3
    assert linearizable(None, [first, second]), "at one time it may not yet"


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["create", "change", "remove", "look"]), st.booleans()), max_size=4),
    st.lists(st.tuples(st.sampled_from(["create", "update", "delete"]), st.integers(1, 2)), min_size=1, max_size=5),
)
async def test_whatever_outcomes_are_unknown_finishing_brings_store_and_target_together(
    unknown: list[tuple[str, bool]], asked: list[tuple[str, int]]
) -> None:
    bridge = Bridge()
    for verb, carried_out in unknown:
        bridge.target.fail(verb, errors.ConnectionLost("lost"), carried_out=carried_out)
    for verb, value in asked:
        try:
            if verb == "create":
                await bridge.create_disk("d", value)
            elif verb == "update":
                await bridge.resize_disk("d", value)
            else:
                await bridge.delete_disk("d")
        except errors.BridgeError:
            pass
    bridge = await bridge.restarted()
    for _ in range(5):
        try:
            await bridge.engine.finish("nullVolumes/d")
            break
        except errors.OutcomeUnknown:
            continue
    await consistent(bridge)


async def test_different_names_do_not_wait_for_each_other() -> None:
    bridge = Bridge()
    bridge.target.gate.clear()
    creating = [asyncio.ensure_future(bridge.create_disk(f"d{number}")) for number in range(5)]
    await spin()
    assert len(bridge.target.changes) == 5
    bridge.target.gate.set()
    await asyncio.gather(*creating)


async def test_many_children_of_one_parent_are_made_at_one_time() -> None:
    bridge = Bridge()
    await bridge.create_subsystem("s")
    for number in range(5):
        await bridge.create_disk(f"d{number}")
    bridge.target.calls.clear()
    bridge.target.gate.clear()
    creating = [asyncio.ensure_future(bridge.create_namespace("s", f"n{number}", f"d{number}")) for number in range(5)]
    await spin()
    assert len(bridge.target.changes) == 5
    bridge.target.gate.set()
    await asyncio.gather(*creating)
    await consistent(bridge)
