from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.reconcile import Reconciler
from opi_spdk_bridge.core.record import AnyRecord, Phase
from opi_spdk_bridge.core.side import Postponed
from opi_spdk_bridge.spdk.errors import SpdkError
from tests.support.patience import HOUR_S, PATIENCE_S

from .fakes import Bridge, DiskKind, DiskOwn, DiskSide, spin
from .scripted_target import until

LOST = errors.ConnectionLost("lost")
NAMESPACE = "nvmeSubsystems/s/nvmeNamespaces/n"


@pytest.fixture
async def bridge() -> Bridge:
    """A bridge with a volume, a subsystem and a namespace."""
    made = Bridge()
    await made.create_disk("d")
    await made.create_subsystem("s")
    await made.create_namespace("s", "n", "d")
    made.target.calls.clear()
    return made


@pytest.fixture
async def running(bridge: Bridge) -> AsyncIterator[Reconciler]:
    """A reconciler at work that has done its first sweep."""
    made = reconciler(bridge)
    made.start()
    await asyncio.wait_for(made.swept.wait(), PATIENCE_S)
    bridge.target.calls.clear()
    yield made
    await made.close()


def reconciler(bridge: Bridge) -> Reconciler:
    return Reconciler(
        bridge.registry, bridge.catalog, bridge.engine, bridge.target, interval_s=HOUR_S, notifications_s=HOUR_S
    )


@pytest.mark.parametrize("restoring", [True, False])
async def test_a_sweep_over_what_is_as_desired_changes_nothing(bridge: Bridge, restoring: bool) -> None:
    made = reconciler(bridge)
    await made.sweep(restoring=restoring)
    assert bridge.target.changes == []
    assert {name for _, name in bridge.target.calls} == {"nullVolumes/d", "nvmeSubsystems/s", NAMESPACE}
    assert (made.tally.restored, made.tally.drifted, made.tally.finished, made.tally.failed) == (0, 0, 0, 0)


@pytest.mark.parametrize("restoring", [True, False])
async def test_what_is_missing_is_made_again_in_the_order_of_dependency(bridge: Bridge, restoring: bool) -> None:
    wanted = dict(bridge.target.objects)
    bridge.target.objects.clear()
    made = reconciler(bridge)
    await made.sweep(restoring=restoring)
    assert [name for _, name in bridge.target.changes] == ["nullVolumes/d", "nvmeSubsystems/s", NAMESPACE]
    assert bridge.target.objects == wanted
    assert (made.tally.restored, made.tally.drifted) == ((3, 0) if restoring else (0, 3))


async def test_everything_of_a_target_that_came_empty_is_restored(bridge: Bridge) -> None:
    for number in range(300):
        await bridge.create_disk(f"more{number}")
    wanted = dict(bridge.target.objects)
    bridge.target.objects.clear()
    await reconciler(bridge).sweep(restoring=True)
    assert bridge.target.objects == wanted


async def test_of_a_target_that_lost_a_part_that_part_is_restored(bridge: Bridge) -> None:
    for number in range(300):
        await bridge.create_disk(f"more{number:03}")
    wanted = dict(bridge.target.objects)
    for number in range(150):
        del bridge.target.objects[f"nullVolumes/more{number:03}"]
    await reconciler(bridge).sweep(restoring=True)
    assert bridge.target.objects == wanted


async def test_what_is_anothers_is_left_alone(bridge: Bridge) -> None:
    bridge.target.objects["nullVolumes/d"] = "foreign"
    made = reconciler(bridge)
    await made.sweep()
    assert made.tally.failed == 1
    assert bridge.target.changes == []


@pytest.mark.parametrize(
    "problem", [errors.ResourceExhausted("full"), LOST, KeyError("bug")], ids=lambda problem: type(problem).__name__
)
async def test_one_that_cannot_be_repaired_does_not_keep_the_others_from_it(bridge: Bridge, problem: Exception) -> None:
    bridge.target.objects.clear()
    bridge.target.fail("create", problem)
    made = reconciler(bridge)
    await made.sweep()
    assert made.tally.failed == 1
    assert set(bridge.target.objects) == {"nvmeSubsystems/s", NAMESPACE}


