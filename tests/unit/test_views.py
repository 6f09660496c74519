from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk.client import Client
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.view import LiveView, SweepView
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, spin

from .scripted_target import ScriptedTarget, scripted, until

Pair = tuple[ScriptedTarget, Client]


def bdev(name: str) -> list[dict[str, Any]]:
    return [{"name": name, "block_size": 512, "num_blocks": 8, "uuid": "u", "a_newer_member": 1}]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with scripted(connect_grace_s=0.2, call_timeout_s=10 * HOUR_S) as made:
        yield made


def answering(target: ScriptedTarget) -> None:
    target.answers["bdev_get_bdevs"] = lambda params: bdev(params["name"])


async def test_an_object_is_read_into_its_model_and_unknown_members_are_ignored(pair: Pair) -> None:
    target, client = pair
    answering(target)
    found = await LiveView(client).bdev("a")
    assert found is not None
    assert (found.name, found.block_size, found.num_blocks, found.uuid) == ("a", 512, 8, "u")


async def test_what_is_gone_is_none(pair: Pair) -> None:
    target, client = pair
    target.answers["bdev_get_bdevs"] = lambda _: (-19, "No such device")
    assert await LiveView(client).bdev("a") is None


async def test_another_error_is_not_taken_for_absence(pair: Pair) -> None:
    target, client = pair
    target.answers["bdev_get_bdevs"] = lambda _: (-32603, "Internal error")
    with pytest.raises((errors.BridgeError, SpdkError)):
        await LiveView(client).bdev("a")


async def test_the_keys_of_a_name_and_whether_somebody_has_taken_them(pair: Pair) -> None:
    target, client = pair
    held = {"name": "k", "removed": True, "refcnt": 1}
    added, taken = {"name": "k", "path": "/k", "refcnt": 1}, {"name": "taken", "path": "/t", "refcnt": 2}
    target.answers["keyring_get_keys"] = lambda _: [held, added, taken, {"name": "silent"}]
    view = LiveView(client)
    assert [(key.removed, key.in_use) for key in await view.keys("k")] == [(True, True), (False, False)]
    assert [key.in_use for key in [*await view.keys("taken"), *await view.keys("silent")]] == [True, True]
    assert await view.keys("other") == []


async def test_equal_questions_at_one_time_are_one_query(pair: Pair) -> None:
    target, client = pair
    view = LiveView(client)
    asking = [asyncio.create_task(view.bdev("a")) for _ in range(10)]
    request = await target.request("bdev_get_bdevs")
    asking += [asyncio.create_task(view.bdev("a")) for _ in range(10)]
    await spin()
    target.answer(request, bdev("a"))
    assert {found.name for found in await asyncio.gather(*asking) if found} == {"a"}
    assert target.methods == ["bdev_get_bdevs"]


async def test_questions_about_different_objects_leave_in_one_write(pair: Pair) -> None:
    target, client = pair
    answering(target)
    view = LiveView(client)
    target.reads.clear()
    found = await asyncio.gather(*(view.bdev(name) for name in "abc"))
    assert [one.name for one in found if one] == ["a", "b", "c"]
    assert target.reads == [3]


async def test_a_live_view_asks_anew_once_the_answer_has_come(pair: Pair) -> None:
    target, client = pair
    answering(target)
    view = LiveView(client)
    await view.bdev("a")
    target.answers["bdev_get_bdevs"] = lambda _: (-19, "No such device")
    assert await view.bdev("a") is None


async def test_a_sweep_asks_for_each_object_once(pair: Pair) -> None:
    target, client = pair
    answering(target)
    view = SweepView(client)
    for _ in range(3):
        await asyncio.gather(view.bdev("a"), view.bdev("b"))
    assert target.methods == ["bdev_get_bdevs"] * 2


async def test_one_asker_that_goes_away_takes_the_answer_from_nobody(pair: Pair) -> None:
    target, client = pair
    view = LiveView(client)
    first, second = (asyncio.create_task(view.bdev("a")) for _ in range(2))
    request = await target.request("bdev_get_bdevs")
    first.cancel()
    await asyncio.sleep(0)
    target.answer(request, bdev("a"))
    found = await second
    assert found is not None
    assert first.cancelled()


async def test_an_answer_that_nobody_waits_for_any_more_leaves_nothing(pair: Pair) -> None:
    target, client = pair
    view = LiveView(client)
    asker = asyncio.create_task(view.bdev("a"))
    request = await target.request("bdev_get_bdevs")
    asker.cancel()
    await asyncio.wait([asker])
    target.refuse(request, -32603, "Internal error")
    await until(lambda: not view._asking)


async def test_an_impatient_asker_does_not_spoil_a_patient_ones_answer(pair: Pair, clock: Clock) -> None:
    target, client = pair
    view = LiveView(client)

    async def impatient() -> object:
        with deadline.limit(HOUR_S):
            return await view.bdev("a")

    asking = [asyncio.create_task(impatient()), asyncio.create_task(view.bdev("a"))]
    request = await target.request("bdev_get_bdevs")
    clock.advance(HOUR_S)
    await spin()
    if target.requests.empty():
        target.answer(request, bdev("a"))
    else:
        target.answer(await target.request("bdev_get_bdevs"), bdev("a"))
    first, second = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(first, errors.BridgeError)
    assert not isinstance(second, BaseException), repr(second)


async def test_an_impatient_asker_that_joins_a_patient_one_waits_no_longer_than_its_own_deadline(
    pair: Pair, clock: Clock
) -> None:
    _, client = pair
    view = LiveView(client)

    async def impatient() -> object:
        with deadline.limit(HOUR_S):
            return await view.bdev("a")

    patient = asyncio.create_task(view.bdev("a"))
    await asyncio.sleep(0)
    joined = asyncio.create_task(impatient())
    await spin()
    assert not joined.done()
    clock.advance(HOUR_S)
    await spin()
    done = joined.done()
    for task in (patient, joined):
        task.cancel()
    await asyncio.wait([patient, joined])
    assert done
    assert isinstance(joined.exception(), errors.BridgeError)


async def test_a_target_that_is_away_is_unavailable_and_asked_again_when_it_is_back(pair: Pair) -> None:
    target, client = pair
    view = LiveView(client)
    await target.close()
    await until(lambda: not client.connected)
    with pytest.raises(errors.Unavailable):
        await view.bdev("a")
    answering(target)
    await target.listen()
    await until(lambda: client.connected)
    assert await view.bdev("a") is not None
