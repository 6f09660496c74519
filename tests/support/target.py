"""Targets for tests: emulators as processes of their own, or real ones that `make test-spdk` was given."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.patience import PATIENCE_S
from tests.support.program import started

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"


class RpcError(Exception):
    """The target answered an error."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message


class Target:
    """A JSON-RPC target behind a Unix socket, asked over one connection at a time."""

    emulated = False

    def __init__(self, path: str) -> None:
        self.socket = path

    def answers(self) -> bool:
        """Whether it can be asked."""
        try:
            return bool(self.rpc("spdk_get_version"))
        except OSError:
            return False

    def rpc(self, method: str, /, **params: Any) -> Any:
        """The result of one call; raises RpcError."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(self.socket)
            request = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params else {})}
            connection.sendall(json.dumps(request).encode())
            text = b""
            while True:
                received = connection.recv(1 << 20)
                if not received:
                    raise ConnectionError(f"the target hung up during {method}")
                text += received
                with contextlib.suppress(ValueError):
                    answer = json.loads(text)
                    break
        if "error" in answer:
            raise RpcError(method, answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def bdev(self, name: str) -> dict[str, Any] | None:
        """A bdev, or None."""
        try:
            return dict(self.rpc("bdev_get_bdevs", name=name)[0])
        except RpcError:
            return None

    def subsystem(self, nqn: str) -> dict[str, Any] | None:
        """A subsystem, or None."""
        try:
            return dict(self.rpc("nvmf_get_subsystems", nqn=nqn)[0])
        except RpcError:
            return None

    def vhost(self, name: str) -> dict[str, Any] | None:
        """A vhost controller, or None."""
        try:
            return dict(self.rpc("vhost_get_controllers", name=name)[0])
        except RpcError:
            return None

    def remote_controller(self, name: str) -> dict[str, Any] | None:
        """An NVMe bdev controller, or None."""
        try:
            return dict(self.rpc("bdev_nvme_get_controllers", name=name)[0])
        except RpcError:
            return None

    def discovery_listeners(self) -> list[dict[str, Any]]:
        """Where hosts can discover, without SPDK's saying that it will not for ever."""
        found = self.subsystem(DISCOVERY_NQN)
        return found["listen_addresses"] if found is not None else []

    @functools.cached_property
    def methods(self) -> frozenset[str]:
        """What it can be asked: not every release, and not every build, has everything."""
        return frozenset(self.rpc("rpc_get_methods"))

    def _listed(self, method: str, name: str) -> list[str]:
        """The names of what a method lists; none where the target has no such method."""
        return [item[name] for item in self.rpc(method)] if method in self.methods else []

    def inventory(self) -> dict[str, list[str]]:
        """The names of everything on the target that a test could have left."""
        return {
            "discovery": [f"{a['traddr']} {a['trsvcid']}" for a in self.discovery_listeners()],
            "subsystems": [s["nqn"] for s in self.rpc("nvmf_get_subsystems") if s["subtype"] != "Discovery"],
            "vhost": self._listed("vhost_get_controllers", "ctrlr"),
            "remote": self._listed("bdev_nvme_get_controllers", "name"),
            "bdevs": self._listed("bdev_get_bdevs", "name"),
            "keys": self._listed("keyring_get_keys", "name"),
            "crypto_keys": self._listed("accel_crypto_keys_get", "name"),
        }

    def clean(self) -> None:
        """Removes everything: front ends first, then bdevs from the top, then keys."""
        left = self.inventory()
        for address in self.discovery_listeners():
            self.rpc("nvmf_subsystem_remove_listener", nqn=DISCOVERY_NQN, listen_address=address)
        for nqn in left["subsystems"]:
            self.rpc("nvmf_delete_subsystem", nqn=nqn)
        for name in left["vhost"]:
            self.rpc("vhost_delete_controller", ctrlr=name)
        self._delete_bdevs()
        for name in left["remote"]:
            self.rpc("bdev_nvme_detach_controller", name=name)
        for name in left["keys"]:
            with contextlib.suppress(RpcError):
                self.rpc("keyring_file_remove_key", name=name)
        for name in left["crypto_keys"]:
            self.rpc("accel_crypto_key_destroy", key_name=name)

    def _delete_bdevs(self) -> None:
        """Deletes every bdev that can be: first what nothing stands on, then what that stood on.

        Those of remote controllers stay: they go with them.
        """
        while left := self.rpc("bdev_get_bdevs"):
            uppermost = [bdev["name"] for bdev in left if not bdev["claimed"]]
            gone = [name for name in uppermost if self.delete_bdev(name)]
            if not gone and not any(self.delete_bdev(bdev["name"]) for bdev in left if bdev["claimed"]):
                return

    def delete_bdev(self, name: str) -> bool:
        """Whether one of the methods could delete it: each refuses the bdevs of other modules than its own."""
        for method in sorted(self.methods):
            if re.fullmatch(r"bdev_[a-z_]+_delete", method):
                with contextlib.suppress(RpcError):
                    self.rpc(method, name=name)
                    return True
        return False


class Emulator(Target):
    """An emulated target that a test can kill, restart and disturb."""

    emulated = True

    def __init__(
        self, folder: Path, name: str = "spdk", *, poll_interval_ms: float = 0.0, vhost_dir: Path | None = None
    ) -> None:
        super().__init__(str(folder / f"{name}.sock"))
        self._vhost_dir = vhost_dir or folder / f"{name}-vhost"
        self._vhost_dir.mkdir(exist_ok=True)
        self._log = folder / f"{name}.log"
        self._poll_interval_ms = poll_interval_ms
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Everything the emulator has printed."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def vhost_dir(self) -> Path:
        """Where vhost sockets are."""
        return self._vhost_dir

    def start(self) -> None:
        """Starts it, empty, and waits until it answers."""
        arguments = ["--socket", self.socket, "--vhost-dir", str(self._vhost_dir)]
        arguments += ["--poll-interval-ms", str(self._poll_interval_ms)]
        self._process = started("emulate", *arguments, log=self._log)
        wait_until(self._answers, f"the emulator at {self.socket}")

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"the emulator ended at its start: {self.log}")
        return self.answers()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it with that signal; the state is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None
        Path(self.socket).unlink(missing_ok=True)

    def kill(self) -> None:
        """Ends it at once."""
        self.stop(signal.SIGKILL)

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Has it hang meanwhile: it keeps its connections, accepts others, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def emulator(
    folder: Path, name: str = "spdk", *, poll_interval_ms: float = 0.0, vhost_dir: Path | None = None
) -> Iterator[Emulator]:
    """A started emulator."""
    target = Emulator(folder, name, poll_interval_ms=poll_interval_ms, vhost_dir=vhost_dir)
    target.start()
    try:
        yield target
    finally:
        target.kill()


def real_target(variable: str) -> Target | None:
    """The real target whose socket is in that environment variable (SPDK, SPDK_FAR), if any."""
    path = os.environ.get(variable)
    return Target(path) if path else None


def wait_until(condition: Any, what: str, seconds: float = PATIENCE_S) -> None:
    """Waits for a condition to hold; fails the test naming `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
