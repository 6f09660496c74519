"""A bridge as a process, and calls to it over a real channel with JSON-like requests."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from opi_spdk_bridge import pb
from tests.support.patience import PATIENCE_S
from tests.support.program import started
from tests.support.target import wait_until


def _services() -> Iterator[Any]:
    """The descriptors of every service that a generated module has."""
    for module in pkgutil.walk_packages(pb.__path__, f"{pb.__name__}."):
        if module.name.endswith("_pb2"):
            yield from importlib.import_module(module.name).DESCRIPTOR.services_by_name.values()


METHODS: dict[str, Any] = {method.name: method for service in _services() for method in service.methods}
"""The contract's methods by their short name."""


class CallError(Exception):
    """A call ended in an error: its code's name, its message, and the field named in its details."""

    def __init__(self, problem: Any) -> None:
        self.code: str = problem.code().name
        self.message: str = problem.details()
        self.field = ""
        status = rpc_status.from_call(problem)
        for detail in status.details if status is not None else ():
            request = error_details_pb2.BadRequest()
            if detail.Unpack(request):
                self.field = request.field_violations[0].field
        super().__init__(f"{self.code}: {self.message}")


class Client:
    """Calls methods of the contract by their short name; requests and answers are dictionaries (proto field names)."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])

    def call(self, method: str, request: dict[str, Any] | None = None, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The answer; raises CallError."""
        descriptor = METHODS[method]
        message = message_factory.GetMessageClass(descriptor.input_type)()
        json_format.ParseDict(request or {}, message)
        response = message_factory.GetMessageClass(descriptor.output_type)
        invoke: Any = self.channel.unary_unary(
            f"/{descriptor.containing_service.full_name}/{method}",
            request_serializer=lambda item: item.SerializeToString(),
            response_deserializer=response.FromString,
        )
        try:
            answer = invoke(message, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as problem:
            raise CallError(problem) from None
        return dict(json_format.MessageToDict(answer, preserving_proto_field_name=True))

    def close(self) -> None:
        """Drops the connection."""
        self.channel.close()


class Bridge(Client):
    """`opi-spdk-bridge serve` with flags, on a port of its own."""

    def __init__(self, folder: Path, **flags: Any) -> None:
        self._folder = folder
        self._log = folder / "bridge.log"
        self._flags = {"listen": "127.0.0.1:0", "http": "", **flags}
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    @property
    def log(self) -> str:
        """Everything the bridge has printed, over all its starts."""
        return self._log.read_text() if self._log.exists() else ""

    def start(self) -> None:
        """Starts it and waits until it serves and, where its target is up, is connected to it."""
        arguments = []
        for name, value in self._flags.items():
            flag = f"--{name.replace('_', '-')}"
            arguments += [flag] if value is True else [flag, str(value)]
        seen = len(self.log)
        self._process = started("serve", *arguments, log=self._log)

        def serves() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"the bridge ended at its start: {self.log[seen:]}")
            found = re.search(r"serves gRPC on (\S+)", self.log[seen:])
            self.address = found[1].rstrip(",") if found else ""
            return bool(found)

        wait_until(serves, "the bridge serves")
        if self._tells_of_targets():
            wait_until(lambda: "connected to SPDK" in self.log[seen:] or not self._target_is_up(), "it has its target")
        Client.__init__(self, self.address)

    def _tells_of_targets(self) -> bool:
        """Whether its log has a line for each connection to a target."""
        config = self._flags.get("config")
        others = config is not None and "log_level" in Path(config).read_text()
        return not others and self._flags.get("log_level", "info") in ("debug", "info")

    def _target_is_up(self) -> bool:
        path = str(self._flags.get("spdk", ""))
        if not self.running or "/" not in path:
            return False
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            return probe.connect_ex(path) == 0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with that signal and returns its exit status."""
        self.close()
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(PATIENCE_S)
        self._process = None
        return status

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Ends it in good order and starts it again on the same state."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """It stands still meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None


@contextlib.contextmanager
def bridge(folder: Path, **flags: Any) -> Iterator[Bridge]:
    """A started bridge; flags are those of `serve` with underscores."""
    daemon = Bridge(folder, **flags)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.running:
            daemon.kill()
