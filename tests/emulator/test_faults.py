"""Faults on demand."""

import time

import pytest

from tests.emulator.emulated import Client, EmulatedTarget, wait_for
from tests.support.patience import PATIENCE_S

CRASH_STATUS = 134


def exists(client: Client, name: str) -> bool:
    return name in [bdev["name"] for bdev in client.call("bdev_get_bdevs")]


def create_null(client: Client, name: str = "n0") -> str:
    created: str = client.call("bdev_null_create", name=name, block_size=512, num_blocks=8)
    return created


def test_an_error_in_place_of_the_second_and_third_call(client: Client) -> None:
    client.call(
        "emulator_inject_fault",
        method="bdev_null_create", action="error", code=-12, message="Cannot allocate memory", skip=1, count=2,
    )  # fmt: skip
    assert create_null(client, "n0") == "n0"
    for _ in range(2):
        failed = client.error("bdev_null_create", name="n1", block_size=512, num_blocks=8)
        assert failed == (-12, "Cannot allocate memory")
    assert create_null(client, "n1") == "n1"


def test_a_delay_holds_up_that_call_only(client: Client) -> None:
    client.call("emulator_inject_fault", method="bdev_get_iostat", action="delay", delay_ms=150, count=1)
    started = time.perf_counter()
    client.send(client.encode("bdev_get_iostat") + client.encode("spdk_get_version"))
    assert "version" in client.read()["result"]
    assert "bdevs" in client.read()["result"]
    assert time.perf_counter() - started > 0.14


@pytest.mark.parametrize(("when", "executed"), [("before", False), ("after", True)])
def test_a_call_is_held_until_the_faults_are_taken_back(target: EmulatedTarget, when: str, executed: bool) -> None:
    target.client.call("emulator_inject_fault", method="bdev_null_create", action="hold", when=when)
    held = target.connect()
    held.send(held.encode("bdev_null_create", {"name": "n0", "block_size": 512, "num_blocks": 8}))
    wait_for(lambda: target.client.call("emulator_call_counts")["calls"].get("bdev_null_create") == 1)
    assert exists(target.client, "n0") is executed
    held.send(held.encode("spdk_get_version"))
    assert "version" in held.read()["result"], "the others pass"
    target.client.call("emulator_clear_faults")
    assert held.read()["result"] == "n0"
    held.close()


@pytest.mark.parametrize(("when", "executed"), [("before", False), ("after", True)])
def test_the_connection_drops(target: EmulatedTarget, when: str, executed: bool) -> None:
    client = target.connect()
    client.call("emulator_inject_fault", method="bdev_null_create", action="drop", when=when, count=1)
    with pytest.raises(ConnectionResetError):
        create_null(client)
    client.close()
    assert exists(target.client, "n0") is executed


def test_what_was_sent_behind_a_call_that_was_not_read_is_not_read_either(target: EmulatedTarget) -> None:
    client = target.connect()
    client.call("emulator_inject_fault", method="bdev_null_create", action="drop", count=1)
    volumes = [{"name": name, "block_size": 512, "num_blocks": 8} for name in ("n0", "n1")]
    client.send(b"".join(client.encode("bdev_null_create", volume) for volume in volumes))
    assert client.read() is None
    client.close()
    assert not exists(target.client, "n1")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_target_dies(target: EmulatedTarget, when: str) -> None:
    target.client.call("emulator_inject_fault", action="die", when=when)
    with pytest.raises(ConnectionResetError):
        create_null(target.client)
    target.process.join(PATIENCE_S)
    assert target.process.exitcode == CRASH_STATUS


def test_faults_can_be_taken_back(client: Client) -> None:
    client.call("emulator_inject_fault", action="error")
    assert client.error("spdk_get_version") == (-32603, "Injected fault")
    client.call("emulator_clear_faults")
    client.call("spdk_get_version")


def test_calls_and_traffic_are_counted(client: Client) -> None:
    client.call("emulator_call_counts", reset=True)
    client.together(*[("bdev_null_create", {"name": f"n{n}", "block_size": 512, "num_blocks": 8}) for n in range(5)])
    client.call("bdev_get_bdevs")
    counts = client.call("emulator_call_counts")
    assert counts["calls"] == {"bdev_null_create": 5, "bdev_get_bdevs": 1}
    assert counts["answers"] == 7
    assert counts["looks"] <= 8
    assert counts["longest_answer_bytes"] > 5 * 500


def test_the_extra_methods_are_not_listed(client: Client) -> None:
    methods = client.call("rpc_get_methods")
    assert len(methods) == 258
    assert not any(method.startswith("emulator_") for method in methods)
