from __future__ import annotations

import asyncio

import pytest

from opi_spdk_bridge import deadline


def test_without_a_deadline_the_default_holds() -> None:
    assert deadline.remaining_s(30) == 30


def test_the_deadline_shortens_the_default_and_never_lengthens_it() -> None:
    with deadline.limit(5):
        assert deadline.remaining_s(30) == pytest.approx(5, abs=0.5)
        assert deadline.remaining_s(1) == 1


@pytest.mark.parametrize("timeout_s", [0.0, -3.0])
def test_a_deadline_that_has_passed_leaves_nothing(timeout_s: float) -> None:
    with deadline.limit(timeout_s):
        assert deadline.remaining_s(30) == 0


def test_an_inner_deadline_replaces_the_outer_one_and_ends_with_its_block() -> None:
    with deadline.limit(1):
        with deadline.limit(10):
            assert deadline.remaining_s(30) == pytest.approx(10, abs=0.5)
        assert deadline.remaining_s(30) == pytest.approx(1, abs=0.5)
    assert deadline.remaining_s(30) == 30


def test_the_deadline_ends_with_its_block_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), deadline.limit(1):
        raise ZeroDivisionError
    assert deadline.remaining_s(30) == 30


async def test_tasks_started_inside_inherit_it_and_keep_it_to_themselves() -> None:
    async def inside() -> float:
        before = deadline.remaining_s(30)
        with deadline.limit(20):
            await asyncio.sleep(0.01)
        return before

    with deadline.limit(5):
        task = asyncio.create_task(inside())
        await asyncio.sleep(0)
        assert deadline.remaining_s(30) == pytest.approx(5, abs=0.5)
    assert await task == pytest.approx(5, abs=0.5)
    assert deadline.remaining_s(30) == 30