async def test_lost_data_is_said_loudly_and_counted(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    class MemoryDiskKind(DiskKind):
        volatile = True

    bridge.registry.add(MemoryDiskKind(bridge.catalog), bridge.disks.side)
    bridge.target.objects.clear()
    made = reconciler(bridge)
    await made.sweep()
    assert made.tally.data_losses == 1
    assert [record.levelno for record in caplog.records if "nullVolumes/d" in record.message][-1] == logging.ERROR


async def test_half_done_work_is_finished(bridge: Bridge) -> None:
    bridge.target.fail("create", LOST)
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_disk("created")
    await bridge.create_disk("deleted")
    bridge.target.fail("remove", LOST)
    with pytest.raises(errors.ConnectionLost):
        await bridge.delete_disk("deleted")
    bridge.target.fail("change", LOST)
    with pytest.raises(errors.ConnectionLost):
        await bridge.resize_disk("d", 9)
    made = reconciler(bridge)
    await made.sweep()
    stored = await bridge.stored()
    assert set(stored) == {"nullVolumes/d", "nullVolumes/created", "nvmeSubsystems/s", NAMESPACE}
    assert set(stored) == set(bridge.target.objects)
    assert {record.phase for record in stored.values()} == {Phase.READY}
    assert stored["nullVolumes/d"].desired.blocks_count == 9
    assert made.tally.finished == 3


async def test_what_a_request_is_working_on_is_left_to_it_and_not_waited_for(bridge: Bridge) -> None:
    release = asyncio.Event()

    class SlowSide(DiskSide):
        async def make(self, record: AnyRecord) -> DiskOwn:
            await release.wait()
            return await super().make(record)

    bridge.registry.add(bridge.disks.kind, SlowSide(bridge.target))
    creating = asyncio.create_task(bridge.create_disk("busy"))
    await spin()
    made = reconciler(bridge)
    sweep = asyncio.create_task(made.sweep())
    await spin()
    assert sweep.done()
    assert not made._looking, "nor does anything of it wait any longer"
    assert "nullVolumes/busy" not in {name for _, name in bridge.target.calls}
    assert made.tally.finished == 0
    release.set()
    await creating


async def test_a_change_left_in_the_middle_is_looked_at_soon(bridge: Bridge, running: Reconciler) -> None:
    bridge.target.fail("create", LOST)
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_disk("e")
    await until(lambda: bridge.catalog.visible("nullVolumes/e"))
    await bridge.engine.drain()
    assert (await bridge.get_disk("e")).blocks_count == 8


async def test_everything_is_looked_at_when_the_target_comes_back(bridge: Bridge, running: Reconciler) -> None:
    bridge.target.connected = False
    bridge.target.objects.clear()
    running.target_came()
    await spin()
    assert bridge.target.calls == []
    bridge.target.connected = True
    running.target_came()
    await asyncio.wait_for(running.swept.wait(), PATIENCE_S)
    assert set(bridge.target.objects) == {"nullVolumes/d", "nvmeSubsystems/s", NAMESPACE}


async def test_a_sweep_that_the_targets_going_broke_off_is_not_the_last(bridge: Bridge, running: Reconciler) -> None:
    bridge.target.gate.clear()
    bridge.target.fail("look", LOST)
    running.target_came()
    await spin()
    bridge.target.connected = False
    bridge.target.gate.set()
    await spin()
    assert not running.swept.is_set()
    bridge.target.connected = True
    running.target_came()
    await asyncio.wait_for(running.swept.wait(), PATIENCE_S)


async def test_closing_in_the_middle_of_a_sweep_leaves_no_work_behind(bridge: Bridge) -> None:
    before = asyncio.all_tasks()
    bridge.target.gate.clear()
    made = reconciler(bridge)
    made.start()
    await spin()
    assert bridge.target.calls, "the sweep has begun"
    await made.close()
    await spin()
    left = asyncio.all_tasks() - before
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    assert not left


@pytest.mark.parametrize(
    "problem", [SpdkError("notify_get_notifications", -32601, "Method not found"), KeyError("bug")]
)
async def test_notices_that_cannot_be_read_do_not_end_the_reconciler(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    async def fail() -> set[str] | None:
        raise problem

    monkeypatch.setattr(bridge.target, "changed_bdevs", fail)
    made = reconciler(bridge)
    made.start()
    await asyncio.wait_for(made.swept.wait(), PATIENCE_S)
    await spin()
    made.target_came()
    await spin()
    again = made.swept.is_set()
    (ended,) = await asyncio.gather(made.close(), return_exceptions=True)
    assert ended is None
    assert again


async def test_what_was_owed_is_done_when_its_bdev_comes_and_nothing_else_is_looked_at_for_that(
    bridge: Bridge,
) -> None:
    class LingeringSide(DiskSide):
        async def remove(self, record: AnyRecord, view: Any | None = None) -> None:
            if "back" not in self.target.objects:
                raise Postponed("its bdev is away")

    bridge.registry.add(bridge.disks.kind, LingeringSide(bridge.target))
    await bridge.create_disk("e")
    await bridge.delete_disk("e")
    bridge.target.announced = set()
    made = Reconciler(bridge.registry, bridge.catalog, bridge.engine, bridge.target, HOUR_S, 0.02)
    made.start()
    await asyncio.wait_for(made.swept.wait(), PATIENCE_S)
    bridge.target.calls.clear()
    bridge.target.objects["back"] = "a bdev"
    bridge.target.arrived = {"d", next(record.id for record in bridge.catalog if record.phase is Phase.DELETED)}
    await until(lambda: all(record.phase is not Phase.DELETED for record in bridge.catalog))
    await made.close()
    assert bridge.target.calls == []


async def test_what_stands_on_a_bdev_that_the_target_says_has_gone_is_looked_at(bridge: Bridge) -> None:
    bridge.target.announced = set()
    made = Reconciler(bridge.registry, bridge.catalog, bridge.engine, bridge.target, HOUR_S, 0.02)
    made.start()
    await asyncio.wait_for(made.swept.wait(), PATIENCE_S)
    wanted = dict(bridge.target.objects)
    bridge.target.objects.clear()
    bridge.target.announced = {"d"}
    await until(lambda: {"nullVolumes/d", NAMESPACE} <= set(bridge.target.objects))
    await made.close()
    assert bridge.target.objects.items() <= wanted.items()
    assert "nvmeSubsystems/s" not in bridge.target.objects, "nothing was said of it"
