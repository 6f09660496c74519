from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk.client import Call, Client
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.steps import Step, StepFailed, carry_out, exists, gone
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, spin

from .scripted_target import ScriptedTarget, overdue, scripted, until

Pair = tuple[ScriptedTarget, Client]
REFUSED = (-32602, "Invalid parameters")


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with scripted(connect_grace_s=0.2, call_timeout_s=HOUR_S) as (target, client):
        for name in "abcd":
            target.answers[f"do_{name}"] = target.answers[f"undo_{name}"] = lambda _: True
        yield target, client


def call(method: str) -> Call[Any]:
    return Call(method, None, lambda result: result)


def step(name: str, **more: Any) -> Step:
    return Step(f"{name} is missing", call(f"do_{name}"), call(f"undo_{name}"), **more)


async def test_steps_travel_in_one_write_and_in_order(pair: Pair) -> None:
    target, client = pair
    target.reads.clear()
    await carry_out(client, [step(name) for name in "abcd"])
    assert target.methods == ["do_a", "do_b", "do_c", "do_d"]
    assert target.reads == [4]


async def test_no_steps_need_no_target(pair: Pair) -> None:
    target, client = pair
    await target.close()
    assert await carry_out(client, []) == []


async def test_what_the_steps_teach_is_gathered(pair: Pair) -> None:
    target, client = pair
    target.answers["do_a"] = lambda _: 7
    steps = [step(name, learn=lambda result: lambda own: [*own, result]) for name in "ab"]
    own = ["before"]
    for learn in await carry_out(client, [*steps, step("c")]):
        own = learn(own)
    assert own == ["before", 7, True], "each goes on from what those before it made"


@pytest.mark.parametrize("failing", [set(found) for size in (1, 2, 3) for found in itertools.combinations("abc", size)])
async def test_exactly_what_succeeded_is_undone_in_reverse_order(pair: Pair, failing: set[str]) -> None:
    target, client = pair
    for name in failing:
        target.answers[f"do_{name}"] = lambda _: REFUSED
    with pytest.raises(StepFailed) as failed:
        await carry_out(client, [step(name) for name in "abc"])
    undone = [f"undo_{name}" for name in "cba" if name not in failing]
    assert target.methods == ["do_a", "do_b", "do_c", *undone]
    assert failed.value.step.says == f"{min(failing)} is missing", "the first failure is the one to tell"


async def test_a_failed_step_keeps_the_targets_words(pair: Pair) -> None:
    target, client = pair
    target.answers["do_a"] = lambda _: (-12, "Cannot allocate memory")
    with pytest.raises(StepFailed) as failed:
        await carry_out(client, [step("a")])
    assert isinstance(failed.value.error, SpdkError)
    assert failed.value.error.code == -12
    assert isinstance(failed.value.undiagnosed(), errors.ResourceExhausted)


async def test_what_was_so_before_is_neither_a_failure_nor_undone(pair: Pair) -> None:
    target, client = pair
    target.answers["do_a"] = lambda _: (-17, "File exists")
    assert await carry_out(client, [step("a", already=exists), step("b")]) == []
    target.answers["do_c"] = lambda _: REFUSED
    with pytest.raises(StepFailed):
        await carry_out(client, [step("a", already=exists), step("b"), step("c")])
    assert target.methods[-1:] == ["undo_b"]
    assert "undo_a" not in target.methods


async def test_removing_what_is_gone_is_success(pair: Pair) -> None:
    target, client = pair
    target.answers["do_a"] = lambda _: (-19, "No such device")
    await carry_out(client, [Step("a is still there", call("do_a"), already=gone)])


async def test_a_step_without_undo_is_left(pair: Pair) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: REFUSED
    with pytest.raises(StepFailed):
        await carry_out(client, [Step("a", call("do_a")), step("b")])
    assert target.methods == ["do_a", "do_b"]


# The cause


