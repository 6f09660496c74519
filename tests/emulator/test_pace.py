"""The pace of the target: what is read at one look is answered at the next."""

import time

import pytest

from tests.emulator.conftest import StartTarget
from tests.emulator.emulated import Call, Client

INTERVAL_MS = 4
LOOKS_OF_A_CALL = 2


@pytest.fixture
def client(start_target: StartTarget) -> Client:
    return start_target("paced", poll_interval_ms=INTERVAL_MS).client


def usual_ms(client: Client, calls: list[Call], rounds: int = 40) -> float:
    """What the calls take when this machine's other work does not come between: the first quintile."""
    durations = []
    for _ in range(rounds):
        started = time.perf_counter()
        client.together(*calls)
        durations.append((time.perf_counter() - started) * 1000)
    return sorted(durations)[rounds // 5]


def test_a_lone_call_takes_two_looks(client: Client) -> None:
    assert usual_ms(client, [("spdk_get_version", None)]) == pytest.approx(LOOKS_OF_A_CALL * INTERVAL_MS, abs=1.5)


def test_thirty_calls_in_one_write_take_no_longer(client: Client) -> None:
    calls: list[Call] = [("bdev_get_bdevs", {"name": "none"})] * 30
    assert usual_ms(client, calls, 20) == pytest.approx(LOOKS_OF_A_CALL * INTERVAL_MS, abs=2.5)


def test_the_looks_do_not_drift(client: Client) -> None:
    calls = 40
    client.call("spdk_get_version")
    rounds_ms = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            client.call("spdk_get_version")
        rounds_ms.append((time.perf_counter() - started) * 1000)
    assert min(rounds_ms) == pytest.approx(calls * LOOKS_OF_A_CALL * INTERVAL_MS, rel=0.08)


def test_a_call_that_needs_more_turns_is_answered_at_the_same_look(client: Client) -> None:
    client.call("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:a")
    calls: list[Call] = [("nvmf_subsystem_get_listeners", {"nqn": "nqn.2016-06.io.spdk:a"})]
    assert usual_ms(client, calls, 20) == pytest.approx(LOOKS_OF_A_CALL * INTERVAL_MS, abs=1.5)


def test_without_a_pace_calls_are_answered_at_once(start_target: StartTarget) -> None:
    assert usual_ms(start_target("quick").client, [("spdk_get_version", None)]) < INTERVAL_MS / 2
