"""What somebody does to the target behind the bridge's back, and what a target loses, for every row of the table.

What each sort of drift is called in the log, and drift that is not of a whole object, is in test_reconcile.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kinds.case import Case
from tests.kinds.cases import CASES
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import World, free_ports
from tests.support.target import Emulator, emulator, real_target, wait_until

_every_kind = pytest.mark.parametrize("case", CASES, ids=[case.noun for case in CASES])


@pytest.fixture(scope="module")
def sweeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, KeptBridge]]:
    """An emulator to damage, and a bridge on it that looks often."""
    if real_target("SPDK"):
        pytest.skip("needs a target that can be killed: an emulated one")
    folder = tmp_path_factory.mktemp("drift")
    flags = {"sweep_interval_s": 0.3, "notifications_s": 0.1}
    with emulator(folder) as own, KeptBridge(folder, spdk=own.socket, **flags) as daemon:
        yield own, daemon


@pytest.fixture
def ready(
    sweeping: tuple[Emulator, KeptBridge], case: Case, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A world with number 0 of the kind and what it stands on; empty before and after."""
    own, daemon = sweeping
    world = World(daemon, own, tmp_path, lambda: request.getfixturevalue("far"), free_ports(8))
    case.prepare(world)
    case.create(world)
    yield world
    world.clear()
    assert world.leftovers() == {}


@_every_kind
def test_what_somebody_did_to_it_is_put_right_and_logged(
    ready: World, case: Case, sweeping: tuple[Emulator, KeptBridge]
) -> None:
    _, daemon = sweeping
    made, before, printed = ready.get(case.noun, case.name()), case.seen(ready, 0), len(daemon.log)
    with daemon.suspended():
        case.damage(ready)
        assert case.seen(ready, 0) != before
    wait_until(lambda: case.seen(ready, 0) == before, "it is as before")
    told = [f"{case.name()} was not as asked", f"{case.name()}: DATA LOST"]
    wait_until(lambda: any(text in daemon.log[printed:] for text in told), "the log says so")
    wait_until(lambda: ready.get(case.noun, case.name()) == made, "the same answer as before")


@_every_kind
def test_what_somebody_did_to_it_does_not_keep_it_from_being_deleted(
    ready: World, case: Case, sweeping: tuple[Emulator, KeptBridge]
) -> None:
    _, daemon = sweeping
    with daemon.suspended():
        case.damage(ready)
    ready.delete(case.noun, case.name())
    assert case.seen(ready, 0) is None


@_every_kind
def test_a_target_that_died_gets_it_back(ready: World, case: Case, sweeping: tuple[Emulator, KeptBridge]) -> None:
    own, _ = sweeping
    made, before = ready.get(case.noun, case.name()), case.seen(ready, 0)
    own.kill()
    own.start()
    wait_until(lambda: case.seen(ready, 0) == before, "it is as before")
    wait_until(lambda: ready.get(case.noun, case.name()) == made, "the same answer as before")