async def test_the_cause_is_looked_for_before_anything_is_taken_back(pair: Pair) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: REFUSED
    target.answers["look"] = lambda _: True

    async def diagnose(failure: StepFailed) -> errors.BridgeError:
        await client.call(call("look"))
        return errors.FailedPrecondition(f"why {failure.step.says}")

    with pytest.raises(StepFailed) as failed:
        await carry_out(client, [step("a"), step("b")], diagnose=diagnose)
    assert target.methods == ["do_a", "do_b", "look", "undo_a"]
    assert failed.value.cause.message == "why b is missing"


@pytest.mark.parametrize("problem", [errors.Unavailable("away"), KeyError("bug")])
async def test_what_cannot_be_diagnosed_is_taken_back_all_the_same(pair: Pair, problem: Exception) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: REFUSED

    async def diagnose(_failure: StepFailed) -> errors.BridgeError:
        raise problem

    with pytest.raises(StepFailed) as failed:
        await carry_out(client, [step("a"), step("b")], diagnose=diagnose)
    assert target.methods == ["do_a", "do_b", "undo_a"]
    assert "Invalid parameters" in failed.value.cause.message


async def test_nothing_is_diagnosed_where_the_outcome_is_unknown(pair: Pair, clock: Clock) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: None  # no answer

    async def diagnose(_failure: StepFailed) -> errors.BridgeError:
        raise AssertionError("it may have succeeded")

    with pytest.raises(errors.AnswerTimeout):
        await overdue(clock, carry_out(client, [step("a"), step("b")], diagnose=diagnose))


# Guarded steps


async def test_a_guarded_step_is_not_sent_when_one_before_it_failed(pair: Pair) -> None:
    target, client = pair
    target.answers["do_a"] = lambda _: REFUSED
    with pytest.raises(StepFailed):
        await carry_out(client, [step("a"), step("b", guarded=True)], together=False)
    assert target.methods == ["do_a"]


async def test_a_guarded_step_waits_for_those_before_it(pair: Pair) -> None:
    target, client = pair
    target.reads.clear()
    await carry_out(client, [step("a"), step("b", guarded=True), step("c")], together=False)
    assert target.reads == [1, 2]


async def test_a_guarded_step_travels_with_the_others_when_the_caller_vouches(pair: Pair) -> None:
    target, client = pair
    target.reads.clear()
    await carry_out(client, [step("a"), step("b", guarded=True)], together=True)
    assert target.reads == [2]


async def test_a_guarded_step_that_fails_has_those_before_it_undone(pair: Pair) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: REFUSED
    with pytest.raises(StepFailed):
        await carry_out(client, [step("a"), step("b", guarded=True)], together=False)
    assert target.methods == ["do_a", "do_b", "undo_a"]


# Local work


class Local:
    """Work of the bridge's own that records itself, and fails when told."""

    def __init__(self, target: ScriptedTarget) -> None:
        self.target = target
        self.error: Exception | None = None

    async def do(self) -> None:
        self.target.received.append({"method": "do_local"})
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    async def undo(self) -> None:
        self.target.received.append({"method": "undo_local"})


async def test_local_work_is_done_in_its_place_and_undone_in_its_place(pair: Pair) -> None:
    target, client = pair
    local = Local(target)
    target.answers["do_b"] = lambda _: REFUSED
    with pytest.raises(StepFailed):
        await carry_out(client, [step("a"), Step("file is missing", local.do, local.undo), step("b")])
    assert target.methods == ["do_a", "do_local", "do_b", "undo_local", "undo_a"]


@pytest.mark.parametrize("error", [errors.FailedPrecondition("no room"), OSError("disk"), KeyError("bug")])
async def test_local_work_that_fails_has_what_was_done_undone(pair: Pair, error: Exception) -> None:
    target, client = pair
    local = Local(target)
    local.error = error
    with pytest.raises((StepFailed, OSError, KeyError)):
        await carry_out(client, [step("a"), Step("file is missing", local.do, local.undo), step("b")])
    assert target.methods == ["do_a", "do_local", "undo_a"]


# Unknown outcomes


async def test_an_unknown_outcome_undoes_nothing(pair: Pair, clock: Clock) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: None  # no answer
    target.answers["do_c"] = lambda _: REFUSED
    with pytest.raises(errors.AnswerTimeout):
        await overdue(clock, carry_out(client, [step("a"), step("b"), step("c")]))
    await spin()
    assert target.methods == ["do_a", "do_b", "do_c"]


