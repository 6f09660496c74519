from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import count
from typing import Any

import pytest

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Settled, Taken
from opi_spdk_bridge.core.record import AnyRecord, Phase
from opi_spdk_bridge.core.side import Postponed
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeSubsystem
from tests.support.patience import PATIENCE_S

from .fakes import PSK, Bridge, DiskKind, DiskOwn, DiskSide, FakeTarget, SubsystemSide, names, spin

DEFINITE = [
    errors.InvalidArgument("it is wrong"),
    errors.FailedPrecondition("it is in the way"),
    errors.ResourceExhausted("it is full"),
    errors.Unavailable("it was never sent"),
    errors.DeadlineExceeded("it was never sent"),
    errors.TargetFailure("its own words"),
]
UNKNOWN = [errors.ConnectionLost("the connection was lost"), errors.AnswerTimeout("no answer")]


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


async def with_namespace(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    await bridge.create_subsystem("s")
    await bridge.create_namespace("s", "n", "d")
    bridge.target.calls.clear()


# Create


async def test_a_create_makes_the_object_and_keeps_the_record(bridge: Bridge) -> None:
    answer = await bridge.create_disk("d", 8)
    wanted = NullVolume(name="nullVolumes/d", block_size=512, blocks_count=8, uuid="chosen-for-d")
    assert answer == wanted
    assert bridge.target.changes == [("create", "nullVolumes/d")]
    record = (await bridge.stored())["nullVolumes/d"]
    assert (record.phase, record.revision) == (Phase.READY, 1)
    assert await bridge.get_disk("d") == wanted


async def test_the_intent_with_its_identities_is_stored_before_the_target_is_asked(bridge: Bridge) -> None:
    bridge.target.gate.clear()
    creating = asyncio.create_task(bridge.create_disk("d"))
    await spin()
    record = (await bridge.stored())["nullVolumes/d"]
    assert (record.phase, record.assigned) == (Phase.CREATING, {"uuid": "chosen-for-d"})
    assert bridge.target.objects == {}
    bridge.target.gate.set()
    await creating


async def test_an_equal_create_answers_with_what_exists_and_asks_nothing_of_the_target(bridge: Bridge) -> None:
    first = await bridge.create_disk("d")
    bridge.target.calls.clear()
    assert await bridge.create_disk("d") == first
    assert bridge.target.calls == []


@pytest.mark.parametrize(
    "repeat",
    [
        {"uuid": "chosen-for-d"},
        {"uuid": "CHOSEN-for-d"},
        {"name": "nullVolumes/another"},
    ],
)
async def test_a_repeat_may_fill_in_what_was_assigned_and_spell_it_otherwise(
    bridge: Bridge, repeat: dict[str, Any]
) -> None:
    first = await bridge.create_disk("d")
    assert await bridge.create_disk("d", **repeat) == first


@pytest.mark.parametrize("other", [{"blocks_count": 9}, {"block_size": 4096}, {"uuid": "another"}])
async def test_another_request_for_the_same_id_already_exists(bridge: Bridge, other: dict[str, Any]) -> None:
    await bridge.create_disk("d")
    bridge.target.calls.clear()
    with pytest.raises(errors.AlreadyExists) as refused:
        await bridge.create_disk("d", **other)
    assert refused.value.resource == "nullVolumes/d"
    assert bridge.target.calls == []


async def test_a_hint_is_no_part_of_the_request_that_is_compared(bridge: Bridge) -> None:
    await with_namespace(bridge)
    again = await bridge.create_namespace("s", "n", "d", host_nsid=9)
    assert again.spec.host_nsid == 3


async def test_another_secret_is_another_request(bridge: Bridge) -> None:
    await bridge.create_subsystem("s", psk=PSK)
    await bridge.create_subsystem("s", psk=PSK)
    with pytest.raises(errors.AlreadyExists):
        await bridge.create_subsystem("s", psk=PSK.replace(b"VGhp", b"XXXX"))


async def test_secrets_are_in_no_answer(bridge: Bridge) -> None:
    resource = NvmeSubsystem(name="nvmeSubsystems/s", spec={"hostnqn": "nqn.2022-09.io.spdk:h"})
    answers = [
        await bridge.create_subsystem("s", psk=PSK),
        await bridge.create_subsystem("s", psk=PSK),
        await bridge.engine.get(bridge.subsystems, "nvmeSubsystems/s"),
        await bridge.engine.update(bridge.subsystems, resource, [], False, "nvme_subsystem"),
        *(await bridge.engine.list(bridge.subsystems, "", 0, "")).items,
    ]
    assert len(answers) == 5
    assert all(PSK not in answer.SerializeToString() for answer in answers)
    record = bridge.catalog.record("nvmeSubsystems/s")
    assert record is not None
    assert record.desired.spec.psk == PSK


async def test_outputs_and_the_name_in_a_request_are_ignored(bridge: Bridge) -> None:
    resource = NvmeSubsystem(name="x", spec={"nqn": "nqn.2022-09.io.spdk:s"}, status={"firmware_revision": "made up"})
    answer: Any = await bridge.engine.create(bridge.subsystems, "", "s", resource, "nvme_subsystem")
    assert (answer.name, answer.status.firmware_revision) == ("nvmeSubsystems/s", "fake")


async def test_without_an_id_each_create_makes_another(bridge: Bridge) -> None:
    one, other = [await bridge.create_disk("") for _ in range(2)]
    assert one.name != other.name


@pytest.mark.parametrize(
    ("given_id", "fields", "field"),
    [
        ("-", {}, "null_volume_id"),
        ("d", {"block_size": 0}, "null_volume.block_size"),
        ("d", {"blocks_count": 2_000_000}, "null_volume.blocks_count"),
        ("d", {"uuid": "malformed"}, "null_volume.uuid"),
    ],
)
async def test_a_wrong_request_is_refused_naming_the_field_and_leaves_nothing(
    bridge: Bridge, given_id: str, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        await bridge.create_disk(given_id, **fields)
    assert refused.value.field == field
    assert bridge.target.calls == []
    assert await bridge.stored() == {}


async def test_a_child_of_nothing_is_not_found(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    with pytest.raises(errors.NotFound) as refused:
        await bridge.create_namespace("s", "n", "d")
    assert refused.value.resource == "nvmeSubsystems/s"


async def test_a_reference_to_nothing_is_not_found_naming_the_field(bridge: Bridge) -> None:
    await bridge.create_subsystem("s")
    with pytest.raises(errors.NotFound) as refused:
        await bridge.create_namespace("s", "n", "d")
    assert (refused.value.resource, refused.value.field) == ("nullVolumes/d", "nvme_namespace.spec.volume_name_ref")


async def test_what_another_has_reserved_is_refused_naming_it_and_leaves_nothing(bridge: Bridge) -> None:
    await with_namespace(bridge)
    with pytest.raises(errors.FailedPrecondition) as refused:
        await bridge.create_namespace("s", "other", "d")
    assert refused.value.resource == "nvmeSubsystems/s/nvmeNamespaces/n"
    assert bridge.target.calls == []
    assert "nvmeSubsystems/s/nvmeNamespaces/other" not in await bridge.stored()


async def test_of_two_that_race_for_one_reservation_one_wins(bridge: Bridge) -> None:
    nqn = "nqn.2022-09.io.spdk:same"
    outcomes = await asyncio.gather(
        bridge.create_subsystem("a", nqn=nqn), bridge.create_subsystem("b", nqn=nqn), return_exceptions=True
    )
    assert sum(isinstance(outcome, errors.AlreadyExists) for outcome in outcomes) == 1
    assert len(bridge.target.objects) == len(await bridge.stored()) == 1


@pytest.mark.parametrize("error", DEFINITE, ids=lambda error: type(error).__name__)
async def test_a_create_that_failed_for_certain_is_forgotten(bridge: Bridge, error: errors.BridgeError) -> None:
    bridge.target.fail("create", error)
    with pytest.raises(type(error)):
        await bridge.create_disk("d")
    assert await bridge.stored() == {}
    assert bridge.target.objects == {}
    with pytest.raises(errors.NotFound):
        await bridge.get_disk("d")
    await bridge.create_disk("d", 9)
    assert bridge.unfinished == []


async def test_a_create_that_failed_gives_its_reservations_back(bridge: Bridge) -> None:
    bridge.target.fail("create", errors.FailedPrecondition("no"))
    with pytest.raises(errors.FailedPrecondition):
        await bridge.create_subsystem("a", nqn="nqn.2022-09.io.spdk:same")
    await bridge.create_subsystem("b", nqn="nqn.2022-09.io.spdk:same")


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_create_of_unknown_outcome_is_kept_and_finished_by_an_equal_request(
    bridge: Bridge, error: errors.BridgeError, carried_out: bool
) -> None:
    bridge.target.fail("create", error, carried_out=carried_out)
    with pytest.raises(type(error)):
        await bridge.create_disk("d")
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.CREATING
    assert bridge.unfinished == ["nullVolumes/d"]
    with pytest.raises(errors.NotFound):
        await bridge.get_disk("d")
    assert names(await bridge.engine.list(bridge.disks, "", 0, "")) == []
    assert (await bridge.create_disk("d")).uuid == "chosen-for-d"
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.READY
    assert list(bridge.target.objects) == ["nullVolumes/d"]


async def test_a_create_of_unknown_outcome_is_finished_after_a_restart(bridge: Bridge) -> None:
    bridge.target.fail("create", UNKNOWN[0], carried_out=True)
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_disk("d")
    bridge = await bridge.restarted()
    await bridge.engine.finish("nullVolumes/d")
    assert (await bridge.get_disk("d")).uuid == "chosen-for-d"


async def test_a_create_of_unknown_outcome_that_cannot_be_finished_is_taken_back(bridge: Bridge) -> None:
    bridge.target.fail("create", UNKNOWN[0], carried_out=False)
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_disk("d")
    bridge.target.fail("look", errors.FailedPrecondition("it cannot be"))
    await bridge.engine.finish("nullVolumes/d")
    assert await bridge.stored() == {}
    assert bridge.target.objects == {}


async def test_finishing_that_ran_out_of_time_takes_nothing_back(bridge: Bridge) -> None:
    bridge.target.fail("create", UNKNOWN[0], carried_out=True)
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_disk("d")
    bridge.target.fail("look", errors.DeadlineExceeded("never sent"))
    with pytest.raises(errors.DeadlineExceeded):
        await bridge.engine.finish("nullVolumes/d")
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.CREATING
    assert list(bridge.target.objects) == ["nullVolumes/d"]


async def test_what_is_of_unknown_outcome_keeps_its_reservations(bridge: Bridge) -> None:
    bridge.target.fail("create", UNKNOWN[0])
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_subsystem("a", nqn="nqn.2022-09.io.spdk:same")
    with pytest.raises(errors.AlreadyExists):
        await bridge.create_subsystem("b", nqn="nqn.2022-09.io.spdk:same")


async def test_an_error_that_is_a_bug_keeps_the_record_in_its_phase(bridge: Bridge) -> None:
    bridge.target.fail("create", KeyError("bug"), carried_out=True)
    with pytest.raises(KeyError):
        await bridge.create_disk("d")
    assert bridge.unfinished == ["nullVolumes/d"]
    await bridge.create_disk("d")


async def test_what_the_target_assigned_is_shown_and_survives_a_restart(bridge: Bridge) -> None:
    await with_namespace(bridge)
    bridge = await bridge.restarted()
    answer: Any = await bridge.engine.get(bridge.namespaces, "nvmeSubsystems/s/nvmeNamespaces/n")
    assert answer.spec.host_nsid == 3


async def test_an_answer_waits_until_the_intent_is_on_the_disk_and_for_no_more(bridge: Bridge) -> None:
    disk: list[asyncio.Future[None]] = []
    bridge.store.slow_disk = disk
    create = asyncio.create_task(bridge.create_disk("d"))
    await spin()
    assert not create.done()
    assert len(bridge.target.objects) == 1, "the target is not kept waiting"
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.READY, "nor is the outcome"
    disk[0].set_result(None)
    await asyncio.wait_for(create, PATIENCE_S)
    assert len(disk) == 1


async def test_an_intent_that_does_not_reach_the_disk_is_no_success(bridge: Bridge) -> None:
    disk: list[asyncio.Future[None]] = []
    bridge.store.slow_disk = disk
    create = asyncio.create_task(bridge.create_disk("d"))
    await spin()
    disk[0].set_exception(errors.Unavailable("the disk is broken"))
    with pytest.raises(errors.NotStored):
        await create
    assert bridge.unfinished == ["nullVolumes/d"]
    bridge.store.slow_disk = None
    await bridge.engine.heal()
    assert (await bridge.create_disk("d")).name == "nullVolumes/d"


async def test_a_store_that_cannot_keep_the_intent_stops_the_create_before_the_target(bridge: Bridge) -> None:
    bridge.store.failures.append(errors.Unavailable("the disk is full"))
    with pytest.raises(errors.Unavailable):
        await bridge.create_disk("d")
    assert bridge.target.changes == []
    assert bridge.catalog.record("nullVolumes/d") is None


async def test_a_store_that_cannot_keep_the_outcome_leaves_the_create_to_be_finished(bridge: Bridge) -> None:
    bridge.store.failures.extend([None, errors.Unavailable("the disk is full")])
    with pytest.raises(errors.BridgeError):
        await bridge.create_disk("d")
    assert bridge.unfinished == ["nullVolumes/d"], "whoever finishes it is told"
    await bridge.create_disk("d")
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.READY


# Get and list


async def test_a_get_of_nothing_is_not_found(bridge: Bridge) -> None:
    with pytest.raises(errors.NotFound) as refused:
        await bridge.get_disk("d")
    assert refused.value.resource == "nullVolumes/d"


async def test_either_style_of_name_is_understood_and_the_canonical_one_answered(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    answer: Any = await bridge.engine.get(bridge.disks, "volumes/d")
    assert answer.name == "nullVolumes/d"


@pytest.mark.parametrize("away", ["away", *UNKNOWN, errors.Unavailable("gone in between")], ids=str)
async def test_a_get_while_the_target_is_away_answers_with_what_was_last_known(bridge: Bridge, away: Any) -> None:
    await bridge.create_subsystem("s")
    if away == "away":
        bridge.target.connected = False
    else:
        bridge.target.fail("look", away)
    answer: Any = await bridge.engine.get(bridge.subsystems, "nvmeSubsystems/s")
    assert answer.status.firmware_revision == "fake"


async def test_the_list_of_children_of_nothing_is_not_found(bridge: Bridge) -> None:
    with pytest.raises(errors.NotFound):
        await bridge.engine.list(bridge.namespaces, "nvmeSubsystems/s", 0, "")


async def test_a_list_asks_nothing_of_the_target(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    bridge.target.calls.clear()
    assert names(await bridge.engine.list(bridge.disks, "anything", 0, "")) == ["nullVolumes/d"]
    assert bridge.target.calls == []


async def test_stats_are_the_kinds_counters(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    assert (await bridge.engine.stats(bridge.disks, "volumes/d")).read_bytes_count == 2**40
    with pytest.raises(errors.NotFound):
        await bridge.engine.stats(bridge.disks, "volumes/other")


# Update


async def test_an_update_changes_the_object_and_the_record(bridge: Bridge) -> None:
    await bridge.create_disk("d", 8)
    answer = await bridge.resize_disk("d", 9)
    assert (answer.blocks_count, answer.uuid) == (9, "chosen-for-d")
    record = (await bridge.stored())["nullVolumes/d"]
    assert (record.phase, record.revision, record.previous) == (Phase.READY, 2, None)
    assert bridge.target.changes[-1] == ("change", "nullVolumes/d")
    assert await bridge.get_disk("d") == answer


async def test_an_update_is_visible_only_when_it_is_done(bridge: Bridge) -> None:
    await bridge.create_disk("d", 8)
    bridge.target.gate.clear()
    updating = asyncio.create_task(bridge.resize_disk("d", 9))
    await spin()
    record = (await bridge.stored())["nullVolumes/d"]
    assert record.previous is not None
    assert (record.phase, record.desired.blocks_count, record.previous.desired.blocks_count) == (Phase.UPDATING, 9, 8)
    page: Any = await bridge.engine.list(bridge.disks, "", 0, "")
    assert [item.blocks_count for item in page.items] == [8]
    bridge.target.connected = False
    assert (await bridge.get_disk("d")).blocks_count == 8
    bridge.target.connected = True
    bridge.target.gate.set()
    assert (await updating).blocks_count == 9
    assert (await bridge.get_disk("d")).blocks_count == 9


async def test_an_update_that_changes_nothing_asks_nothing_of_the_target(bridge: Bridge) -> None:
    first = await bridge.create_disk("d", 8)
    bridge.target.calls.clear()
    assert await bridge.resize_disk("d", 8) == first
    assert bridge.target.calls == []


@pytest.mark.parametrize("mask", [[], ["*"], ["block_size", "blocks_count", "uuid"]])
async def test_what_get_returned_can_be_sent_back_and_changes_nothing(bridge: Bridge, mask: list[str]) -> None:
    await bridge.create_disk("d")
    shown = await bridge.get_disk("d")
    bridge.target.calls.clear()
    assert await bridge.engine.update(bridge.disks, shown, mask, False, "null_volume") == shown
    assert bridge.target.calls == []


async def test_an_assigned_value_in_another_spelling_changes_nothing(bridge: Bridge) -> None:
    first = await bridge.create_disk("d")
    bridge.target.calls.clear()
    sent = NullVolume(name="nullVolumes/d", uuid="CHOSEN-for-d")
    assert await bridge.engine.update(bridge.disks, sent, ["uuid"], False, "null_volume") == first
    assert bridge.target.calls == []


async def test_a_secret_survives_the_sending_back_of_what_get_returned(bridge: Bridge) -> None:
    await bridge.create_subsystem("s", psk=PSK)
    shown: Any = await bridge.engine.get(bridge.subsystems, "nvmeSubsystems/s")
    shown.spec.hostnqn = "nqn.2022-09.io.spdk:h"
    await bridge.engine.update(bridge.subsystems, shown, ["*"], False, "nvme_subsystem")
    record = (await bridge.stored())["nvmeSubsystems/s"]
    assert (record.desired.spec.psk, record.desired.spec.hostnqn) == (PSK, "nqn.2022-09.io.spdk:h")


async def test_a_secret_goes_when_the_mask_names_it(bridge: Bridge) -> None:
    await bridge.create_subsystem("s", psk=PSK)
    resource = NvmeSubsystem(name="nvmeSubsystems/s")
    await bridge.engine.update(bridge.subsystems, resource, ["spec.psk"], False, "nvme_subsystem")
    assert (await bridge.stored())["nvmeSubsystems/s"].desired.spec.psk == b""


@pytest.mark.parametrize(
    ("resource", "mask", "field"),
    [
        (NullVolume(block_size=4096), [], "null_volume.block_size"),
        (NullVolume(block_size=4096, blocks_count=1), ["*"], "null_volume.block_size"),
        (NullVolume(), ["blocks_count"], "null_volume.blocks_count"),
        (NullVolume(blocks_count=2_000_000), [], "null_volume.blocks_count"),
        (NullVolume(uuid="malformed"), ["uuid"], "null_volume.uuid"),
        (NullVolume(), ["nope"], "update_mask"),
    ],
)
async def test_a_wrong_update_is_refused_naming_the_field_and_changes_nothing(
    bridge: Bridge, resource: NullVolume, mask: list[str], field: str
) -> None:
    first = await bridge.create_disk("d")
    bridge.target.calls.clear()
    sent = NullVolume()
    sent.CopyFrom(resource)
    sent.name = "nullVolumes/d"
    with pytest.raises(errors.InvalidArgument) as refused:
        await bridge.engine.update(bridge.disks, sent, mask, False, "null_volume")
    assert refused.value.field == field
    assert bridge.target.calls == []
    assert await bridge.get_disk("d") == first


async def test_a_field_that_the_mask_does_not_name_may_hold_anything(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    sent = NullVolume(name="nullVolumes/d", blocks_count=9, uuid="malformed")
    answer: Any = await bridge.engine.update(bridge.disks, sent, ["blocks_count"], False, "null_volume")
    assert (answer.blocks_count, answer.uuid) == (9, "chosen-for-d")


async def test_naming_an_immutable_field_without_changing_it_is_allowed(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    sent = NullVolume(name="nullVolumes/d", block_size=512, blocks_count=9)
    assert await bridge.engine.update(bridge.disks, sent, ["block_size", "blocks_count"], False, "null_volume")


async def test_an_update_of_nothing_is_not_found_or_a_create(bridge: Bridge) -> None:
    sent = NullVolume(name="volumes/d", block_size=512, blocks_count=9)
    with pytest.raises(errors.NotFound):
        await bridge.engine.update(bridge.disks, sent, ["blocks_count"], False, "null_volume")
    answer: Any = await bridge.engine.update(bridge.disks, sent, ["blocks_count"], True, "null_volume")
    assert (answer.name, answer.block_size, answer.blocks_count) == ("nullVolumes/d", 512, 9)


@pytest.mark.parametrize("error", DEFINITE, ids=lambda error: type(error).__name__)
async def test_an_update_that_failed_for_certain_restores_what_was(bridge: Bridge, error: errors.BridgeError) -> None:
    first = await bridge.create_disk("d", 8)
    before = await bridge.stored()
    bridge.target.fail("change", error)
    with pytest.raises(type(error)):
        await bridge.resize_disk("d", 9)
    assert await bridge.stored() == before
    assert await bridge.get_disk("d") == first


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("restart", [True, False])
async def test_an_update_of_unknown_outcome_is_kept_and_rolled_forward(
    bridge: Bridge, error: errors.BridgeError, carried_out: bool, restart: bool
) -> None:
    await bridge.create_disk("d", 8)
    bridge.target.fail("change", error, carried_out=carried_out)
    with pytest.raises(type(error)):
        await bridge.resize_disk("d", 9)
    assert bridge.unfinished == ["nullVolumes/d"]
    bridge.target.connected = False
    assert (await bridge.get_disk("d")).blocks_count == 8
    bridge.target.connected = True
    if restart:
        bridge = await bridge.restarted()
    assert (await bridge.resize_disk("d", 9)).blocks_count == 9
    record = (await bridge.stored())["nullVolumes/d"]
    assert (record.phase, record.previous) == (Phase.READY, None)
    assert bridge.target.objects == {"nullVolumes/d": DiskSide(bridge.target).wanted(record)}


async def test_an_update_of_unknown_outcome_that_cannot_be_finished_is_taken_back(bridge: Bridge) -> None:
    first = await bridge.create_disk("d", 8)
    before = await bridge.stored()
    bridge.target.fail("change", UNKNOWN[0], carried_out=True)
    with pytest.raises(errors.ConnectionLost):
        await bridge.resize_disk("d", 9)
    bridge.target.fail("look", errors.FailedPrecondition("it cannot be"))
    await bridge.engine.finish("nullVolumes/d")
    assert await bridge.stored() == before
    assert await bridge.get_disk("d") == first


async def test_an_update_may_not_take_what_another_has_reserved(bridge: Bridge) -> None:
    await bridge.create_disk("d", uuid="taken")
    await bridge.create_disk("e")
    sent = NullVolume(name="nullVolumes/e", uuid="taken")
    with pytest.raises(errors.AlreadyExists) as refused:
        await bridge.engine.update(bridge.disks, sent, ["uuid"], False, "null_volume")
    assert refused.value.resource == "nullVolumes/d"
    assert (await bridge.get_disk("e")).uuid == "chosen-for-e"


async def test_an_update_moves_what_the_resource_stands_on(bridge: Bridge) -> None:
    await with_namespace(bridge)
    await bridge.create_disk("e")
    sent = NvmeNamespace(name="nvmeSubsystems/s/nvmeNamespaces/n", spec={"volume_name_ref": "e"})
    await bridge.engine.update(bridge.namespaces, sent, [], False, "nvme_namespace")
    await bridge.delete_disk("d")
    with pytest.raises(errors.FailedPrecondition):
        await bridge.delete_disk("e")


# Delete


async def test_a_delete_removes_the_object_and_the_record(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    await bridge.delete_disk("d")
    assert bridge.target.objects == {}
    assert await bridge.stored() == {}
    with pytest.raises(errors.NotFound):
        await bridge.get_disk("d")


async def test_a_delete_of_nothing_is_not_found_unless_that_is_allowed(bridge: Bridge) -> None:
    with pytest.raises(errors.NotFound):
        await bridge.delete_disk("d")
    await bridge.delete_disk("d", allow_missing=True)
    assert bridge.target.calls == []


@pytest.mark.parametrize("used", ["nullVolumes/d", "nvmeSubsystems/s"])
async def test_what_something_stands_on_is_not_deleted_and_the_user_is_named(bridge: Bridge, used: str) -> None:
    await with_namespace(bridge)
    entry = bridge.disks if used.startswith("nullVolumes") else bridge.subsystems
    with pytest.raises(errors.FailedPrecondition, match="nvmeSubsystems/s/nvmeNamespaces/n") as refused:
        await bridge.engine.delete(entry, used, False)
    assert refused.value.resource == "nvmeSubsystems/s/nvmeNamespaces/n"
    assert bridge.target.calls == []


async def test_nothing_is_deleted_from_under_a_resource_that_is_being_made(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    await bridge.create_subsystem("s")
    outcomes = await asyncio.gather(
        bridge.create_namespace("s", "n", "d"), bridge.delete_disk("d"), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, errors.BridgeError)]
    assert len(refused) == 1, "the one or the other"
    assert ("nullVolumes/d" in bridge.target.objects) == ("nvmeSubsystems/s/nvmeNamespaces/n" in bridge.target.objects)


@pytest.mark.parametrize("error", DEFINITE, ids=lambda error: type(error).__name__)
async def test_a_delete_that_failed_for_certain_leaves_the_resource_ready(
    bridge: Bridge, error: errors.BridgeError
) -> None:
    first = await bridge.create_disk("d")
    before = await bridge.stored()
    bridge.target.fail("remove", error)
    with pytest.raises(type(error)):
        await bridge.delete_disk("d")
    assert await bridge.stored() == before
    assert await bridge.get_disk("d") == first


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("finish", ["delete", "finish", "create"])
async def test_a_delete_of_unknown_outcome_is_finished_by_whoever_comes_next(
    bridge: Bridge, carried_out: bool, finish: str
) -> None:
    await bridge.create_disk("d", 8)
    bridge.target.fail("remove", UNKNOWN[0], carried_out=carried_out)
    with pytest.raises(errors.ConnectionLost):
        await bridge.delete_disk("d")
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.DELETING
    assert bridge.unfinished == ["nullVolumes/d"]
    bridge = await bridge.restarted()
    if finish == "delete":
        await bridge.delete_disk("d")
    elif finish == "finish":
        await bridge.engine.finish("nullVolumes/d")
    else:
        assert (await bridge.create_disk("d", 9)).blocks_count == 9
        await bridge.delete_disk("d")
    assert await bridge.stored() == {}
    assert bridge.target.objects == {}


@pytest.mark.parametrize("again", ["delete", "finish"])
async def test_a_broken_off_delete_that_is_refused_in_the_end_leaves_the_resource(bridge: Bridge, again: str) -> None:
    await bridge.create_disk("d", 8)
    bridge.target.fail("remove", UNKNOWN[0])
    with pytest.raises(errors.ConnectionLost):
        await bridge.delete_disk("d")
    bridge.target.fail("remove", errors.FailedPrecondition("somebody else uses it"))
    if again == "delete":
        with pytest.raises(errors.FailedPrecondition):
            await bridge.delete_disk("d")
    else:
        await bridge.engine.finish("nullVolumes/d")
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.READY
    assert (await bridge.get_disk("d")).blocks_count == 8
    await bridge.delete_disk("d")
    assert bridge.target.objects == {}


async def test_a_broken_off_delete_is_tried_again_while_that_can_help(bridge: Bridge) -> None:
    await bridge.create_disk("d", 8)
    bridge.target.fail("remove", UNKNOWN[0])
    with pytest.raises(errors.ConnectionLost):
        await bridge.delete_disk("d")
    bridge.target.fail("remove", errors.Aborted("not now"))
    with pytest.raises(errors.Aborted):
        await bridge.engine.finish("nullVolumes/d")
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.DELETING
    await bridge.engine.finish("nullVolumes/d")
    assert await bridge.stored() == {}


async def test_a_resource_whose_create_never_ended_can_be_deleted(bridge: Bridge) -> None:
    bridge.target.fail("create", UNKNOWN[0], carried_out=True)
    with pytest.raises(errors.ConnectionLost):
        await bridge.create_disk("d")
    await bridge.delete_disk("d")
    assert await bridge.stored() == {}
    assert bridge.target.objects == {}


async def test_nothing_can_stand_on_what_is_being_deleted(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    await bridge.create_subsystem("s")
    bridge.target.fail("remove", UNKNOWN[0])
    with pytest.raises(errors.ConnectionLost):
        await bridge.delete_disk("d")
    with pytest.raises(errors.Aborted):
        await bridge.create_namespace("s", "n", "d")


async def test_a_delete_whose_outcome_cannot_be_stored_is_not_undone_in_the_record_alone(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    bridge.store.failures.extend([None, errors.Unavailable("the disk is full")])
    with pytest.raises(errors.BridgeError):
        await bridge.delete_disk("d")
    record = (await bridge.stored())["nullVolumes/d"]
    assert record.phase is Phase.DELETING or "nullVolumes/d" in bridge.target.objects
    await bridge.delete_disk("d")
    assert await bridge.stored() == {}


async def test_a_change_waits_for_the_target_and_is_then_unavailable(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    bridge.target.connected = False
    for change in (bridge.create_disk("e"), bridge.resize_disk("d", 9), bridge.delete_disk("d")):
        with pytest.raises(errors.Unavailable):
            await change
    assert set(await bridge.stored()) == {"nullVolumes/d"}
    assert bridge.unfinished == []


# What a delete leaves for later


class LingeringSide(DiskSide):
    """A disk of which something stays on the target until it is allowed to go."""

    may_go = False

    async def remove(self, record: AnyRecord, view: Any | None = None) -> None:
        if not self.may_go:
            raise Postponed("something stays")
        self.target.objects.clear()


def lingering(bridge: Bridge) -> LingeringSide:
    side = LingeringSide(bridge.target)
    bridge.registry.add(bridge.disks.kind, side)
    return side


async def hidden(bridge: Bridge) -> list[AnyRecord]:
    return [record for record in (await bridge.stored()).values() if record.phase is Phase.DELETED]


async def test_a_postponed_delete_is_done_for_the_client_and_frees_the_name(bridge: Bridge) -> None:
    lingering(bridge)
    await bridge.create_disk("d", 8)
    await bridge.delete_disk("d")
    with pytest.raises(errors.NotFound):
        await bridge.get_disk("d")
    assert names(await bridge.engine.list(bridge.disks, "", 0, "")) == []
    bridge.target.objects.clear()
    assert (await bridge.create_disk("d", 9)).blocks_count == 9


async def test_what_a_delete_postponed_is_kept_until_it_can_be_done(bridge: Bridge) -> None:
    lingering(bridge)
    await bridge.create_disk("d")
    await bridge.delete_disk("d")
    for _ in range(3):
        (left,) = await hidden(bridge)
        await bridge.engine.finish(left.name)  # postponed again
    bridge = await bridge.restarted()
    side = lingering(bridge)
    (left,) = [record for record in bridge.catalog if record.phase is Phase.DELETED]
    side.may_go = True
    await bridge.engine.finish(left.name)
    assert await bridge.stored() == {}
    assert len(bridge.catalog) == 0


async def test_what_a_delete_postponed_keeps_no_secret(bridge: Bridge) -> None:
    class LingeringSubsystemSide(SubsystemSide):
        async def remove(self, record: AnyRecord, view: Any | None = None) -> None:
            raise Postponed("something stays")

    bridge.registry.add(bridge.subsystems.kind, LingeringSubsystemSide(bridge.target))
    await bridge.create_subsystem("s", psk=PSK)
    await bridge.engine.delete(bridge.subsystems, "nvmeSubsystems/s", False)
    (left,) = await hidden(bridge)
    assert left.desired.spec.nqn
    assert not left.desired.spec.psk
    assert left.object_name == "s"


async def test_nothing_can_stand_on_what_a_delete_postponed(bridge: Bridge) -> None:
    lingering(bridge)
    await bridge.create_disk("d")
    await bridge.create_subsystem("s")
    await bridge.delete_disk("d")
    (left,) = await hidden(bridge)
    with pytest.raises(errors.NotFound):
        await bridge.create_namespace("s", "n", left.id)


# Repair and draining


async def test_repair_makes_what_is_missing(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    bridge.target.objects.clear()
    await bridge.engine.repair("nullVolumes/d", bridge.target.view())
    assert list(bridge.target.objects) == ["nullVolumes/d"]


async def test_repair_leaves_alone_what_a_request_is_working_on(bridge: Bridge) -> None:
    await bridge.create_disk("d")
    bridge.target.gate.clear()
    updating = asyncio.create_task(bridge.resize_disk("d", 9))
    await spin()
    bridge.target.calls.clear()
    repair = asyncio.create_task(bridge.engine.repair("nullVolumes/d", bridge.target.view()))
    await spin()
    assert repair.done()
    assert bridge.target.calls == []
    bridge.target.gate.set()
    await updating


async def test_repair_and_finish_of_what_is_gone_do_nothing(bridge: Bridge) -> None:
    await bridge.engine.repair("nullVolumes/d", bridge.target.view())
    await bridge.engine.finish("nullVolumes/d")
    assert bridge.target.calls == []


async def test_draining_waits_for_changes_whose_clients_have_gone(bridge: Bridge) -> None:
    bridge.target.gate.clear()
    creating = asyncio.create_task(bridge.create_disk("d"))
    await spin()
    creating.cancel()
    draining = asyncio.create_task(bridge.engine.drain())
    await spin()
    assert not draining.done()
    bridge.target.gate.set()
    await asyncio.wait_for(draining, PATIENCE_S)
    assert (await bridge.stored())["nullVolumes/d"].phase is Phase.READY


@pytest.mark.parametrize("verb", ["make", "repair", "amend"])
async def test_what_a_side_learns_is_kept_and_shown(bridge: Bridge, verb: str) -> None:
    class LearningSide(DiskSide):
        serial = 4

        def learn(self, record: AnyRecord) -> DiskOwn:
            return DiskOwn(uuid=f"learnt-{self.serial}", serial=self.serial)

    side = LearningSide(bridge.target)
    bridge.registry.add(bridge.disks.kind, side)
    await bridge.create_disk("d", 8)
    if verb == "repair":
        side.serial = 5
        await bridge.engine.repair("nullVolumes/d", bridge.target.view())
    elif verb == "amend":
        side.serial = 5
        await bridge.resize_disk("d", 9)
    bridge = await bridge.restarted()
    record = bridge.catalog.record("nullVolumes/d")
    assert record is not None
    assert record.own == DiskOwn(uuid=f"learnt-{side.serial}", serial=side.serial)
    assert record.assigned == {"uuid": f"learnt-{side.serial}"}
    assert (await bridge.get_disk("d")).uuid == f"learnt-{side.serial}"


# Choosing again


class NumberingKind(DiskKind):
    """A disk whose identity is the first that this request has not found taken."""

    async def settle(
        self, name: str, resource: NullVolume, before: AnyRecord | None, taken: Collection[Any] = ()
    ) -> Settled[DiskOwn]:
        return Settled(DiskOwn(uuid=next(uuid for number in count() if (uuid := f"number-{number}") not in taken)))


@pytest.fixture
def numbering(bridge: Bridge) -> Bridge:
    bridge.registry.add(NumberingKind(bridge.catalog), bridge.disks.side)
    return bridge


def refuse(bridge: Bridge, verb: str, *values: str) -> None:
    """Makes the next call of that verb find the values taken."""
    bridge.target.fail(verb, Taken("another has it", values=values))


async def test_a_choice_that_turned_out_taken_is_not_chosen_again(numbering: Bridge) -> None:
    refuse(numbering, "create", "number-0", "number-2")
    refuse(numbering, "create", "number-1")
    assert (await numbering.create_disk("d")).uuid == "number-3", "nor what an earlier attempt found taken"
    assert len(numbering.target.changes) == 3
    assert set(await numbering.stored()) == set(numbering.target.objects) == {"nullVolumes/d"}
    assert numbering.unfinished == []


async def test_an_update_chooses_again_what_turned_out_taken(numbering: Bridge) -> None:
    await numbering.create_disk("d", 8)
    refuse(numbering, "change", "number-0")
    refuse(numbering, "change", "number-1")
    answer = await numbering.resize_disk("d", 9)
    assert (answer.blocks_count, answer.uuid) == (9, "number-2")
    record = (await numbering.stored())["nullVolumes/d"]
    assert (record.phase, record.revision, record.own) == (Phase.READY, 2, DiskOwn(uuid="number-2"))


async def test_what_one_request_found_taken_is_free_to_the_next(numbering: Bridge) -> None:
    refuse(numbering, "create", "number-0")
    assert (await numbering.create_disk("d")).uuid == "number-1"
    assert (await numbering.create_disk("e")).uuid == "number-0"


async def test_choosing_ends_where_everything_is_taken(numbering: Bridge) -> None:
    for number in range(1000):
        refuse(numbering, "create", f"number-{number}")
    with pytest.raises(errors.Aborted, match="another has it"):
        await numbering.create_disk("d")
    assert len(numbering.target.changes) < 1000
    assert await numbering.stored() == {}


def test_the_fakes_target_fails_as_told() -> None:
    target = FakeTarget()
    target.fail("create", ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        asyncio.run(target.do("create", "a"))
    asyncio.run(target.do("create", "a"))
