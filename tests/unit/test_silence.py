"""A connected target that answers nothing is away until it does; one that is slow with a call is not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

import pytest

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk.client import Call, Client
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, PATIENCE_S

from .fakes import spin
from .scripted_target import ScriptedTarget, scripted, until

PROBE = "spdk_get_version"
SLOW: Call[int] = Call("bdev_nvme_attach_controller", None, int)
NEVER_S = 1000 * HOUR_S

Pair = tuple[ScriptedTarget, Client]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A client that notices a silence of an hour, with its target."""
    async with scripted(silence_s=HOUR_S, call_timeout_s=NEVER_S, connect_grace_s=0.01) as made:
        yield made


@pytest.fixture
def told(pair: Pair) -> list[str]:
    """What the client has told since."""
    events: list[str] = []
    _, client = pair
    client.on_lost.append(lambda: events.append("lost"))
    client.on_connected.append(lambda: events.append("connected"))
    return events


async def fall_silent(target: ScriptedTarget, client: Client, clock: Clock) -> None:
    target.handshake = False
    clock.advance(HOUR_S)
    await target.request(PROBE)
    assert client.connected, "it has its chance"
    clock.advance(HOUR_S)
    await until(lambda: not client.connected)


async def test_a_target_that_answers_nothing_is_away_until_it_does(pair: Pair, told: list[str], clock: Clock) -> None:
    target, client = pair
    waiting = client.submit(SLOW)
    request = await target.request(SLOW.method)
    await fall_silent(target, client, clock)
    assert told == ["lost"]
    assert client.silent_s >= HOUR_S
    with pytest.raises(errors.Unavailable, match=r"does not answer: nothing has come from it for \d+ s"):
        await client.call(SLOW)
    assert target.requests.empty(), "nothing more is sent"
    target.answer(request, 7)
    assert await waiting == 7
    await until(lambda: client.connected)
    assert told == ["lost", "connected"]
    assert client.connections == 1


async def test_so_is_one_whose_calls_have_all_been_given_up(pair: Pair, told: list[str], clock: Clock) -> None:
    target, client = pair
    with deadline.limit(HOUR_S / 100):
        waiting = client.submit(SLOW)
    request = await target.request(SLOW.method)
    clock.advance(HOUR_S / 100)
    with pytest.raises(errors.AnswerTimeout):
        await waiting
    await fall_silent(target, client, clock)
    target.answer(request, 7)
    await until(lambda: client.connected)
    assert told == ["lost", "connected"]


async def test_a_slow_call_is_none_where_another_is_answered(pair: Pair, told: list[str], clock: Clock) -> None:
    target, client = pair
    waiting = client.submit(SLOW)
    request = await target.request(SLOW.method)
    target.answers[PROBE] = lambda _params: None
    target.handshake = False
    for _ in range(4):
        clock.advance(HOUR_S)
        await until(functools.partial(_asked_more, target, len(target.methods)))
        target.answer(target.received[-1], {"version": "SPDK"})
        await spin()
    assert (target.methods, told) == ([SLOW.method, *[PROBE] * 4], [])
    target.answer(request, 7)
    assert await waiting == 7


def _asked_more(target: ScriptedTarget, than: int) -> bool:
    return len(target.methods) > than


async def test_nothing_is_asked_while_everything_is_answered(pair: Pair, told: list[str], clock: Clock) -> None:
    target, client = pair
    target.handshake = False
    target.answers[SLOW.method] = lambda _params: 7
    for _ in range(5):
        clock.advance(HOUR_S)
        assert await client.call(SLOW) == 7
        clock.advance(HOUR_S)
        await spin()
    assert set(target.methods) == {SLOW.method}
    assert client.silent_s == 0
    assert told == []


async def test_a_silence_ends_with_the_connection(pair: Pair, told: list[str], clock: Clock) -> None:
    target, client = pair
    waiting = client.submit(SLOW)
    await target.request(SLOW.method)
    await fall_silent(target, client, clock)
    target.handshake = True
    await target.drop()
    with pytest.raises(errors.ConnectionLost):
        await waiting
    await until(lambda: client.connected)
    assert told == ["lost", "lost", "connected"]
    assert client.connections == 2
    await asyncio.wait_for(client.ready(), PATIENCE_S)
