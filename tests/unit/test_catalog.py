from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.catalog import Catalog, standing
from opi_spdk_bridge.core.journal import in_order
from opi_spdk_bridge.core.kind import Reservation
from opi_spdk_bridge.core.record import AnyRecord, Own, Phase, Record
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume

from .fakes import DiskKind, DiskOwn


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding(DiskOwn):
    """`holds`: tags by key."""

    holds: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False


class ReservingKind(DiskKind):
    """Reserves what the record is said to hold."""

    own = Holding

    def reserves(self, record: AnyRecord) -> Iterable[Reservation]:
        conflict = errors.FailedPrecondition if record.own.strict else errors.AlreadyExists
        for key, tag in record.own.holds.items():
            yield Reservation(key, f"the thing {key}", tag, conflict, field="uuid")


def catalog() -> Catalog:
    kinds: dict[str, Any] = {}
    made = Catalog(kinds)
    kinds["nullVolume"] = ReservingKind(made)
    return made


def record(
    name: str, phase: Phase = Phase.READY, holds: Mapping[str, str] | None = None, stands_on: tuple[str, ...] = ()
) -> Record[NullVolume, Holding]:
    return Record("nullVolume", name, NullVolume(), phase, 1, 0, 0, Holding(holds=dict(holds or {})), stands_on)


def test_the_parent_and_id_are_read_off_the_name() -> None:
    nested = record("nvmeSubsystems/a/nvmeNamespaces/b")
    assert (nested.parent, nested.id) == ("nvmeSubsystems/a", "b")
    assert (record("nullVolumes/a").parent, record("nullVolumes/a").id) == ("", "a")


def test_a_page_is_ordered_by_name_and_says_whether_there_is_more() -> None:
    known = catalog()
    for name in ("c", "a", "d", "b"):
        known.put(record(name))
    records, more = known.page("nullVolume", "", "a", 2)
    assert ([one.name for one in records], more) == (["b", "c"], True)
    records, more = known.page("nullVolume", "", "c", 2)
    assert ([one.name for one in records], more) == (["d"], False)


def test_a_page_counts_visible_records_only() -> None:
    known = catalog()
    known.put(record("a"))
    known.put(record("b", Phase.CREATING))
    known.put(record("c"))
    records, more = known.page("nullVolume", "", "", 2)
    assert ([one.name for one in records], more) == (["a", "c"], False)


def test_an_empty_collection_is_an_empty_page() -> None:
    assert catalog().page("nullVolume", "", "", 5) == ([], False)


def test_a_record_is_visible_from_its_creation_to_its_removal_as_it_last_was_whole() -> None:
    known = catalog()
    known.put(record("a", Phase.CREATING))
    assert known.visible("a") is None
    ready = record("a")
    known.put(ready)
    assert known.visible("a") is ready
    known.put(replace(ready, phase=Phase.UPDATING, previous=ready, revision=2))
    assert known.visible("a") is ready
    deleting = replace(ready, phase=Phase.DELETING)
    known.put(deleting)
    assert known.visible("a") is deleting
    known.remove("a")
    assert known.visible("a") is None


def test_what_stands_on_a_name_is_found_also_by_what_it_stood_on_before_its_update() -> None:
    known = catalog()
    before = record("user", stands_on=("old",))
    known.put(replace(before, phase=Phase.UPDATING, stands_on=("new",), previous=before))
    assert [one.name for one in known.dependents("old")] == ["user"]
    assert [one.name for one in known.dependents("new")] == ["user"]
    known.put(replace(before, stands_on=("new",)))
    assert known.dependents("old") == []


def test_a_reservation_held_by_another_is_refused_naming_the_holder() -> None:
    known = catalog()
    known.put(record("a", holds={"nqn": ""}))
    with pytest.raises(errors.AlreadyExists, match="the thing nqn is taken by a") as refused:
        known.require_free(record("b", holds={"nqn": ""}))
    assert (refused.value.resource, refused.value.field) == ("a", "uuid")


def test_the_reservation_chooses_the_error() -> None:
    known = catalog()
    known.put(record("a", holds={"bdev": ""}))
    wanted = replace(record("b"), own=Holding(holds={"bdev": ""}, strict=True))
    with pytest.raises(errors.FailedPrecondition):
        known.require_free(wanted)


def test_a_records_own_reservation_is_free_to_it() -> None:
    known = catalog()
    known.put(record("a", holds={"nqn": ""}))
    known.require_free(record("a", holds={"nqn": ""}))