async def test_a_connection_lost_among_the_steps_undoes_nothing(pair: Pair) -> None:
    target, client = pair
    del target.answers["do_b"]
    running = asyncio.create_task(carry_out(client, [step("a"), step("b")]))
    await target.request("do_b")
    await target.drop()
    with pytest.raises(errors.ConnectionLost):
        await running
    assert target.methods == ["do_a", "do_b"]


async def test_nothing_done_is_said_when_the_target_is_away_from_the_start(pair: Pair) -> None:
    target, client = pair
    await target.close()
    await until(lambda: not client.connected)
    with pytest.raises(errors.Unavailable):
        await carry_out(client, [step("a"), step("b")])


async def test_a_target_that_goes_between_two_writes_leaves_the_outcome_unknown(pair: Pair) -> None:
    target, client = pair
    local = Local(target)

    async def lose_the_target() -> None:
        await target.close()
        await until(lambda: not client.connected)

    with pytest.raises(errors.OutcomeUnknown):
        await carry_out(client, [step("a"), Step("x", lose_the_target, local.undo), step("b")])


async def test_local_work_is_undone_when_the_target_turns_out_to_be_away(pair: Pair) -> None:
    target, client = pair
    local = Local(target)
    await target.close()
    await until(lambda: not client.connected)
    with pytest.raises((errors.Unavailable, StepFailed)):
        await carry_out(client, [Step("file is missing", local.do, local.undo), step("a")])
    assert target.methods == ["do_local", "undo_local"]


async def test_an_undo_that_fails_leaves_the_outcome_unknown(pair: Pair) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: REFUSED
    target.answers["undo_a"] = lambda _: (-16, "Device or resource busy")
    with pytest.raises(errors.OutcomeUnknown, match="busy"):
        await carry_out(client, [step("a"), step("b")])


async def test_an_undo_of_what_is_gone_is_success(pair: Pair) -> None:
    target, client = pair
    target.answers["do_b"] = lambda _: REFUSED
    target.answers["undo_a"] = lambda _: (-19, "No such device")
    with pytest.raises(StepFailed):
        await carry_out(client, [step("a"), step("b")])


async def test_an_undo_that_finds_the_target_away_leaves_the_outcome_unknown(pair: Pair) -> None:
    target, client = pair

    async def lose_the_target() -> None:
        await target.close()
        await until(lambda: not client.connected)
        raise errors.FailedPrecondition("and this failed")

    with pytest.raises(errors.OutcomeUnknown):
        await carry_out(client, [step("a"), Step("x", lose_the_target)])


async def test_undoing_has_a_deadline_of_its_own(pair: Pair, clock: Clock) -> None:
    target, client = pair

    async def fail_late() -> None:
        clock.advance(HOUR_S)
        raise errors.FailedPrecondition("too late")

    with deadline.limit(HOUR_S), pytest.raises(StepFailed):
        await carry_out(client, [step("a"), Step("x", fail_late)])
    assert target.methods == ["do_a", "undo_a"]


async def test_a_deadline_that_passes_before_the_next_write_undoes_what_was_done(pair: Pair, clock: Clock) -> None:
    target, client = pair

    async def take_long() -> None:
        clock.advance(HOUR_S)

    with deadline.limit(HOUR_S), pytest.raises(errors.DeadlineExceeded):
        await carry_out(client, [step("a"), Step("x", take_long), step("b")])
    assert target.methods == ["do_a", "undo_a"]


async def test_a_step_that_was_carried_out_but_answered_strangely_is_not_left_behind_as_a_failure(pair: Pair) -> None:
    target, client = pair
    odd: Call[Any] = Call("do_a", None, lambda result: result["nsid"])
    with pytest.raises((errors.OutcomeUnknown, StepFailed)) as outcome:
        await carry_out(client, [Step("a is missing", odd, call("undo_a"))])
    assert isinstance(outcome.value, errors.OutcomeUnknown) or target.methods == ["do_a", "undo_a"]
