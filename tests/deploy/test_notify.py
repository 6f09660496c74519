"""systemd is told how the daemon is, over a real datagram socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from opi_spdk_bridge.daemon import systemd as notify
from tests.support.bridge import Bridge
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, PATIENCE_S, spin
from tests.support.target import Emulator, wait_until


class Listener:
    """systemd's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def received(self) -> list[str]:
        """The messages since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(autouse=True)
def _outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    address = str(tmp_path / "notify")
    listener = Listener(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    yield listener
    listener.close()


def test_readiness_comes_with_a_status_in_one_message(systemd: Listener) -> None:
    assert notify.ready("serves gRPC on 127.0.0.1:50051")
    assert systemd.received() == ["READY=1\nSTATUS=serves gRPC on 127.0.0.1:50051"]


def test_stopping_is_told(systemd: Listener) -> None:
    assert notify.stopping()
    assert systemd.received()[0].startswith("STOPPING=1\n")


def test_an_abstract_socket_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"opi-spdk-bridge-{os.getpid()}"
    listener = Listener(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    assert notify.ready("up")
    assert listener.received() == ["READY=1\nSTATUS=up"]
    listener.close()


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
def test_without_a_socket_nothing_is_sent(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready("up")


def test_a_socket_that_is_gone_is_logged_and_does_not_stop_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
    with caplog.at_level(logging.WARNING):
        assert not notify.ready("up")
    assert "READY=1" in caplog.text
    assert "No such file" in caplog.text


def test_a_reader_that_does_not_read_holds_nothing_up(systemd: Listener) -> None:
    taken: list[bool] = []
    sending = threading.Thread(target=lambda: taken.extend(notify.send("WATCHDOG=1") for _ in range(2000)), daemon=True)
    sending.start()
    sending.join(PATIENCE_S)
    assert len(taken) == 2000
    assert 0 < sum(taken) < 2000
    assert len(systemd.received()) == sum(taken)


async def test_the_watchdog_is_fed_more_than_twice_in_its_time(
    systemd: Listener, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", f"{HOUR_S * 1e6:.0f}")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with notify.watchdog():
        for _ in range(9):
            await spin()
            clock.advance(HOUR_S / 10)
        assert systemd.received().count("WATCHDOG=1") >= 3
    clock.advance(HOUR_S)
    await spin()
    assert systemd.received() == []


async def test_a_daemon_that_says_it_is_not_alive_feeds_no_watchdog(
    systemd: Listener, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", f"{HOUR_S * 1e6:.0f}")
    async with notify.watchdog(lambda: False):
        for _ in range(3):
            await spin()
            clock.advance(HOUR_S)
    assert systemd.received() == []


def test_a_served_bridge_tells_that_it_is_ready_alive_and_stopping(
    systemd: Listener, monkeypatch: pytest.MonkeyPatch, spdk: Emulator, tmp_path: Path
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    told: list[str] = []

    def has_told(message: str) -> bool:
        told.extend(systemd.received())
        return any(each.startswith(message) for each in told)

    daemon = Bridge(tmp_path, spdk=spdk.socket, state="memory:")
    daemon.start()
    wait_until(lambda: has_told("WATCHDOG=1"), "the watchdog is fed")
    assert told[0] == f"READY=1\nSTATUS=serves gRPC on {daemon.address}"
    spdk.kill()
    told.clear()
    wait_until(lambda: has_told("WATCHDOG=1"), "it is fed without a target, too")
    assert daemon.stop() == 0
    assert has_told("STOPPING=1")


@pytest.mark.parametrize(
    ("usec", "pid"), [(None, None), ("0", None), ("5000000", "1"), ("soon", None), ("5000000", "me")]
)
async def test_a_watchdog_that_is_off_or_for_another_process_is_not_fed(
    systemd: Listener, monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_timeout_s() is None
    async with notify.watchdog():
        await asyncio.sleep(0)
    assert systemd.received() == []


async def test_the_watchdog_ends_with_its_context_whatever_ends_it(
    systemd: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    with pytest.raises(RuntimeError, match="the daemon's own"):
        async with notify.watchdog():
            raise RuntimeError("the daemon's own")
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "watchdog"]