def test_holders_of_one_key_may_share_it_under_one_tag() -> None:
    known = catalog()
    known.put(record("a", holds={"address": "secure"}))
    known.require_free(record("b", holds={"address": "secure"}))
    for other in ("plain", ""):
        with pytest.raises(errors.AlreadyExists):
            known.require_free(record("b", holds={"address": other}))


def test_what_an_update_is_leaving_stays_reserved_until_it_is_done() -> None:
    known = catalog()
    before = record("a", holds={"old": ""})
    known.put(replace(before, phase=Phase.UPDATING, own=Holding(holds={"new": ""}), previous=before))
    for key in ("old", "new"):
        with pytest.raises(errors.AlreadyExists):
            known.require_free(record("b", holds={key: ""}))
    known.put(record("a", holds={"new": ""}))
    known.require_free(record("b", holds={"old": ""}))


def test_an_update_that_changes_the_tag_conflicts_with_both_until_it_is_done() -> None:
    known = catalog()
    before = record("a", holds={"address": "plain"})
    known.put(replace(before, phase=Phase.UPDATING, own=Holding(holds={"address": "secure"}), previous=before))
    for tag in ("plain", "secure"):
        with pytest.raises(errors.AlreadyExists):
            known.require_free(record("b", holds={"address": tag}))


def test_a_removed_record_holds_nothing() -> None:
    known = catalog()
    known.put(record("a", holds={"nqn": ""}, stands_on=("x",)))
    known.remove("a")
    known.require_free(record("b", holds={"nqn": ""}))
    assert known.holders("nqn") == []
    assert known.dependents("x") == []
    assert len(known) == 0


def test_what_was_seen_is_kept_with_the_record_and_goes_with_it() -> None:
    known = catalog()
    known.show("a", {"status.x": 1})
    assert known.shown("a") == {}, "nothing is kept of what is not there"
    known.put(record("a"))
    known.show("a", {"status.x": 1})
    assert known.shown("a") == {"status.x": 1}
    known.remove("a")
    known.put(record("a"))
    assert known.shown("a") == {}


@pytest.mark.parametrize("phase", [Phase.READY, Phase.UPDATING])
def test_one_can_stand_on_what_exists_for_good(phase: Phase) -> None:
    known = catalog()
    known.put(record("a", phase))
    standing(known, ("a",))


def test_one_cannot_stand_on_what_is_not_there_yet_or_not_for_long() -> None:
    known = catalog()
    known.put(record("creating", Phase.CREATING))
    known.put(record("deleting", Phase.DELETING))
    for name in ("absent", "creating"):
        with pytest.raises(errors.NotFound) as refused:
            standing(known, (name,))
        assert refused.value.resource == name
    with pytest.raises(errors.Aborted):
        standing(known, ("deleting",))


def test_in_order_puts_kinds_in_their_order_and_names_within() -> None:
    mixed: list[AnyRecord] = [
        Record(kind, name, NullVolume(), Phase.READY, 1, 0, 0, Own())
        for kind, name in [("b", "1"), ("a", "2"), ("a", "1")]
    ]
    assert [(one.kind, one.name) for one in in_order(mixed, ["a", "b"])] == [("a", "1"), ("a", "2"), ("b", "1")]


keys = st.sampled_from("xyz")
changes = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.sets(keys)), st.sets(keys), st.booleans()), max_size=12
)


@given(changes)
def test_the_indexes_agree_with_the_records_after_any_changes(
    steps: list[tuple[str, set[str] | None, set[str], bool]],
) -> None:
    """Each step removes a record (None), or puts one that holds some keys and stands on others, maybe over itself."""
    known = catalog()
    model: dict[str, list[Record[NullVolume, Holding]]] = {}
    for name, held, below, updating in steps:
        if held is None:
            if name in model:
                known.remove(name)
                del model[name]
            continue
        new = record(name, holds=dict.fromkeys(held, "shared"), stands_on=tuple(sorted(below)))
        if updating and name in model:
            new = replace(new, phase=Phase.UPDATING, previous=model[name][0])
        known.put(new)
        model[name] = [new, new.previous] if new.previous else [new]
    assert {one.name for one in known} == set(model)
    assert [one.name for one in known.page("nullVolume", "", "", 100)[0]] == sorted(model)
    for key in "xyz":
        holders = [name for name in sorted(model) if any(key in state.own.holds for state in model[name])]
        assert [one.name for one in known.holders(key)] == holders
        users = [name for name in sorted(model) if any(key in state.stands_on for state in model[name])]
        assert [one.name for one in known.dependents(key)] == users
    for name in list(model):
        known.remove(name)
    assert not known._holders._names
    assert not known._dependents._names
    assert not known._collections
