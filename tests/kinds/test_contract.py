"""What every kind of resource does, whatever it is: one suite, run for each row of the table in cases.py."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest

from tests.kinds.case import Case, at, put
from tests.kinds.cases import only
from tests.kinds.world import World, failing
from tests.support.bridge import Bridge
from tests.support.target import Emulator, wait_until

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def ready(case: Case, world: World) -> Case:
    """The kind, with what its resources stand on made."""
    case.prepare(world)
    return case


# Create


def test_create_puts_it_on_the_target(ready: Case, world: World) -> None:
    assert ready.seen(world, 0) is None
    made = ready.create(world)
    assert made["name"] == ready.name()
    assert ready.seen(world, 0) is not None


def test_an_equal_create_answers_with_what_exists(ready: Case, world: World) -> None:
    made = ready.create(world)

    def repeat() -> None:
        assert ready.create(world) == made

    assert world.undisturbed(repeat) == []


def test_a_different_create_is_refused_and_changes_nothing(ready: Case, world: World) -> None:
    made = ready.create(world)
    before = ready.seen(world, 0)
    other = put(ready.wanted(world, 0), *ready.different(world))
    problem = failing(lambda: world.make(ready.noun, "x0", other, ready.parent))
    assert problem.code == "ALREADY_EXISTS"
    assert ready.name() in problem.message
    assert ready.seen(world, 0) == before
    assert world.get(ready.noun, ready.name()) == made


def test_without_an_id_it_gets_a_lowercase_uuid(ready: Case, world: World) -> None:
    made = world.make(ready.noun, "", ready.wanted(world, 0), ready.parent)
    resource_id = made["name"].rpartition("/")[2]
    assert UUID.fullmatch(resource_id)
    assert made["name"] == ready.named(resource_id)
    assert world.get(ready.noun, made["name"])["name"] == made["name"]


def test_an_id_that_cannot_be_in_a_name_is_refused(ready: Case, world: World) -> None:
    wanted = ready.wanted(world, 0)
    for resource_id in ("_x", "x/y", "x y", "-", "é", "x" * 64):
        problem = failing(partial(world.make, ready.noun, resource_id, wanted, ready.parent))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"{ready.field}_id")


def test_ids_of_clients_in_the_field_are_taken(ready: Case, world: World) -> None:
    for resource_id in ("A", "0.b_C-d", "X" * ready.longest_id):
        made = world.make(ready.noun, resource_id, ready.wanted(world, 0), ready.parent)
        assert made["name"] == ready.named(resource_id)
        world.delete(ready.noun, made["name"])


def test_a_name_or_output_in_the_request_is_ignored(ready: Case, world: World) -> None:
    wanted = {**ready.wanted(world, 0), "name": "anything/at/all"}
    assert world.make(ready.noun, "x0", wanted, ready.parent)["name"] == ready.name()


def test_what_is_required_is_named_when_it_is_missing(ready: Case, world: World) -> None:
    refused = {}
    for path in ready.required:
        wanted = put(ready.wanted(world, 0), path, None)
        problem = failing(partial(world.make, ready.noun, "x0", wanted, ready.parent))
        refused[path] = (problem.code, problem.field)
    assert refused == {path: ("INVALID_ARGUMENT", f"{ready.field}.{path}") for path in ready.required}


@only(lambda case: bool(case.required))
def test_a_request_without_the_resource_is_refused(ready: Case, world: World) -> None:
    request = {"parent": ready.parent} if ready.parent else {}
    problem = failing(lambda: world.opi.call(f"Create{ready.noun}", request))
    assert problem.code == "INVALID_ARGUMENT"
    assert problem.field.startswith(ready.field)


def test_a_bad_value_is_refused_naming_the_field(ready: Case, world: World) -> None:
    refused = []
    for path, value in ready.bad:
        wanted = put(ready.wanted(world, 0), path, value)
        problem = failing(partial(world.make, ready.noun, "x0", wanted, ready.parent))
        refused.append((path, problem.code, problem.field))
    assert refused == [(path, "INVALID_ARGUMENT", f"{ready.field}.{path}") for path, _ in ready.bad]
    assert ready.seen(world, 0) is None


@only(lambda case: bool(case.parent))
def test_below_a_parent_that_does_not_exist_nothing_is_created(ready: Case, world: World) -> None:
    missing = f"{ready.parent}-missing"
    problem = failing(lambda: world.make(ready.noun, "x0", ready.wanted(world, 0), missing))
    assert problem.code == "NOT_FOUND"
    assert missing in problem.message
    assert failing(lambda: world.page(ready.noun, missing)).code == "NOT_FOUND"


# Get


def test_get_answers_what_create_answered(ready: Case, world: World) -> None:
    assert world.get(ready.noun, ready.create(world)["name"]) == ready.create(world)


def test_what_does_not_exist_is_not_found(ready: Case, world: World) -> None:
    for verb in ("Get", "Stats", "Delete"):
        problem = failing(partial(world.opi.call, f"{verb}{ready.noun}", {"name": ready.name(9)}))
        assert problem.code == "NOT_FOUND"
        assert ready.name(9) in problem.message


def test_a_name_of_another_form_is_refused(ready: Case, world: World) -> None:
    for verb in ("Get", "Stats", "Delete"):
        for name in ("", "x0", "somethings/x0", f"{ready.name()}/more", f"{ready.name()}!"):
            problem = failing(partial(world.opi.call, f"{verb}{ready.noun}", {"name": name}))
            assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "name")


# List


def test_list_pages_through_everything_by_name(ready: Case, world: World) -> None:
    made = {ready.create(world, number)["name"]: None for number in (3, 1, 4, 0, 2)}
    pages, token = [], ""
    while True:
        page, token = world.page(ready.noun, ready.parent, 2, token)
        pages.append([item["name"] for item in page])
        if not token:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [name for page in pages for name in page] == sorted(made)


def test_list_items_are_what_get_answers(ready: Case, world: World) -> None:
    ready.create(world)
    assert world.page(ready.noun, ready.parent)[0] == [world.get(ready.noun, ready.name())]


def test_pages_go_on_where_they_were_when_things_change_in_between(ready: Case, world: World) -> None:
    for number in (0, 2, 3):
        ready.create(world, number)
    first, token = world.page(ready.noun, ready.parent, 2)
    world.delete(ready.noun, ready.name(2))
    ready.create(world, 1)
    ready.create(world, 4)
    rest, end = world.page(ready.noun, ready.parent, 2, token)
    assert [item["name"] for item in first] == [ready.name(0), ready.name(2)]
    assert [item["name"] for item in rest] == [ready.name(3), ready.name(4)]
    assert end == ""


def test_a_page_size_or_token_that_makes_no_sense_is_refused(ready: Case, world: World) -> None:
    problem = failing(lambda: world.page(ready.noun, ready.parent, -1))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "page_size")
    problem = failing(lambda: world.page(ready.noun, ready.parent, 2, "nonsense"))
    assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "page_token")


# Update


@only(lambda case: case.change is not None)
def test_update_without_a_mask_takes_the_populated_fields(ready: Case, world: World) -> None:
    made = ready.create(world)
    assert ready.change is not None
    path, value = ready.change(world)
    answer = world.update(ready.noun, put({"name": ready.name()}, path, value))
    assert at(answer, path) == str(value)
    _changed_only(made, answer, path, *ready.measured)
    assert world.get(ready.noun, ready.name()) == answer
    if ready.changed is not None:
        assert ready.seen(world, 0) == ready.changed(world)


@only(lambda case: case.change is not None)
def test_update_of_a_named_field_leaves_the_others(ready: Case, world: World) -> None:
    made = ready.create(world)
    assert ready.change is not None
    path, value = ready.change(world)
    answer = world.update(ready.noun, put({"name": ready.name()}, path, value), path)
    assert at(answer, path) == str(value)
    _changed_only(made, answer, path, *ready.measured)
    if ready.changed is not None:
        assert ready.seen(world, 0) == ready.changed(world)


def _changed_only(before: dict[str, Any], after: dict[str, Any], *paths: str) -> None:
    for path in paths:
        before, after = put(before, path, None), put(after, path, None)
    assert before == after


def test_update_with_a_star_takes_what_get_returned_as_it_is(ready: Case, world: World) -> None:
    made = ready.create(world)

    def send_back() -> None:
        assert world.update(ready.noun, world.get(ready.noun, ready.name()), "*") == made

    assert world.undisturbed(send_back) == []


@only(lambda case: case.change is not None)
def test_update_with_a_star_replaces_everything(ready: Case, world: World) -> None:
    ready.create(world)
    assert ready.change is not None
    path, value = ready.change(world)
    answer = world.update(ready.noun, put({**ready.wanted(world, 0), "name": ready.name()}, path, value), "*")
    assert at(answer, path) == str(value)
    if ready.changed is not None:
        assert ready.seen(world, 0) == ready.changed(world)


def test_update_refuses_a_path_that_is_no_field(ready: Case, world: World) -> None:
    made = ready.create(world)
    for mask in (("no_such_field",), ("name.deeper",), ("*", "name")):
        problem = failing(partial(world.update, ready.noun, made, *mask))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", "update_mask")


@only(lambda case: bool(case.immutable))
def test_update_refuses_to_change_what_is_fixed(ready: Case, world: World) -> None:
    made = ready.create(world)
    before = ready.seen(world, 0)
    for path, value in ready.immutable:
        for mask in ((), (path,), ("*",)):
            changed = put(made if mask == ("*",) else {"name": ready.name()}, path, value)
            problem = failing(partial(world.update, ready.noun, changed, *mask))
            assert problem.code == "INVALID_ARGUMENT"
            assert f"{ready.field}.{path}".startswith(problem.field)
            assert problem.field.startswith(f"{ready.field}.")
    assert world.get(ready.noun, ready.name()) == made
    assert ready.seen(world, 0) == before


def test_update_of_what_does_not_exist(ready: Case, world: World) -> None:
    wanted = {**ready.wanted(world, 0), "name": ready.name()}
    problem = failing(lambda: world.update(ready.noun, wanted))
    assert problem.code == "NOT_FOUND"
    assert ready.seen(world, 0) is None
    answer = world.update(ready.noun, wanted, allow_missing=True)
    assert answer["name"] == ready.name()
    assert ready.seen(world, 0) is not None
    assert ready.create(world) == answer


def test_a_bad_value_in_an_update_is_refused_and_changes_nothing(ready: Case, world: World) -> None:
    made = ready.create(world)
    for path, value in ready.bad:
        problem = failing(partial(world.update, ready.noun, put({"name": ready.name()}, path, value)))
        assert problem.code == "INVALID_ARGUMENT"
        assert problem.field.startswith(ready.field)
    assert world.get(ready.noun, ready.name()) == made


def test_clearing_what_is_required_is_refused(ready: Case, world: World) -> None:
    made = ready.create(world)
    for path in ready.required:
        problem = failing(partial(world.update, ready.noun, {"name": ready.name()}, path))
        assert (problem.code, problem.field.split(".")[0]) == ("INVALID_ARGUMENT", ready.field)
    assert world.get(ready.noun, ready.name()) == made


# Delete


def test_delete_takes_it_off_the_target(ready: Case, world: World) -> None:
    before = world.leftovers()
    ready.create(world)
    world.delete(ready.noun, ready.name())
    assert ready.seen(world, 0) is None
    assert world.leftovers() == before
    assert failing(lambda: world.get(ready.noun, ready.name())).code == "NOT_FOUND"
    assert world.page(ready.noun, ready.parent)[0] == []


def test_a_second_delete_is_told_that_it_is_gone(ready: Case, world: World) -> None:
    ready.create(world)
    world.delete(ready.noun, ready.name())
    assert failing(lambda: world.delete(ready.noun, ready.name())).code == "NOT_FOUND"
    world.delete(ready.noun, ready.name(), allow_missing=True)


def test_after_a_delete_the_id_is_free(ready: Case, world: World) -> None:
    ready.create(world)
    world.delete(ready.noun, ready.name())
    other = put(ready.wanted(world, 0), *ready.different(world))
    assert world.make(ready.noun, "x0", other, ready.parent)["name"] == ready.name()


@only(lambda case: case.user is not None)
def test_what_is_in_use_is_not_deleted(ready: Case, world: World) -> None:
    ready.create(world)
    assert ready.user is not None
    user = ready.user(world)
    before = ready.seen(world, 0)
    for allow_missing in (False, True):
        problem = failing(partial(world.delete, ready.noun, ready.name(), allow_missing=allow_missing))
        assert problem.code == "FAILED_PRECONDITION"
        assert user in problem.message
    assert ready.seen(world, 0) == before


# Stats


def test_stats_count_the_io(ready: Case, world: World) -> None:
    if ready.guest_only and not world.target.emulated:
        pytest.skip("needs a guest that does I/O, or an emulated target")
    ready.create(world)
    bdev = ready.counted(world)
    found = world.target.bdev(bdev)
    assert found is not None
    done = {"read": 3, "write": 2, **({"unmap": 1} if found["supported_io_types"]["unmap"] else {})}
    with world.io(bdev) as io:
        before = world.stats(ready.noun, ready.name())
        io.run(**{f"{kind}s": count for kind, count in done.items()}, blocks=8)
        after = world.stats(ready.noun, ready.name())
    moved = {name: number - before.get(name, 0) for name, number in after.items()}
    assert {name: number for name, number in moved.items() if number and not name.endswith("ticks")} == {
        **{f"{kind}_ops_count": count for kind, count in done.items()},
        **{f"{kind}_bytes_count": count * 4096 for kind, count in done.items()},
    }
    assert all(moved[f"{kind}_latency_ticks"] > 0 for kind in done)


def test_stats_stop_at_the_largest_number(ready: Case, world: World) -> None:
    if not world.target.emulated:
        pytest.skip("needs a billion operations: an emulated target")
    ready.create(world)
    world.target.rpc("emulator_run_io", name=ready.counted(world), reads=2**30, writes=1, blocks=8)
    stats = world.stats(ready.noun, ready.name())
    assert stats["read_bytes_count"] == 2**31 - 1
    assert stats["read_latency_ticks"] == 2**31 - 1
    assert stats["read_ops_count"] >= 2**30


# Secrets


@only(lambda case: bool(case.secrets))
def test_secrets_are_neither_answered_nor_logged(ready: Case, world: World, shared_bridge: Bridge) -> None:
    answers = [ready.create(world), ready.create(world), world.get(ready.noun, ready.name())]
    answers += world.page(ready.noun, ready.parent)[0]
    other = put(ready.wanted(world, 0), *ready.different(world))
    problems = [failing(lambda: world.make(ready.noun, "x0", other, ready.parent)).message]
    for path, value in ready.bad:
        wanted = put(ready.wanted(world, 1), path, value)
        problems.append(failing(partial(world.make, ready.noun, "x1", wanted, ready.parent)).message)
    if ready.change is not None:
        answers.append(world.update(ready.noun, put({"name": ready.name()}, *ready.change(world))))
    for secret in ready.secrets:
        assert secret not in repr(answers)
        assert secret not in repr(problems)
        assert secret not in shared_bridge.log
    assert ready.name() in shared_bridge.log


# Restart and outage


def test_a_restart_of_the_bridge_changes_nothing(ready: Case, world: World, shared_bridge: Bridge) -> None:
    made = [ready.create(world, number) for number in range(3)]
    before = ready.seen(world, 0)
    first, token = world.page(ready.noun, ready.parent, 2)
    shared_bridge.restart()
    world.quiet()
    wait_until(lambda: world.get(ready.noun, ready.name()) == made[0], "the same answer as before")
    assert ready.create(world) == made[0]
    rest, _ = world.page(ready.noun, ready.parent, 2, token)
    assert [item["name"] for item in first + rest] == [ready.name(number) for number in range(3)]
    assert ready.seen(world, 0) == before
    assert [method for method in world.asked() if "create" in method or "add" in method] == []
    world.delete(ready.noun, ready.name())
    assert ready.seen(world, 0) is None


def test_while_the_target_is_away_reads_answer_and_changes_wait_then_fail(case: Case, frail: World) -> None:
    case.prepare(frail)
    made = case.create(frail)
    before = case.seen(frail, 0)
    target = frail.target
    assert isinstance(target, Emulator)
    target.kill()
    try:
        assert frail.get(case.noun, case.name()) == made
        assert frail.page(case.noun, case.parent)[0] == [made]
        assert case.create(frail) == made
        calls = [
            lambda: case.create(frail, 1),
            lambda: frail.delete(case.noun, case.name()),
        ]
        if case.counts_own:
            calls.append(lambda: frail.stats(case.noun, case.name()))
        if case.change is not None:
            change = case.change(frail)
            calls.append(lambda: frail.update(case.noun, put({"name": case.name()}, *change)))
        for call in calls:
            problem = failing(call)
            assert problem.code == "UNAVAILABLE"
            assert target.socket in problem.message
    finally:
        target.start()
        frail.reconnected()
    wait_until(lambda: case.seen(frail, 0) == before, "the object is on the target again")
    assert frail.get(case.noun, case.name()) == made
    case.create(frail, 1)
    frail.delete(case.noun, case.name())
    assert case.seen(frail, 0) is None
