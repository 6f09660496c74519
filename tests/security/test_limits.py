"""No peer holds the daemon: connections, requests at once, peers that are dead."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from opi_spdk_bridge.api import connection, server
from opi_spdk_bridge.api.limits import Limits
from opi_spdk_bridge.pb.storage.backend_null_pb2 import ListNullVolumesRequest, ListNullVolumesResponse
from tests.http import contract
from tests.http.web import problem_of, web
from tests.security.conftest import Files
from tests.security.served import BOTH, GRPC, HTTP, Served, call, serving
from tests.support.bridge import CallError, Client, bridge
from tests.support.patience import HOUR_S, PATIENCE_S, until
from tests.support.program import program
from tests.support.target import Emulator, wait_until

_MANY = 1000


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is hung up on for being slow."""
    monkeypatch.setattr(connection, "SLOWEST_S", HOUR_S)
    monkeypatch.setattr(server, "_OPTIONS", _with("grpc.server_handshake_timeout_ms", round(1000 * HOUR_S)))


def _with(name: str, value: int) -> list[tuple[str, int]]:
    """The daemon's own options of gRPC with that one changed."""
    return [*((known, its) for known, its in server._OPTIONS if known != name), (name, value)]


async def _answers(served: Served, protocol: str) -> bool:
    if protocol == GRPC:
        return (await call(served.at(GRPC), "ListNullVolumes"))[0] == "OK"
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        return (await client.get(f"http://{served.at(HTTP)}/v1/nullVolumes")).status_code == 200


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("protocol", BOTH)
async def test_a_peer_that_opens_a_thousand_connections_stops_nobody_else(protocol: str) -> None:
    async with serving() as served, contextlib.AsyncExitStack() as opened:
        host, _, port = served.at(protocol).rpartition(":")
        for _ in range(_MANY):
            _, writer = await asyncio.open_connection(host, int(port))
            opened.callback(writer.close)
        assert await _answers(served, protocol), "with all of them open"


