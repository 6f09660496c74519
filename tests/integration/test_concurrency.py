"""Many clients at once: only documented errors, nothing left over, and each name as if its requests came in a row."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.case import Case, at, put
from tests.kinds.cases import CASES
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import World, pci
from tests.support.bridge import CallError, Client
from tests.support.patience import PATIENCE_S
from tests.support.target import Target

CLIENTS = 64
NAMES = 4
ON_ONE_NAME = 16
_every_kind = pytest.mark.parametrize("case", CASES, ids=[case.noun for case in CASES])


@dataclass(frozen=True)
class Event:
    """One call: when it was sent and answered, what it was, and its outcome (a value or an error's code)."""

    sent: float
    answered: float
    verb: str
    outcome: str


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KeptBridge]]:
    """A place for the module's bridge: started once its target is known."""
    started: list[KeptBridge] = []
    yield started
    for each in started:
        each.kill()


@pytest.fixture
def world(daemon: list[KeptBridge], target: Target, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A bridge on the target, both empty before and after."""
    if not daemon:
        daemon.append(KeptBridge(tmp_path, spdk=target.socket))
        daemon[0].start()
    here = World(daemon[0], target, tmp_path, lambda: request.getfixturevalue("far"))
    yield here
    here.clear()
    assert here.leftovers() == {}


def _at_once(address: str, work: Callable[[int, Client], Any], clients: int = CLIENTS) -> list[Any]:
    """Runs `work` for so many clients, each with a connection of its own, all starting together."""
    gate = threading.Barrier(clients)

    def run(number: int) -> Any:
        client = Client(address)
        try:
            gate.wait(PATIENCE_S)
            return work(number, client)
        finally:
            client.close()

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(run, range(clients)))


def _outcome(call: Callable[[], dict[str, Any]]) -> str:
    try:
        answer = call()
    except CallError as problem:
        return problem.code
    return str(answer.get("blocks_count", "OK"))


def _address(world: World) -> str:
    assert isinstance(world.opi, KeptBridge)
    return world.opi.address


def test_clients_on_different_names_do_not_disturb_each_other(world: World) -> None:
    world.subsystem()
    world.make("VirtioScsiController", "dev", {"pcie_id": pci(200)})

    def life(number: int, client: Client) -> None:
        mine = World(client, world.target, world.folder, world.far_target, world.ports)
        volume = mine.null_volume(f"v{number}")["name"]
        subsystem = mine.subsystem(f"s{number}", f"nqn.2022-09.io.spdk:c{number}")["name"]
        namespace = mine.namespace(f"n{number}", volume, subsystem)["name"]
        shared = mine.malloc_volume(f"m{number}", 64)["name"]
        blk = mine.make("VirtioBlk", f"b{number}", {"volume_name_ref": shared, "pcie_id": pci(number)})["name"]
        for noun, name in (
            ("VirtioBlk", blk), ("NvmeNamespace", namespace), ("NvmeSubsystem", subsystem), ("NullVolume", volume),
            ("MallocVolume", shared),
        ):  # fmt: skip
            mine.delete(noun, name)

    _at_once(_address(world), life)
    assert {noun for noun, _ in world.everything()} == {"NvmeSubsystem", "VirtioScsiController"}


def test_namespaces_of_one_subsystem_get_numbers_of_their_own(world: World) -> None:
    world.subsystem(max_namespaces=CLIENTS)

    def add(number: int, client: Client) -> int:
        mine = World(client, world.target, world.folder, world.far_target, world.ports)
        mine.null_volume(f"v{number}")
        return int(mine.namespace(f"n{number}", f"v{number}")["spec"]["host_nsid"])

    numbers = _at_once(_address(world), add)
    assert sorted(numbers) == list(range(1, CLIENTS + 1))
    subsystem = world.target.subsystem("nqn.2022-09.io.spdk:opi")
    assert subsystem is not None
    on_target = {ns["nsid"]: ns["bdev_name"] for ns in subsystem["namespaces"]}
    assert on_target == {nsid: f"v{number}" for number, nsid in enumerate(numbers)}


def test_luns_of_one_device_get_numbers_of_their_own_and_the_rest_is_told_that_it_is_full(world: World) -> None:
    world.make("VirtioScsiController", "dev", {"pcie_id": pci(1)})

    def add(number: int, client: Client) -> str:
        mine = World(client, world.target, world.folder, world.far_target, world.ports)
        mine.null_volume(f"v{number}")
        lun = {"target_name_ref": "dev", "volume_name_ref": f"v{number}"}
        return _outcome(lambda: mine.make("VirtioScsiLun", f"l{number}", lun))

    outcomes = _at_once(_address(world), add)
    assert sorted(set(outcomes)) == ["OK", "RESOURCE_EXHAUSTED"]
    assert outcomes.count("OK") == 8
    device = world.target.vhost("dev")
    assert device is not None
    assert sorted(item["scsi_dev_num"] for item in device["backend_specific"]["scsi"]) == list(range(8))


def test_of_clients_after_one_thing_exactly_one_gets_it(world: World) -> None:
    world.null_volume("prize")

    def reach(number: int, client: Client) -> str:
        mine = World(client, world.target, world.folder, world.far_target, world.ports)
        mine.subsystem(f"s{number}", f"nqn.2022-09.io.spdk:c{number}")
        return _outcome(lambda: mine.namespace("n", "prize", f"nvmeSubsystems/s{number}"))

    outcomes = _at_once(_address(world), reach)
    assert outcomes.count("OK") == 1
    assert set(outcomes) == {"OK", "FAILED_PRECONDITION"}


@_every_kind
def test_equal_creates_are_one(world: World, case: Case) -> None:
    case.prepare(world)
    wanted, before = case.wanted(world, 0), world.target.inventory()

    def create(_number: int, client: Client) -> dict[str, Any]:
        mine = World(client, world.target, world.folder, world.far_target, world.ports)
        return mine.make(case.noun, "x0", wanted, case.parent)

    answers = _at_once(_address(world), create)
    assert all(answer == answers[0] for answer in answers)
    assert [item["name"] for item in world.all(case.noun, case.parent)] == [case.name()]
    more = {sort: len(names) - len(before[sort]) for sort, names in world.target.inventory().items()}
    assert max(more.values()) <= 1, more


def test_requests_on_one_name_are_as_if_they_came_one_after_the_other(world: World) -> None:
    """Each name has a register's history: created with one of several sizes, read, deleted."""
    history: dict[str, list[Event]] = {f"r{number}": [] for number in range(NAMES)}
    guard = threading.Lock()

    def play(number: int, client: Client) -> None:
        choose = random.Random(number)
        for _ in range(4):
            name = f"r{choose.randrange(NAMES)}"
            verb = choose.choice(("create", "create", "delete", "get"))
            size = 2048 + choose.randrange(2)
            sent = time.monotonic()
            outcome = _outcome(lambda verb=verb, name=name, size=size: _call(client, verb, name, size))  # type: ignore[misc]
            with guard:
                told = f"create {size}" if verb == "create" else verb
                history[name].append(Event(sent, time.monotonic(), told, outcome))

    _at_once(_address(world), play)
    for name, events in history.items():
        assert len(events) > CLIENTS // NAMES
        assert _linearizable(tuple(sorted(events, key=lambda event: event.sent))), f"{name}: {events}"


@_every_kind
def test_requests_on_one_name_of_any_kind_are_as_if_they_came_one_after_the_other(world: World, case: Case) -> None:
    """The same with the two resources that a `Case` tells apart by one field."""
    case.prepare(world)
    path, value = case.different(world)
    wanted = {"one": case.wanted(world, 0), "other": put(case.wanted(world, 0), path, value)}
    events: list[Event] = []
    guard = threading.Lock()

    def play(number: int, client: Client) -> None:
        mine, choose = World(client, world.target, world.folder, world.far_target, world.ports), random.Random(number)
        for _ in range(4):
            verb, which = choose.choice(("create", "create", "delete", "get")), choose.choice(("one", "other"))
            sent = time.monotonic()
            try:
                answer = _ask(mine, case, verb, wanted[which])
                same = at(answer, path) == at(wanted["other"], path)
                outcome = "OK" if verb == "delete" else "other" if same else "one"
            except CallError as problem:
                outcome = problem.code
            told = f"create {which}" if verb == "create" else verb
            with guard:
                events.append(Event(sent, time.monotonic(), told, outcome))

    _at_once(_address(world), play, ON_ONE_NAME)
    assert _linearizable(tuple(sorted(events, key=lambda event: event.sent))), events


def _ask(world: World, case: Case, verb: str, wanted: dict[str, Any]) -> dict[str, Any]:
    if verb == "create":
        return world.make(case.noun, "x0", wanted, case.parent)
    if verb == "get":
        return world.get(case.noun, case.name())
    world.delete(case.noun, case.name())
    return {}


def _call(client: Client, verb: str, name: str, size: int) -> dict[str, Any]:
    if verb == "create":
        volume = {"block_size": 512, "blocks_count": size}
        return client.call("CreateNullVolume", {"null_volume_id": name, "null_volume": volume})
    return client.call(f"{verb.capitalize()}NullVolume", {"name": f"nullVolumes/{name}"})


def _after(state: str, event: Event) -> str | None:
    """The state ("" or the size) after the event, None where its outcome was impossible."""
    verb, _, size = event.verb.partition(" ")
    if verb == "create":
        expected = size if state in ("", size) else "ALREADY_EXISTS"
        return None if event.outcome != expected else state or size
    if verb == "get":
        return state if event.outcome == (state or "NOT_FOUND") else None
    return "" if event.outcome == ("OK" if state else "NOT_FOUND") else None


def _linearizable(events: tuple[Event, ...]) -> bool:
    """Whether some order that keeps what was answered before something else was sent explains every outcome.

    Wing and Gong's search, with the visited configurations remembered. What can be next and never changes the state is
    next: nothing is lost by that, and the search stays small however slow the target is.
    """
    seen: set[tuple[int, str]] = set()
    stack = [((1 << len(events)) - 1, "")]
    while stack:
        left, state = stack.pop()
        if left == 0:
            return True
        if (left, state) in seen:
            continue
        seen.add((left, state))
        waiting = [number for number in range(len(events)) if left >> number & 1]
        first_answer = min(events[number].answered for number in waiting)
        may_be_next = [
            (left & ~(1 << number), after, events[number])
            for number in waiting
            if events[number].sent <= first_answer and (after := _after(state, events[number])) is not None
        ]
        only_looked = [choice for choice in may_be_next if _only_looks(choice[2])]
        stack += [(rest, after) for rest, after, _ in only_looked[:1] or may_be_next]
    return False


def _only_looks(event: Event) -> bool:
    """Whether it changes the state in no order."""
    return event.verb == "get" or event.outcome in ("ALREADY_EXISTS", "NOT_FOUND")


@pytest.mark.parametrize(
    ("outcomes", "possible"),
    [(("2048", "ALREADY_EXISTS"), True), (("2048", "2049"), False), (("ALREADY_EXISTS", "2048"), False)],
)
def test_the_search_tells_possible_histories_from_others(outcomes: tuple[str, str], possible: bool) -> None:
    events = (Event(0, 1, "create 2048", outcomes[0]), Event(2, 3, "create 2049", outcomes[1]))
    assert _linearizable(events) is possible
