"""Where the bridge listens, and who can get at it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.listeners import CannotListen, Listener, exposed
from opi_spdk_bridge.api.policy import Identity, Policy, Role
from tests.http.web import problem_of
from tests.security.served import BOTH, GRPC, HTTP, Served, call, serving
from tests.support.patience import PATIENCE_S

LOCAL = Policy([Identity(name="me", role="viewer", listeners=("local",))], {"viewer": Role(name="viewer")})


@pytest.fixture
def mask() -> Iterator[None]:
    """A process that hides nothing of what it makes."""
    before = os.umask(0)
    yield
    os.umask(before)


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "parsed"),
        [
            ("127.0.0.1:1", Listener("127.0.0.1:1")),
            ("[::1]:65535", Listener("[::1]:65535")),
            ("unix:/run/x", Listener("unix:/run/x", "", 0o660)),
            ("unix:/run/x,identity=me", Listener("unix:/run/x", "me", 0o660)),
            ("unix:/run/x,mode=0600,identity=me", Listener("unix:/run/x", "me", 0o600)),
            ("unix:/run/x,mode=666", Listener("unix:/run/x", "", 0o666)),
        ],
    )
    def test_addresses(self, text: str, parsed: Listener) -> None:
        assert Listener.parse(text) == parsed

    @pytest.mark.parametrize(
        "text",
        [
            "", "127.0.0.1", ":80", "host:", "host:-1", "host:65536", "host:x", "host:80,identity=me", "unix:",
            "unix:,identity=me", "unix:/x,owner=me", "unix:/x,mode=rw", "unix:/x,mode=", "unix:/x,mode=-7",
            "unix:/x,mode=77777", "unix:/x,mode=0888",
        ],
    )  # fmt: skip
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=r"mode is an octal|is no address|takes a path"):
            Listener.parse(text)

    @pytest.mark.parametrize("text", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x"])
    def test_what_only_this_machine_reaches_needs_no_encryption(self, text: str) -> None:
        assert exposed([Listener.parse(text)], encrypted=False) == []

    @pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "bridge.example.org:1", "localhost.evil:1"])
    def test_what_others_reach_does(self, text: str) -> None:
        assert exposed([Listener.parse(text)], encrypted=False) == [text]
        assert exposed([Listener.parse(text)], encrypted=True) == []


class TestUnixSockets:
    @pytest.mark.parametrize("protocol", BOTH)
    @pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
    async def test_the_file_has_the_mode(self, tmp_path: Path, protocol: str, mode: int) -> None:
        path = tmp_path / "socket"
        async with _on(protocol, f"unix:{path},mode={mode:o}") as served:
            assert served.at(protocol) == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == mode

    @pytest.mark.parametrize("protocol", BOTH)
    async def test_nobody_else_gets_in_before_the_mode_is_set(
        self, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch, mask: None
    ) -> None:
        before: list[int] = []
        monkeypatch.setattr(Listener, "let_in", lambda self: before.append(self.path.stat().st_mode))
        async with _on(protocol, f"unix:{tmp_path}/socket,mode=0666"):
            assert [stat.S_IMODE(mode) & 0o077 for mode in before] == [0]
        assert os.umask(0) == 0, "the process's own mask is as it was"

    async def test_callers_have_the_identity_of_their_socket(self, tmp_path: Path) -> None:
        known, unknown = tmp_path / "known", tmp_path / "unknown"
        addresses = [f"unix:{known},identity=local", f"unix:{unknown}"]
        async with serving(authorizer=LOCAL, listen=addresses, http=[]):
            assert (await call(f"unix:{known}", "ListNullVolumes"))[0] == "OK"
            assert (await call(f"unix:{unknown}", "ListNullVolumes"))[0] == "UNAUTHENTICATED"

    async def test_over_http_too(self, tmp_path: Path) -> None:
        known, unknown = tmp_path / "known", tmp_path / "unknown"
        addresses = [f"unix:{known},identity=local", f"unix:{unknown},identity=other"]
        async with serving(authorizer=LOCAL, listen=[], http=addresses):
            for path, expected in ((known, 200), (unknown, 401)):
                async with _http(path) as client:
                    answer = await client.get("http://bridge/v1/nullVolumes")
                assert answer.status_code == expected
            assert problem_of(answer) == (401, 16, "")
            assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("protocol", BOTH)
    async def test_a_socket_that_nobody_listens_on_is_taken_over(self, tmp_path: Path, protocol: str) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        async with _on(protocol, f"unix:{path}"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    @pytest.mark.parametrize("protocol", BOTH)
    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    async def test_a_socket_of_another_program_is_left_to_it(
        self, tmp_path: Path, protocol: str, kind: socket.SocketKind
    ) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(str(path))
            if kind is socket.SOCK_STREAM:
                other.listen()
            inode = path.stat().st_ino
            with pytest.raises(errors.Unavailable, match=f"{path}: another program does"):
                async with _on(protocol, f"unix:{path}"):
                    pass
            assert path.stat().st_ino == inode

    @pytest.mark.parametrize("protocol", BOTH)
    async def test_a_program_that_does_not_accept_is_still_another_program(self, tmp_path: Path, protocol: str) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waits:
            busy.bind(str(path))
            busy.listen(0)
            waits.connect(str(path))
            with pytest.raises(errors.Unavailable, match="another program does"):
                async with _on(protocol, f"unix:{path}"):
                    pass

    @pytest.mark.parametrize("protocol", BOTH)
    async def test_a_file_is_no_socket_and_stays(self, tmp_path: Path, protocol: str) -> None:
        path = tmp_path / "socket"
        path.write_text("precious")
        with pytest.raises(errors.Unavailable, match="it is there, and no socket"):
            async with _on(protocol, f"unix:{path}"):
                pass
        assert path.read_text() == "precious"


def _at_the_limit(folder: Path, over: int = 0) -> Path:
    return folder / ("s" * (107 + over - len(f"{folder}/")))


@contextlib.contextmanager
def _somebody_else(folder: Path) -> Iterator[None]:
    """This process as a user who may write no folder but its own; others may look into this one."""
    folder.parent.chmod(0o755)
    if os.geteuid():
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("protocol", BOTH)
class TestWhyNot:
    async def test_a_path_at_the_limit_is_served(self, tmp_path: Path, protocol: str) -> None:
        path = _at_the_limit(tmp_path)
        async with _on(protocol, f"unix:{path}"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    async def test_a_path_over_it_is_told_with_its_length(self, tmp_path: Path, protocol: str) -> None:
        path = _at_the_limit(tmp_path, over=1)
        told = f"the socket path {path} has 108 bytes, and 107 are the most"
        with pytest.raises(errors.InvalidArgument, match=told):
            async with _on(protocol, f"unix:{path}"):
                pass

    async def test_bytes_count_not_letters(self, tmp_path: Path, protocol: str) -> None:
        with pytest.raises(errors.InvalidArgument, match="107 are the most"):
            async with _on(protocol, f"unix:{tmp_path / ('ü' * (60 - len(str(tmp_path)) // 2))}"):
                pass

    async def test_a_folder_that_is_missing_is_named(self, tmp_path: Path, protocol: str) -> None:
        with pytest.raises(CannotListen, match=f"cannot listen on unix:.*: there is no folder {tmp_path}/none$"):
            async with _on(protocol, f"unix:{tmp_path}/none/socket"):
                pass

    async def test_a_file_in_the_place_of_a_folder_is_named(self, tmp_path: Path, protocol: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CannotListen, match=f"{tmp_path}/file is no folder$"):
            async with _on(protocol, f"unix:{tmp_path}/file/below/socket"):
                pass

    @pytest.mark.parametrize("stale", [False, True])
    async def test_a_folder_that_may_not_be_written_is_named(self, tmp_path: Path, protocol: str, stale: bool) -> None:
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o755)
        if stale:
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(f"{folder}/socket")
            (folder / "socket").chmod(0o777)
        with _somebody_else(folder), pytest.raises(CannotListen, match=r"uid \d+ may not make files in .*/folder$"):
            async with _on(protocol, f"unix:{folder}/socket"):
                pass

    async def test_an_address_of_another_machine_is_told(self, protocol: str) -> None:
        told = "cannot listen on 192.0.2.1:0: the address is not one of this machine's"
        with pytest.raises(CannotListen, match=told):
            async with _on(protocol, "192.0.2.1:0"):
                pass

    async def test_a_port_of_another_program_is_told(self, protocol: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(CannotListen, match=f"cannot listen on {address}: another program has that port"):
                async with _on(protocol, address):
                    pass

    @pytest.mark.parametrize("host", ["nowhere.invalid", "a..b"])
    async def test_a_host_that_there_is_not_is_told(self, protocol: str, host: str) -> None:
        with pytest.raises(CannotListen, match=f"cannot listen on {host}:1: there is no such host"):
            async with _on(protocol, f"{host}:1"):
                pass


class TestSeveral:
    async def test_all_listeners_answer(self, tmp_path: Path) -> None:
        listen = ["127.0.0.1:0", f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"]
        http = ["127.0.0.1:0", "127.0.0.1:0", f"unix:{tmp_path}/c"]
        async with serving(listen=listen, http=http) as served:
            assert len(set(served.addresses[GRPC])) == 3
            for address in served.addresses[GRPC]:
                assert (await call(address, "ListNullVolumes"))[0] == "OK"
            for address in served.addresses[HTTP][:2]:
                async with _http() as client:
                    assert (await client.get(f"http://{address}/v1/nullVolumes")).status_code == 200
            async with _http(tmp_path / "c") as client:
                assert (await client.get("http://x/v1/nullVolumes")).status_code == 200

    async def test_a_port_that_is_taken_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(errors.Unavailable, match=f"cannot listen on {address}"):
                async with serving(listen=[address], http=[]):
                    pass


def _http(path: Path | None = None) -> httpx.AsyncClient:
    """A client, on that Unix socket where one is given."""
    transport = httpx.AsyncHTTPTransport(uds=str(path)) if path is not None else None
    return httpx.AsyncClient(transport=transport, timeout=PATIENCE_S)


def _on(protocol: str, address: str) -> AbstractAsyncContextManager[Served]:
    listen, http = ([address], []) if protocol == GRPC else ([], [address])
    return serving(listen=listen, http=http)
