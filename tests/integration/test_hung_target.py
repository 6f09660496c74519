"""A target that hangs (here: SIGSTOP) keeps its connections. Until it answers again it is away; a slow one is not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.http.web import Web, problem_of, web
from tests.support.bridge import CallError
from tests.support.patience import HOUR_S, PATIENCE_S
from tests.support.target import Emulator, wait_until

SILENCE_S = 2.0  # longer than a busy machine takes for an answer
VOLUME = {"block_size": 512, "blocks_count": 64}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def daemon(tmp_path: Path, spdk: Emulator) -> Iterator[Web]:
    """A bridge that notices soon, with a volume `there`."""
    flags = {"spdk_silence_s": SILENCE_S, "notifications_s": 0.1, "connect_grace_s": 0.2, "metrics_ttl_s": 0}
    with web(tmp_path, spdk=spdk.socket, state=f"sqlite:{tmp_path}/state.sqlite", **flags) as started:
        create(started, "there")
        wait_until(lambda: ready(started), "ready")
        yield started


def create(daemon: Web, name: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
    return daemon.call("CreateNullVolume", {"null_volume_id": name, "null_volume": VOLUME}, timeout_s)


def ready(daemon: Web) -> bool:
    return daemon.http.get("/readyz", timeout=PATIENCE_S).status_code == 200


def metric(daemon: Web, name: str) -> float:
    lines = daemon.http.get("/metrics", timeout=PATIENCE_S).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def test_while_it_hangs_everybody_is_told_and_afterwards_too(daemon: Web, spdk: Emulator) -> None:
    stub: Any = health_pb2_grpc.HealthStub(daemon.channel)
    watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=HOUR_S)
    assert next(watched).status == SERVING
    with spdk.hung():
        assert next(watched).status == NOT_SERVING, "who watches is told"
        answer = daemon.http.get("/readyz")
        assert answer.status_code == 503
        (failed,) = [check for check in answer.json()["checks"] if not check["ok"]]
        assert failed["name"] == "target connected"
        assert f"the SPDK target at {spdk.socket} does not answer" in failed["reason"]
        assert metric(daemon, "opi_bridge_spdk_connected") == 0
        assert metric(daemon, "opi_bridge_spdk_silent_seconds") >= SILENCE_S
        target = daemon.http.get("/page/state", timeout=PATIENCE_S).json()["target"]
        assert not target["connected"]
        assert target["trouble"].startswith("does not answer: nothing has come from it for ")
        assert daemon.http.get("/healthz").status_code == 200
    assert next(watched).status == SERVING
    watched.cancel()
    wait_until(lambda: ready(daemon), "ready again")
    assert metric(daemon, "opi_bridge_spdk_connected") == 1
    assert metric(daemon, "opi_bridge_spdk_connections_total") == 1, "the connection has stood all the time"
    create(daemon, "after")
    assert "answers again" in daemon.log


def test_reads_are_answered_at_once(daemon: Web, spdk: Emulator) -> None:
    with spdk.hung():
        wait_until(lambda: not ready(daemon), "not ready")
        began = time.monotonic()
        for _ in range(50):
            assert daemon.call("GetNullVolume", {"name": "nullVolumes/there"})["blocks_count"] == "64"
            assert len(daemon.call("ListNullVolumes")["null_volumes"]) == 1
        assert time.monotonic() - began < 100, "each would have waited 2 s for the target"


def test_changes_are_refused_and_nothing_of_them_is_sent(daemon: Web, spdk: Emulator) -> None:
    with spdk.hung():
        wait_until(lambda: not ready(daemon), "not ready")
        with pytest.raises(CallError) as refused:
            create(daemon, "refused")
        assert refused.value.code == "UNAVAILABLE"
        told = f"the SPDK target at {spdk.socket} does not answer: nothing has come from it for "
        assert refused.value.message.startswith(told)
        over_http = daemon.http.post("/v1/nullVolumes", json=VOLUME, timeout=PATIENCE_S)
        assert problem_of(over_http)[:2] == (503, 14)
        with pytest.raises(CallError, match="UNAVAILABLE"):
            daemon.call("DeleteNullVolume", {"name": "nullVolumes/there"})
        with pytest.raises(CallError, match="UNAVAILABLE"):
            daemon.call("StatsNullVolume", {"name": "nullVolumes/there"})
        with pytest.raises(CallError, match="NOT_FOUND"):
            daemon.call("GetNullVolume", {"name": "nullVolumes/refused"})
    wait_until(lambda: ready(daemon), "ready again")
    assert spdk.bdev("refused") is None
    assert spdk.bdev("there") is not None
    assert len(spdk.rpc("bdev_get_bdevs")) == 1


def test_what_was_under_way_when_it_began_to_hang_is_finished_by_itself(daemon: Web, spdk: Emulator) -> None:
    with spdk.hung():
        with pytest.raises(CallError) as given_up:
            create(daemon, "given-up", timeout_s=SILENCE_S / 2)
        assert given_up.value.code == "DEADLINE_EXCEEDED"
        answers: list[Any] = []
        patient = threading.Thread(target=lambda: answers.append(create(daemon, "patient")))
        patient.start()
        wait_until(lambda: not ready(daemon), "not ready")
    patient.join(PATIENCE_S)
    assert [answer["name"] for answer in answers] == ["nullVolumes/patient"], "its answer came late, but it came"
    wait_until(lambda: spdk.bdev("given-up") is not None, "what was given up is there")
    wait_until(lambda: ready(daemon), "ready again")
    assert create(daemon, "given-up")["name"] == "nullVolumes/given-up"


def counted(spdk: Emulator, method: str) -> int:
    return int(spdk.rpc("emulator_call_counts")["calls"].get(method, 0))


@contextlib.contextmanager
def slow_call(daemon: Web, spdk: Emulator) -> Iterator[None]:
    """A change whose call the target takes its time for meanwhile, as for an attach to an array that is dead."""
    spdk.rpc("emulator_inject_fault", action="hold", method="bdev_malloc_create", count=1)
    made: list[Any] = []
    request = {"malloc_volume_id": "slow", "malloc_volume": VOLUME}
    change = threading.Thread(target=lambda: made.append(daemon.call("CreateMallocVolume", request)))
    change.start()
    wait_until(lambda: counted(spdk, "bdev_malloc_create"), "the target is at it")
    spdk.rpc("emulator_call_counts", reset=True)
    yield
    spdk.rpc("emulator_clear_faults")
    change.join(PATIENCE_S)
    assert made


def test_a_slow_call_is_no_silence_while_others_are_answered(daemon: Web, spdk: Emulator) -> None:
    stub: Any = health_pb2_grpc.HealthStub(daemon.channel)
    watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=HOUR_S)
    assert next(watched).status == SERVING
    with slow_call(daemon, spdk):
        wait_until(lambda: counted(spdk, "notify_get_notifications") > 30, "far more than the silence has passed")
        assert ready(daemon)
        create(daemon, "quick")
    watched.cancel()
    with pytest.raises(grpc.RpcError) as ended:
        next(watched)
    assert ended.value.code() is grpc.StatusCode.CANCELLED, "nothing was told meanwhile"
    assert "does not answer" not in daemon.log


def test_a_slow_call_is_no_silence_where_nothing_else_is_asked(tmp_path: Path, spdk: Emulator) -> None:
    flags = {"spdk_silence_s": SILENCE_S, "notifications_s": 3600, "sweep_interval_s": 3600}
    with web(tmp_path, spdk=spdk.socket, state="memory:", **flags) as daemon:
        wait_until(lambda: ready(daemon), "ready")
        with slow_call(daemon, spdk):
            wait_until(lambda: counted(spdk, "spdk_get_version") > 2, "it was asked again and again whether it answers")
            assert ready(daemon)
        assert "does not answer" not in daemon.log


def test_a_target_that_was_restarted_after_it_hung_gets_everything_back(daemon: Web, spdk: Emulator) -> None:
    with spdk.hung():
        wait_until(lambda: not ready(daemon), "not ready")
        spdk.kill()
        spdk.start()
        wait_until(lambda: ready(daemon), "ready again")
        assert spdk.bdev("there") is not None


def test_a_bridge_that_starts_while_it_hangs_is_not_ready_until_it_answers(tmp_path: Path, spdk: Emulator) -> None:
    with web(tmp_path, spdk=f"{tmp_path}/later.sock", state="memory:", spdk_silence_s=SILENCE_S) as daemon:
        with spdk.hung():
            Path(f"{tmp_path}/later.sock").symlink_to(spdk.socket)
            assert not ready(daemon)
        wait_until(lambda: ready(daemon), "ready")
