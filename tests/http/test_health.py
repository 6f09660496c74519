"""/healthz and /readyz."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from opi_spdk_bridge.api.health import Check, report
from tests.http.web import Web
from tests.support.bridge import METHODS
from tests.support.patience import HOUR_S, PATIENCE_S
from tests.support.target import Emulator, wait_until


def _failing(answer: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["reason"] for check in answer["checks"] if not check["ok"]}


def test_a_bridge_with_its_target_is_alive_and_ready(served: Web) -> None:
    assert served.http.get("/healthz").json() == {"ok": True}
    wait_until(lambda: served.http.get("/readyz").status_code == 200, "the first sweep is done")
    answer = served.http.get("/readyz").json()
    assert answer["ok"]
    assert {check["name"] for check in answer["checks"]} >= {"target connected", "state open", "first sweep done"}


def test_without_its_target_it_is_alive_and_says_why_it_is_not_ready(own_http: Web, spdk: Emulator) -> None:
    wait_until(lambda: own_http.http.get("/readyz").status_code == 200, "ready")
    spdk.kill()
    wait_until(lambda: own_http.http.get("/readyz").status_code == 503, "not ready")
    answer = own_http.http.get("/readyz").json()
    assert not answer["ok"]
    assert spdk.socket in _failing(answer)["target connected"]
    assert own_http.http.get("/healthz").status_code == 200
    assert own_http.http.get("/page/state").json()["target"]["connected"] is False
    failed = own_http.http.post("/v1/nullVolumes", json={"block_size": 512, "blocks_count": 8})
    assert (failed.status_code, failed.json()["code"]) == (503, 14)
    spdk.start()
    wait_until(lambda: own_http.http.get("/readyz").status_code == 200, "ready again")


def test_over_grpc_every_service_follows_the_target(own_http: Web, spdk: Emulator) -> None:
    stub: Any = health_pb2_grpc.HealthStub(own_http.channel)
    offered = ProtoReflectionDescriptorDatabase(own_http.channel).get_services()
    services = ["", *(name for name in offered if name.startswith("opi_api."))]
    assert {*services} == {"", *(method.containing_service.full_name for method in METHODS.values())}
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

    def states() -> set[int]:
        return {stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S).status for name in services}

    wait_until(lambda: states() == {serving}, "all serve")
    watched = stub.Watch(health_pb2.HealthCheckRequest(service=services[1]), timeout=HOUR_S)
    assert next(watched).status == serving
    spdk.kill()
    assert next(watched).status == not_serving, "who watches is told"
    wait_until(lambda: states() == {not_serving}, "none serves")
    spdk.start()
    assert next(watched).status == serving
    wait_until(lambda: states() == {serving}, "all serve again")
    watched.cancel()
    with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
        stub.Check(health_pb2.HealthCheckRequest(service="opi_api.storage.v1.NoService"), timeout=PATIENCE_S)


@pytest.mark.parametrize("holds", [True, False])
def test_a_reason_is_given_only_for_what_does_not_hold(holds: bool) -> None:
    (outcome,) = report([Check("x", lambda: holds, "because")])
    assert outcome == ({"name": "x", "ok": True} if holds else {"name": "x", "ok": False, "reason": "because"})
