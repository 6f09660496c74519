from __future__ import annotations

import asyncio

import pytest

from opi_spdk_bridge import deadline
from tests.support.patience import HOUR_S


def hours_left(default: float) -> float:
    """What is left, rounded: no test takes half an hour."""
    return round(deadline.remaining_s(default * HOUR_S) / HOUR_S)


def test_without_a_deadline_the_default_holds() -> None:
    assert hours_left(30) == 30


def test_the_deadline_shortens_the_default_and_never_lengthens_it() -> None:
    with deadline.limit(5 * HOUR_S):
        assert hours_left(30) == 5
        assert hours_left(1) == 1


@pytest.mark.parametrize("timeout_s", [0.0, -3.0])
def test_a_deadline_that_has_passed_leaves_nothing(timeout_s: float) -> None:
    with deadline.limit(timeout_s):
        assert hours_left(30) == 0


def test_an_inner_deadline_replaces_the_outer_one_and_ends_with_its_block() -> None:
    with deadline.limit(1 * HOUR_S):
        with deadline.limit(10 * HOUR_S):
            assert hours_left(30) == 10
        assert hours_left(30) == 1
    assert hours_left(30) == 30


def test_the_deadline_ends_with_its_block_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), deadline.limit(HOUR_S):
        raise ZeroDivisionError
    assert hours_left(30) == 30


async def test_tasks_started_inside_inherit_it_and_keep_it_to_themselves() -> None:
    async def inside() -> float:
        before = hours_left(30)
        with deadline.limit(20 * HOUR_S):
            await asyncio.sleep(0)
        return before

    with deadline.limit(5 * HOUR_S):
        task = asyncio.create_task(inside())
        await asyncio.sleep(0)
        assert hours_left(30) == 5
    assert await task == 5
    assert hours_left(30) == 30