@pytest.fixture
def few_files() -> Iterator[int]:
    """A process that may not have many files open, but may allow itself more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_bridge_with_a_thousand_connections_of_each_kind_serves_on(
    few_files: int, spdk: Emulator, tmp_path: Path
) -> None:
    with web(tmp_path, spdk=spdk.socket, state="memory:") as daemon, contextlib.ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few_files, few_files))
        host, _, port = daemon.address.rpartition(":")
        for place in (daemon.place, (host, int(port))):
            for number in range(_MANY):
                connection = opened.enter_context(socket.create_connection(place, PATIENCE_S))
                if number % 2:
                    connection.sendall(b"GET / HTTP/1.1\r\nx-slow: ")
        assert daemon._process is not None
        process = psutil.Process(daemon._process.pid)
        held = _MANY + _MANY // 2  # over gRPC what speaks HTTP/1.1 is hung up on at once
        wait_until(lambda: process.num_fds() > held, "they are open at the bridge's end")
        daemon.call("ListNullVolumes")
        assert httpx.get(f"{daemon.url}/v1/nullVolumes", timeout=PATIENCE_S).status_code == 200
        with contextlib.closing(Client(daemon.address)) as another:
            another.call("ListNullVolumes")
        assert "ERROR" not in daemon.log


@pytest.mark.parametrize(("most", "told"), [(512, True), (128, False)])
def test_a_system_that_lets_too_few_files_be_open_is_told(most: int, told: bool) -> None:
    under = ["sh", "-c", 'ulimit -n 600 && exec "$0" "$@"']
    flags = ["--max-connections", str(most), "--policy", "/nowhere.toml"]
    ended = program("serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *flags, under=under)
    assert ("at most 600 files may be open (ulimit -Hn)" in ended.stderr) is told


@pytest.mark.parametrize("encrypted", [False, True])
async def test_connections_that_say_nothing_are_hung_up_on(
    files: Files, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    monkeypatch.setattr(connection, "SLOWEST_S", 0.3)
    async with serving(files.tls() if encrypted else None) as served:
        host, _, port = served.at(HTTP).rpartition(":")
        readers = [(await asyncio.open_connection(host, int(port))) for _ in range(100)]
        async with asyncio.timeout(PATIENCE_S):
            assert {await reader.read() for reader, _ in readers} == {b""}
        for _, writer in readers:
            writer.close()


def _slow(begun: asyncio.Event, finish: asyncio.Event) -> Callable[[Any], Awaitable[Message]]:
    """Carries out a request that tells when it has begun, and ends when it may."""

    async def slow(_request: Any) -> Message:
        begun.set()
        await finish.wait()
        return ListNullVolumesResponse()

    return slow


@pytest.mark.parametrize("protocol", BOTH)
async def test_more_requests_at_once_than_are_taken_are_told_so(protocol: str) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    slow = _slow(begun, finish)
    async with serving(limits=Limits(requests=1), ListNullVolumes=slow) as served:
        first = asyncio.create_task(call(served.at(GRPC), "ListNullVolumes"))
        await begun.wait()
        if protocol == GRPC:
            code, told = await call(served.at(GRPC), "GetNullVolume", {"name": "nullVolumes/x"})
            assert code == "RESOURCE_EXHAUSTED"
            assert "at work on 1 requests" in told
        else:
            async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
                assert problem_of(await client.get(f"http://{served.at(HTTP)}/v1/nullVolumes/x")) == (429, 8, "")
        finish.set()
        assert (await first)[0] == "OK"
        assert await _answers(served, protocol)


async def test_requests_of_one_peer_leave_room_for_others(tmp_path: Path) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    slow = _slow(begun, finish)
    other = f"unix:{tmp_path}/other"
    limits = Limits(requests=9, requests_of_peer=1)
    async with serving(limits=limits, listen=["127.0.0.1:0", other], ListNullVolumes=slow) as served:
        first = asyncio.create_task(call(served.at(GRPC), "ListNullVolumes"))
        await begun.wait()
        get = ("GetNullVolume", {"name": "nullVolumes/x"})
        code, told = await call(served.at(GRPC), *get)
        assert code == "RESOURCE_EXHAUSTED"
        assert "at work on 1 requests of this peer" in told
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            answer = await client.get(f"http://{served.at(HTTP)}/v1/nullVolumes/x")
        assert problem_of(answer) == (429, 8, ""), "it is the same peer over HTTP"
        assert (await call(other, *get))[0] == "OK"
        finish.set()
        assert (await first)[0] == "OK"
        assert (await call(served.at(GRPC), *get))[0] == "OK"


class TestConnections:
    async def test_over_http_one_too_many_is_told_and_the_next_finds_room(self) -> None:
        async with serving(limits=Limits(connections=2)) as served, contextlib.AsyncExitStack() as opened:
            first, _ = [await _connect(served, HTTP, opened) for _ in range(2)]
            reader, _ = await _connect(served, HTTP, opened)
            head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE_S)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"content-type: application/json" in head
            assert json.loads(body)["code"] == 8
            assert "2 connections are open here" in json.loads(body)["message"]
            first[1].close()
            await first[1].wait_closed()
            await until(lambda: _answers(served, HTTP))  # the server's end closes when it reads that this one has

    async def test_over_grpc_one_too_many_is_hung_up_on_and_the_next_finds_room(self) -> None:
        async with serving(limits=Limits(connections=2)) as served, contextlib.AsyncExitStack() as opened:
            (reader, writer), _ = [await _connect(served, GRPC, opened) for _ in range(2)]
            await reader.read(1)
            refused, _ = await _connect(served, GRPC, opened)
            assert await asyncio.wait_for(refused.read(), PATIENCE_S) == b""
            writer.close()
            await writer.wait_closed()
            await until(lambda: _answers(served, GRPC))  # the server's end closes when it reads that this one has

    async def test_each_listener_has_room_of_its_own(self, tmp_path: Path) -> None:
        other = f"unix:{tmp_path}/other"
        async with (
            serving(limits=Limits(connections=1), listen=["127.0.0.1:0", other]) as served,
            contextlib.AsyncExitStack() as opened,
        ):
            await _connect(served, GRPC, opened)
            assert (await call(other, "ListNullVolumes"))[0] == "OK"

    @pytest.mark.usefixtures("hurried")
    async def test_grpc_connections_that_say_nothing_are_hung_up_on(self) -> None:
        async with serving() as served, contextlib.AsyncExitStack() as opened:
            readers = [(await _connect(served, GRPC, opened))[0] for _ in range(100)]
            async with asyncio.timeout(PATIENCE_S):
                for reader in readers:
                    await reader.read()


async def _connect(
    served: Served, protocol: str, opened: contextlib.AsyncExitStack
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = served.at(protocol).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    opened.callback(writer.close)
    return reader, writer


def test_a_kind_has_no_more_resources_than_it_may(spdk: Emulator, tmp_path: Path) -> None:
    with bridge(tmp_path, spdk=spdk.socket, state="memory:", max_resources=3) as daemon:

        def create(name: str) -> str:
            volume = {"block_size": 512, "blocks_count": 8}
            try:
                daemon.call("CreateNullVolume", {"null_volume_id": name, "null_volume": volume})
            except CallError as problem:
                return str(problem)
            return "OK"

        with ThreadPoolExecutor(8) as pool:
            outcomes = dict(zip("abcdefgh", pool.map(create, "abcdefgh"), strict=True))
        made = [name for name, code in outcomes.items() if code == "OK"]
        assert len(made) == 3
        full = "RESOURCE_EXHAUSTED: there are 3 resources of kind nullVolume, as many as there may be"
        assert set(outcomes.values()) == {"OK", full}
        assert create(made[0]) == "OK", "a repeat makes none"
        assert create("z") == full
        malloc = {"malloc_volume_id": "m", "malloc_volume": {"block_size": 512, "blocks_count": 8}}
        daemon.call("CreateMallocVolume", malloc)
        daemon.call("DeleteNullVolume", {"name": f"nullVolumes/{made[0]}"})
        assert create("z") == "OK"


class TestSizes:
    @pytest.mark.parametrize(("over", "code"), [(0, "OK"), (1, "RESOURCE_EXHAUSTED")])
    async def test_a_grpc_message_at_the_limit_is_read_and_one_over_it_is_not(self, over: int, code: str) -> None:
        request = {"page_token": ""}
        frame = len(ListNullVolumesRequest(page_token="x" * 1000).SerializeToString()) - 1000
        request["page_token"] = "x" * (1100 - frame + over)
        async with serving(limits=Limits(message_bytes=1100)) as served:
            told = await call(served.at(GRPC), "ListNullVolumes", request)
            assert told[0] == code
            assert code == "OK" or "larger than max" in told[1]

    @pytest.mark.parametrize(("over", "expected"), [(0, (200, 0, "")), (1, (413, 3, "body"))])
    async def test_an_http_body_at_the_limit_is_read_and_one_over_it_is_not(
        self, over: int, expected: tuple[int, int, str]
    ) -> None:
        async with (
            serving(limits=Limits(message_bytes=1100)) as served,
            httpx.AsyncClient(timeout=PATIENCE_S) as client,
        ):
            body = b"{" + b" " * (1098 + over) + b"}"
            answer = await client.post(f"http://{served.at(HTTP)}/v1/nullVolumes", content=body)
            assert (answer.status_code == 200) if over == 0 else (problem_of(answer) == expected)

    @pytest.mark.parametrize("protocol", BOTH)
    @pytest.mark.parametrize(
        ("method", "resource", "field"),
        [
            ("CreateNvmeSubsystem", {"spec": {"nqn": "n", "hostnqn": "x"}}, "nvme_subsystem.spec.hostnqn"),
            ("CreateNullVolume", {"name": "x"}, "null_volume.name"),
            ("CreateEncryptedVolume", {"key": "x"}, "encrypted_volume.key"),
        ],
    )
    async def test_a_field_over_the_limit_is_named_at_once(
        self, protocol: str, method: str, resource: dict[str, Any], field: str
    ) -> None:
        noun, _, path = field.partition(".")
        *above, last = path.split(".")
        place = functools.reduce(lambda tree, name: tree[name], above, resource)
        for length, refused in ((64, False), (65, True), (1 << 20, True)):
            place[last] = "x" * length
            if last == "key":
                place[last] = base64.b64encode(b"x" * length).decode()
            async with serving(limits=Limits(field_bytes=64)) as served:
                assert await _field(served, protocol, method, {noun: resource}) == (field if refused else "")

    async def test_a_mask_has_no_more_paths_than_that(self) -> None:
        async with serving(limits=Limits(field_bytes=64)) as served:
            request = {"update_mask": ",".join(["uuid"] * 65)}
            assert await _field(served, GRPC, "UpdateNullVolume", request) == "update_mask.paths"


async def _field(served: Served, protocol: str, method: str, request: dict[str, Any]) -> str:
    """The field that an answer of INVALID_ARGUMENT names; "" for another answer."""
    if protocol == HTTP:
        path, (body,) = f"/v1/{_COLLECTIONS[method]}", request.values()
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            answer = await client.post(f"http://{served.at(HTTP)}{path}", json=body)
        return problem_of(answer)[2] if answer.status_code == 400 else ""
    message = json_format.ParseDict(request, contract.method(method).request())
    fields = {part.name: value for part, value in message.ListFields()}
    code, told = await call(served.at(GRPC), method, fields)
    return str(told).partition(" ")[0] if code == "INVALID_ARGUMENT" else ""


_COLLECTIONS = {
    "CreateNvmeSubsystem": "nvmeSubsystems",
    "CreateNullVolume": "nullVolumes",
    "CreateEncryptedVolume": "encryptedVolumes",
}
