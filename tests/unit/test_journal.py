from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.journal import Journal
from opi_spdk_bridge.core.record import Phase, Record, fills
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeSubsystem
from opi_spdk_bridge.store.base import Change, Row
from opi_spdk_bridge.store.memory import MemoryStore

from .fakes import PSK, SubsystemKind, SubsystemOwn

OTHER_PSK = PSK.replace(b"VGhp", b"XXXX")


@dataclass(frozen=True, slots=True)
class Part:
    """What a field may be made of."""

    x: bool
    y: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(SubsystemOwn):
    """Fields of all sorts."""

    max_namespaces: int | None = fills("spec.max_namespaces")
    parts: tuple[Part | int | None, ...] = ()
    limits: Mapping[str, int] | None = None


class NotedKind(SubsystemKind):
    """Keeps more."""

    own = Noted


def journal(store: MemoryStore) -> Journal:
    return Journal(store, {"nvmeSubsystem": NotedKind(Catalog({}))})


def record(phase: Phase = Phase.READY, **spec: Any) -> Record[NvmeSubsystem, Noted]:
    return Record(
        kind="nvmeSubsystem",
        name="nvmeSubsystems/a",
        desired=NvmeSubsystem(spec={"nqn": "nqn.2022-09.io.spdk:a", **spec}),
        phase=phase,
        revision=3,
        created_at=1.5,
        updated_at=2.5,
        own=Noted(
            serial_number="S", max_namespaces=5, psk_key="opi-1", parts=(1, None, Part(True)), limits={"a": 0, "b": 7}
        ),
        stands_on=("x/1", "y/2"),
    )


async def reloaded(one: Record[NvmeSubsystem, Noted]) -> Record[NvmeSubsystem, Noted]:
    store = MemoryStore()
    await journal(store).exchange((), [one])
    (found,) = await journal(store).load()
    return found


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("psk", [b"", PSK])
async def test_every_phase_comes_back_as_it_was(phase: Phase, psk: bytes) -> None:
    one = record(phase, psk=psk)
    assert await reloaded(one) == one


@pytest.mark.parametrize("phase", [Phase.UPDATING, Phase.DELETING])
@pytest.mark.parametrize("before", [b"", PSK])
@pytest.mark.parametrize("after", [b"", OTHER_PSK])
async def test_the_record_before_an_update_comes_back_with_its_own_secret(
    phase: Phase, before: bytes, after: bytes
) -> None:
    own = Noted(psk_key="opi-0", parts=(Part(False, "y"),))
    previous = replace(record(psk=before), revision=2, updated_at=2.0, own=own, stands_on=("old/1",))
    one = replace(record(phase, psk=after), previous=previous)
    assert await reloaded(one) == one


async def test_an_empty_record_before_an_update_is_not_none() -> None:
    previous = replace(record(), desired=NvmeSubsystem())
    one = replace(record(Phase.UPDATING), previous=previous)
    assert await reloaded(one) == one


@given(st.binary(min_size=8, max_size=64).filter(lambda secret: len(set(secret)) > 4))
async def test_secrets_are_in_no_plain_column(secret: bytes) -> None:
    store = MemoryStore()
    old = record(psk=secret[::-1] + b"before")
    await journal(store).exchange((), [replace(record(Phase.UPDATING, psk=secret), previous=old)])
    (row,) = await store.load()
    plain = b"\n".join(
        [row.name.encode(), row.kind.encode(), row.phase.encode(), row.desired, row.previous or b"", row.facts]
    )
    assert secret not in plain
    assert secret[::-1] + b"before" not in plain
    assert row.secrets


async def test_a_record_without_secrets_has_none_to_seal() -> None:
    store = MemoryStore()
    await journal(store).exchange((), [record()])
    assert (await store.load())[0].secrets == b""


async def test_what_is_kept_later_replaces_and_nothing_removes() -> None:
    store = MemoryStore()
    kept = journal(store)
    await kept.exchange((), [record(Phase.CREATING), replace(record(), name="nvmeSubsystems/b")])
    await kept.conclude("nvmeSubsystems/a", replace(record(), revision=4))
    assert {(one.name, one.revision) for one in await kept.load()} == {("nvmeSubsystems/a", 4), ("nvmeSubsystems/b", 3)}
    await kept.conclude("nvmeSubsystems/a", None)
    await kept.conclude("nvmeSubsystems/never-there", None)
    assert [one.name for one in await kept.load()] == ["nvmeSubsystems/b"]


# States of other versions


