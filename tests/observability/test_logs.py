"""What the daemon logs: a line a request, as JSON and for people."""

from __future__ import annotations

import itertools
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from opi_spdk_bridge.pb.storage import backend_null_pb2
from tests.http.web import Web, web
from tests.support.bridge import CallError
from tests.support.target import Emulator, wait_until

_CALL = "/opi_api.storage.v1.NullVolumeService/GetNullVolume"


def _requests(bridge: Web, request_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in bridge.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "request" and line["request_id"] == request_id]


def _echoed(bridge: Web, *metadata: tuple[str, str]) -> str:
    """The x-request-id in the answer to a call that fails."""
    invoke: Any = bridge.channel.unary_unary(
        _CALL,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=backend_null_pb2.NullVolume.FromString,
    )
    call = invoke.future(backend_null_pb2.GetNullVolumeRequest(name="nullVolumes/none"), metadata=metadata)
    assert call.exception() is not None
    return str(dict(call.trailing_metadata())["x-request-id"])


class TestJson:
    def test_a_request_over_grpc_is_one_line_with_all_fields(self, observed: Web) -> None:
        assert _echoed(observed, ("x-request-id", "over-grpc-1")) == "over-grpc-1"
        (line,) = _requests(observed, "over-grpc-1")
        assert {"method": "GetNullVolume", "resource": "nullVolumes/none", "code": "NOT_FOUND"}.items() <= line.items()
        assert line["level"] == "info"
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert 0 <= line["duration_ms"] < 10_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["timestamp"])

    def test_over_http_too(self, observed: Web) -> None:
        answer = observed.http.get("/v1/nullVolumes/none", headers={"x-request-id": "over-http-1"})
        assert answer.headers["x-request-id"] == "over-http-1"
        (line,) = _requests(observed, "over-http-1")
        assert (line["method"], line["resource"], line["code"]) == ("GetNullVolume", "nullVolumes/none", "NOT_FOUND")
        assert line["peer"].startswith("127.0.0.1:")

    @pytest.mark.parametrize("given", ["", "x" * 129, "with space"])
    def test_an_id_that_cannot_be_used_is_replaced(self, observed: Web, given: str) -> None:
        made = {_echoed(observed, ("x-request-id", given)) for _ in range(2)}
        assert len(made) == 2
        assert all(re.fullmatch("[0-9a-f]{32}", each) and _requests(observed, each) for each in made)
        over_http = observed.http.get("/v1/nullVolumes/none", headers={"x-request-id": given}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", over_http)

    def test_a_request_without_one_gets_one(self, observed: Web) -> None:
        assert _requests(observed, _echoed(observed))
        assert _requests(observed, observed.http.get("/v1/nullVolumes").headers["x-request-id"])

    def test_a_name_cannot_forge_a_line(self, observed: Web) -> None:
        before = observed.log.count("\n")
        with pytest.raises(CallError):
            observed.call("GetNullVolume", {"name": 'x\n{"event": "request"}\r\x1b[2J'})
        assert observed.log.count("\n") == before + 1
        assert json.loads(observed.log.splitlines()[-1])["resource"] == 'x?{"event": "request"}??[2J'


def test_for_people_a_request_is_a_line_with_the_same_fields(tmp_path: Path, near: Emulator) -> None:
    with web(tmp_path, spdk=near.socket, state="memory:", log_format="console") as bridge:
        bridge.call("ListNullVolumes")
        found = re.search(r"^\S+ \S+ INFO +request (method=ListNullVolumes .*)$", bridge.log, re.MULTILINE)
        assert found
        names = [part.partition("=")[0] for part in found[1].split()]
        assert names == ["method", "resource", "code", "duration_ms", "peer", "request_id"]


def test_the_level_changes_at_run_time(tmp_path: Path, near: Emulator) -> None:
    config, numbers = tmp_path / "config.toml", itertools.count()
    config.write_text('log_level = "info"\n')
    with web(tmp_path, spdk=near.socket, state="memory:", log_format="json", config=config) as bridge:

        def logged() -> bool:
            request_id = f"try-{next(numbers)}"
            bridge.http.get("/v1/nullVolumes", headers={"x-request-id": request_id})
            return bool(_requests(bridge, request_id))

        def become(level: str) -> None:
            config.write_text(f'log_level = "{level}"\n')
            assert bridge._process is not None
            bridge._process.send_signal(signal.SIGHUP)

        assert logged()
        become("error")
        wait_until(lambda: not logged(), "requests are not logged any more")
        become("loud")
        wait_until(lambda: "SIGHUP: the settings stay as they are: --log-level" in bridge.log, "the mistake is told")
        assert not logged()
        become("info")
        wait_until(logged, "requests are logged again")
