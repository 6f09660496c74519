"""An emulated target as a process, and a plain client for it."""

import asyncio
import contextlib
import json
import multiprocessing.context
import multiprocessing.process
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opi_spdk_bridge.emulator.options import EmulatorOptions
from opi_spdk_bridge.emulator.server import serve
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.program import fresh_log

Call = tuple[str, dict[str, Any] | None]


class CallFailedError(Exception):
    """An error answer."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.message: str = error["message"]


class Client:
    """One connection: sends bytes, reads answers one by one."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        try:
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._answers = self._socket.makefile("rb")
        self._last_id = 0

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def read(self) -> Any:
        """The next answer; None when the target hung up."""
        try:
            line = self._answers.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def encode(self, method: str, params: dict[str, Any] | None = None) -> bytes:
        self._last_id += 1
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": self._last_id, "method": method}
        if params is not None:
            request["params"] = params
        return json.dumps(request).encode()

    def call(self, method: str, /, **params: Any) -> Any:
        """The result. Raises CallFailedError."""
        self.send(self.encode(method, params or None))
        answer = self.read()
        if answer is None:
            raise ConnectionResetError(method)
        if "error" in answer:
            raise CallFailedError(answer["error"])
        return answer["result"]

    def error(self, method: str, /, **params: Any) -> tuple[int, str]:
        """Code and message of a call that must fail."""
        try:
            result = self.call(method, **params)
        except CallFailedError as error:
            return error.code, error.message
        raise AssertionError(f"{method} answered {result}")

    def together(self, *calls: Call) -> list[dict[str, Any]]:
        """The answers to calls that are sent in one write, in the order of the calls."""
        first = self._last_id + 1
        self.send(b"".join(self.encode(method, params) for method, params in calls))
        answers = {answer["id"]: answer for answer in (self.read() for _ in calls)}
        return [answers[number] for number in range(first, first + len(calls))]

    def shutdown_write(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@dataclass
class EmulatedTarget:
    process: multiprocessing.process.BaseProcess
    address: str
    vhost_dir: Path
    client: Client

    def connect(self) -> Client:
        return Client(self.address)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def terminate(self) -> int | None:
        """Ends it as a user would; its exit status."""
        self.process.terminate()
        self.process.join(PATIENCE_S)
        return self.process.exitcode


def _serve(options: EmulatorOptions, log: Path) -> None:
    with log.open("wb") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    asyncio.run(serve(options))


def _context() -> multiprocessing.context.ForkServerContext:
    """Makes processes from one that has the emulator loaded, so that a target is up in some 20 ms."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.emulator.emulated"])
    return context


@contextlib.contextmanager
def run_target(folder: Path, name: str = "target", **options: Any) -> Iterator[EmulatedTarget]:
    """Runs a target in a process of its own, with EmulatorOptions other than the socket's path."""
    vhost_dir = folder / f"{name}-vhost"
    vhost_dir.mkdir()
    address = os.fspath(folder / f"{name}.sock")
    given = EmulatorOptions(address, vhost_dir=vhost_dir, **options)
    process = _context().Process(target=_serve, args=(given, fresh_log()))
    process.start()
    try:
        client = _wait_until_up(process, address)
        try:
            yield EmulatedTarget(process, address, vhost_dir, client)
        finally:
            client.close()
    finally:
        process.kill()
        process.join()
        process.close()


def _wait_until_up(process: multiprocessing.process.BaseProcess, address: str) -> Client:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            return Client(address)
        assert process.exitcode is None, "the target ended instead of starting"
        assert time.monotonic() < deadline, "the target did not start"
        time.sleep(0.005)


def free_port() -> str:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    return str(free_ports(1)[0])


def wait_for(condition: Any, timeout_s: float = PATIENCE_S) -> None:
    """Waits until `condition()` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
