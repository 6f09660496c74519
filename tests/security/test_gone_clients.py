"""Clients that go away at any moment leave nothing in the log that looks like an error of the bridge's."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.web import Web, problem_of, web
from tests.support.bridge import METHODS, CallError
from tests.support.patience import PATIENCE_S
from tests.support.target import Emulator, emulator, wait_until

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HANG_UP = struct.pack("ii", 1, 0)  # SO_LINGER: close resets the connection
_NULL_VOLUMES = f"/{METHODS['GetNullVolume'].containing_service.full_name}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A bridge whose log can be read by level, with some volumes."""
    folder = tmp_path_factory.mktemp("gone")
    with emulator(folder) as target, web(folder, spdk=target.socket, state="memory:", log_format="json") as daemon:
        for number in range(50):
            volume = {"block_size": 512, "blocks_count": 64}
            daemon.call("CreateNullVolume", {"null_volume_id": f"v{number}", "null_volume": volume})
        yield daemon


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Looks into what the bridge has logged meanwhile, once it has answered all that came before."""
    daemon: Any = request.getfixturevalue("served")
    seen = len(daemon.log)
    yield
    daemon.call("ListNullVolumes")
    assert daemon.http.get("/healthz").status_code == 200
    assert complaints(daemon.log[seen:]) == []


def complaints(log: str) -> list[str]:
    """The lines of a log that are no ordinary ones."""
    return [line for line in log.splitlines() if not line.startswith("{") or json.loads(line)["level"] == "error"]


def _literal(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, payload: bytes, flags: int, stream: int) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _calls(path: str, number: int, timeout_ms: int) -> bytes:
    """So many calls over one connection, each with an empty request and that deadline."""
    texts = {":path": path, ":authority": "bridge", "te": "trailers", "content-type": "application/grpc"}
    texts["grpc-timeout"] = f"{timeout_ms}m"
    head = b"\x83\x86" + b"".join(b"\x00" + _literal(name) + _literal(text) for name, text in texts.items())
    streams = range(1, 2 * number, 2)
    return b"".join(_frame(1, head, 4, stream) + _frame(0, bytes(5), 1, stream) for stream in streams)


@contextlib.contextmanager
def _gone(place: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection that is reset in the end."""
    with socket.create_connection(place, PATIENCE_S) as connection:
        yield connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HANG_UP)


@pytest.mark.parametrize(
    "path",
    [
        f"{_NULL_VOLUMES}/GetNullVolume",  # refused: the name is missing
        f"{_NULL_VOLUMES}/ListNullVolumes",
        f"{_NULL_VOLUMES}/NoSuchMethod",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
    ids=lambda path: path.rpartition("/")[2],
)
def test_grpc_clients_whose_deadline_passes_while_they_are_answered(served: Web, path: str) -> None:
    host, _, port = served.address.rpartition(":")
    choose = random.Random(1)
    for _ in range(400):
        with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            connection.sendall(_PREFACE + _calls(path, choose.randint(1, 60), choose.randint(1, 8)))
            threading.Event().wait(choose.uniform(0, 0.015))


def test_grpc_clients_that_hang_up_while_they_are_answered(served: Web) -> None:
    host, _, port = served.address.rpartition(":")
    choose = random.Random(2)
    for _ in range(100):
        with _gone((host, int(port))) as connection:
            connection.sendall(_PREFACE + _calls(f"{_NULL_VOLUMES}/GetNullVolume", 50, 20_000))
            threading.Event().wait(choose.uniform(0, 0.02))


_GETS = ("/v1/nullVolumes/none", "/v1/nullVolumes", "/page/state?open=nullVolumes", "/metrics", "/page/page.js")


def _get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: x", *headers, "", ""]).encode()


@pytest.mark.parametrize("path", _GETS)
def test_http_clients_that_hang_up_while_they_are_answered(served: Web, path: str) -> None:
    choose = random.Random(3)
    for _ in range(50):
        with _gone(served.place) as connection:
            connection.sendall(_get(path) * choose.randint(1, 5))
            threading.Event().wait(choose.choice([0, 0.001, 0.003, 0.01]))


@pytest.mark.parametrize("path", _GETS)
@pytest.mark.parametrize(
    "trash",
    [
        lambda path: _get(path) + b"\xff\xfe\r\n\r\n",
        lambda path: _get(path, "transfer-encoding: chunked") + b"no number\r\n",
        lambda path: _get(path, "content-length: 5") + b"12345" + b"trash\r\n\r\n",
    ],
    ids=["trash", "bad chunks", "trash after a body"],
)
def test_http_clients_that_send_trash_behind_a_request(served: Web, path: str, trash: Any) -> None:
    for _ in range(20):
        with socket.create_connection(served.place, PATIENCE_S) as connection:
            connection.sendall(trash(path))
            answered = b""
            while received := connection.recv(1 << 16):
                answered += received
            assert answered.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 404"))
            assert b"Internal Server Error" not in answered


def test_http_clients_that_break_off_their_body(served: Web) -> None:
    head = b"POST /v1/nullVolumes HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
    for sent in (head, head + b"{", head[:-3]):
        for _ in range(20):
            with _gone(served.place) as connection:
                connection.sendall(sent)


def test_a_stop_tells_clients_whose_requests_outlast_it(tmp_path: Path, spdk: Emulator) -> None:
    answers: list[Any] = []
    with web(tmp_path, spdk=spdk.socket, state="memory:", log_format="json", drain_s="0.5") as daemon:
        spdk.rpc("emulator_inject_fault", method="bdev_null_create", action="hold")

        def over_http() -> None:
            body = {"block_size": 512, "blocks_count": 64}
            answers.append(problem_of(httpx.post(f"{daemon.url}/v1/nullVolumes", json=body, timeout=PATIENCE_S)))

        def over_grpc() -> None:
            volume = {"block_size": 512, "blocks_count": 64}
            try:
                daemon.call("CreateNullVolume", {"null_volume": volume})
            except CallError as problem:
                answers.append(problem.code)

        clients = [threading.Thread(target=work) for work in (over_http, over_grpc)]
        for client in clients:
            client.start()
        wait_until(lambda: spdk.rpc("emulator_call_counts")["calls"].get("bdev_null_create") == 2, "both are at work")
        assert daemon._process is not None
        daemon._process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        spdk.rpc("emulator_clear_faults")
        assert daemon._process.wait(PATIENCE_S) == 0
        assert sorted(answers, key=str) == [(503, 14, ""), "UNAVAILABLE"]
        assert [line for line in complaints(daemon.log) if "error" in line or "Traceback" in line] == []