def row(facts: Mapping[str, Any], previous: Mapping[str, Any] | None = None) -> Row:
    """What the store has of `record`, with such facts."""
    one = record(Phase.UPDATING if previous is not None else Phase.READY)
    return Row(
        name=one.name,
        kind=one.kind,
        phase=one.phase.value,
        revision=one.revision,
        desired=one.desired.SerializeToString(),
        previous=one.desired.SerializeToString() if previous is not None else None,
        facts=orjson.dumps({**facts, "previous": previous} if previous is not None else facts),
        secrets=b"",
        created_at=one.created_at,
        updated_at=one.updated_at,
    )


async def read(one: Row) -> Record[NvmeSubsystem, Noted]:
    store = MemoryStore()
    await store.write(Change([one]))
    (found,) = await journal(store).load()
    return found


async def test_what_is_shown_and_the_rest_are_kept_apart_by_path_and_by_name() -> None:
    """The form in which every version has kept them."""
    store = MemoryStore()
    await journal(store).exchange((), [record()])
    (stored,) = await store.load()
    assert orjson.loads(stored.facts) == {
        "assigned": {"spec.serial_number": "S", "spec.max_namespaces": 5},
        "private": {"psk_key": "opi-1", "parts": [1, None, {"x": True}], "limits": {"a": 0, "b": 7}},
        "stands_on": ["x/1", "y/2"],
    }


async def test_a_row_of_an_earlier_version_is_read_and_what_it_lacks_has_its_default() -> None:
    before = {"assigned": {}, "private": {}, "stands_on": [], "revision": 2, "updated_at": 2.0}
    facts = {"assigned": {"spec.serial_number": "S"}, "private": {"psk_key": "opi-1"}, "stands_on": ["x/1"]}
    found = await read(row(facts, before))
    assert (found.own, found.stands_on) == (Noted(serial_number="S", psk_key="opi-1"), ("x/1",))
    assert found.previous is not None
    assert (found.previous.own, found.previous.revision, found.previous.updated_at) == (Noted(), 2, 2.0)


async def test_what_another_version_kept_and_this_one_does_not_know_is_ignored() -> None:
    facts = {
        "assigned": {"spec.serial_number": "S", "spec.of_later": {"deep": [1]}},
        "private": {"psk_key": "opi-1", "of_later": [{"deep": 1}], "spec.serial_number": "another"},
        "stands_on": [],
        "of_later": 1,
    }
    assert (await read(row(facts))).own == Noted(serial_number="S", psk_key="opi-1")
    assert (await read(row(facts, {**facts, "revision": 2, "updated_at": 2.0}))).previous is not None


# Restarts


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.UPDATING])
async def test_what_was_under_way_counts_as_acknowledged_after_a_restart_of_the_machine(phase: Phase) -> None:
    store = MemoryStore()
    await journal(store).recover("first boot")
    previous = replace(record(), revision=2) if phase is Phase.UPDATING else None
    await journal(store).intend(replace(record(phase), previous=previous))
    (found,) = await journal(store).recover("second boot")
    assert found == record(Phase.READY)
    assert await journal(store).recover("second boot") == [found], "it stays so"


@pytest.mark.parametrize("phase", list(Phase))
async def test_what_was_under_way_is_finished_by_looking_after_a_restart_of_the_bridge(phase: Phase) -> None:
    store = MemoryStore()
    await journal(store).recover("first boot")
    await journal(store).intend(record(phase))
    assert await journal(store).recover("first boot") == [record(phase)]


async def test_a_deletion_goes_on_after_a_restart_of_the_machine() -> None:
    store = MemoryStore()
    await journal(store).recover("first boot")
    await journal(store).intend(record(Phase.DELETING))
    assert await journal(store).recover("second boot") == [record(Phase.DELETING)]


@pytest.mark.parametrize(
    "damage",
    [
        {"facts": b"{"},
        {"facts": b"[]"},
        {"facts": orjson.dumps({"assigned": {"spec.max_namespaces": "many"}})},
        {"desired": b"\xff"},
        {"phase": "resting"},
        {"secrets": b"[1]"},
        {"previous": b""},
    ],
    ids=str,
)
async def test_a_row_that_cannot_be_read_is_named(damage: dict[str, Any]) -> None:
    store = MemoryStore()
    await journal(store).exchange((), [record(psk=PSK)])
    (row,) = await store.load()
    await store.commit([replace(row, **damage)])
    with pytest.raises(errors.FailedPrecondition, match="'nvmeSubsystems/a' cannot be read"):
        await journal(store).load()
