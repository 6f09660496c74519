"""What the daemon logs: a line a request, as JSON and for people."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import signal
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from opi_spdk_bridge.pb.storage import backend_null_pb2
from tests.http.web import Web, web
from tests.support.bridge import CallError
from tests.support.patience import PATIENCE_S
from tests.support.target import Emulator, wait_until

_CALL = "/opi_api.storage.v1.NullVolumeService/GetNullVolume"


def _lines(bridge: Web) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bridge.log.splitlines() if line.startswith("{")]


def _requests(bridge: Web, request_id: str) -> list[dict[str, Any]]:
    return [
        line for line in _lines(bridge) if line["event"] in ("request", "change") and line["request_id"] == request_id
    ]


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
        started = time.monotonic()
        assert _echoed(observed, ("x-request-id", "over-grpc-1")) == "over-grpc-1"
        (line,) = _requests(observed, "over-grpc-1")
        assert {"method": "GetNullVolume", "resource": "nullVolumes/none", "code": "NOT_FOUND"}.items() <= line.items()
        assert line["level"] == "info"
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert 0 <= line["duration_ms"] <= 1000 * (time.monotonic() - started)
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

    @pytest.mark.parametrize(
        ("http_method", "path", "body", "told"),
        [
            ("POST", "/v1/nullVolumes", b"{", ("CreateNullVolume", "/v1/nullVolumes", "INVALID_ARGUMENT")),
            ("POST", "/v1/nullVolumes", b" " * (5 << 20), ("CreateNullVolume", "/v1/nullVolumes", "INVALID_ARGUMENT")),
            ("GET", "/v1/nullVolumes?page_size=x", b"", ("ListNullVolumes", "/v1/nullVolumes", "INVALID_ARGUMENT")),
            ("PUT", "/v1/nullVolumes", b"{}", ("PUT", "/v1/nullVolumes", "405")),
            ("GET", "/v1/nothing?token=not-told", b"", ("GET", "/v1/nothing", "404")),
            ("GET", "/nothing%1b", b"", ("GET", "/nothing?", "404")),
            ("POST", "/healthz", b"", ("POST", "/healthz", "405")),
            ("GET", "/v1/" + "a" * 9000, b"", ("GET", "/v1/" + "a" * 196, "414")),
        ],
    )
    def test_what_is_refused_over_http_is_one_line_too(
        self, observed: Web, http_method: str, path: str, body: bytes, told: tuple[str, str, str]
    ) -> None:
        request_id, started = uuid.uuid4().hex, time.monotonic()
        with contextlib.suppress(httpx.WriteError):  # a large body is refused while it is being sent
            httpx.request(
                http_method, f"{observed.url}{path}", content=body, headers={"x-request-id": request_id},
                timeout=PATIENCE_S,
            )  # fmt: skip
        wait_until(lambda: _requests(observed, request_id) != [], "the line is written")
        (line,) = _requests(observed, request_id)
        assert (line["method"], line["resource"], line["code"]) == told
        assert line["peer"].startswith("127.0.0.1:")
        assert 0 <= line["duration_ms"] <= 1000 * (time.monotonic() - started)

    def test_what_is_no_request_is_a_line_too(self, observed: Web) -> None:
        with socket.create_connection(observed.place, PATIENCE_S) as connection:
            connection.sendall(b"no HTTP\r\n\r\n")
            peer = "{}:{}".format(*connection.getsockname())
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
        (line,) = [line for line in _lines(observed) if line.get("peer") == peer]
        assert (line["event"], line["method"], line["code"]) == ("request", "-", "400")

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/", "/page/state"])
    def test_probes_scrapes_and_the_page_are_no_lines_at_this_level(self, observed: Web, path: str) -> None:
        request_id = uuid.uuid4().hex
        assert observed.http.get(path, headers={"x-request-id": request_id}).status_code == 200
        observed.http.get("/v1/nullVolumes", headers={"x-request-id": f"{request_id}-after"})
        assert _requests(observed, f"{request_id}-after")
        assert not _requests(observed, request_id)

    @pytest.mark.parametrize(
        ("path", "message", "told"),
        [
            ("/x.Service/Method\x1b", b"", ("unknown", "/x.Service/Method?", "UNIMPLEMENTED")),
            ("/opi_api.storage.v1.NullVolumeService/Format", b"", None),
            (_CALL, b"\xff\xff", ("GetNullVolume", "-", "INVALID_ARGUMENT")),
        ],
    )
    def test_what_is_refused_over_grpc_is_one_line_too(
        self, observed: Web, path: str, message: bytes, told: tuple[str, str, str] | None
    ) -> None:
        request_id = uuid.uuid4().hex
        invoke: Any = observed.channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as caught:
            invoke(message, metadata=(("x-request-id", request_id),))
        (line,) = _requests(observed, request_id)
        told = told or ("unknown", path, "UNIMPLEMENTED")
        assert (line["method"], line["resource"], line["code"]) == told
        problem: Any = caught.value
        assert problem.code().name == told[2]
        assert ("there is no method" in problem.details()) == (told[0] == "unknown")

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
