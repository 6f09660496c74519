"""A scripted QMP server, in the place of QEMUs that are not to be had: other releases, and those that misbehave."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Peer:
    """Keeps what is plugged in, and does as it is told.

    hang_up_after  hangs up once it has carried out this command, instead of answering it
    hang_up_at     hangs up at this command, without carrying it out
    silent_at      carries this command out and never answers it
    greets         whether it says anything to who connects
    babbles        whether it says what is no QMP
    lets_go        whether the guest lets go of what is to be unplugged
    refusals       QEMU's words by the command that it refuses ("device_add", or for one ID "device_add opi-pf1-x")
    """

    def __init__(self, address: Path | int, release: tuple[int, int, int] = (10, 1, 0)) -> None:
        self.address = str(address) if isinstance(address, Path) else f"127.0.0.1:{address}"
        self._address = address
        self._release = release
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self.devices: dict[str, dict[str, Any]] = {}
        self.chardevs: dict[str, dict[str, Any]] = {}
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, str] = {}
        self.behave()

    def behave(self) -> None:
        """Does as it should from now on."""
        self.hang_up_after = self.hang_up_at = self.silent_at = ""
        self.lets_go = self.greets = True
        self.babbles = False
        self.refusals.clear()

    def start(self) -> None:
        """Listens, with nothing plugged in."""
        self.devices.clear()
        self.chardevs.clear()
        if isinstance(self._address, Path):
            self._address.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._address))
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", self._address))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    @property
    def runs(self) -> bool:
        """Whether it listens."""
        return self._listener is not None

    def stop(self) -> None:
        """Hangs up, and listens no more: what a crash leaves, the socket's file included."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.hang_up()

    def hang_up(self) -> None:
        """Drops the connections."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def remove(self, name: str) -> None:
        """Takes a device out, and tells everybody: the part of it that has no ID first."""
        del self.devices[name]
        path = f"/machine/peripheral/{name}"
        for deleted in ({"path": f"{path}/virtio-backend"}, {"device": name, "path": path}):
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    _send(connection, {"event": "DEVICE_DELETED", "data": deleted, "timestamp": {"seconds": 1}})

    def asked(self, *names: str) -> list[dict[str, Any]]:
        """The arguments of the commands of those names, in order."""
        return [arguments for command, arguments in self.commands if command in names]

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        major, minor, micro = self._release
        version = {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": ""}
        with connection, contextlib.suppress(OSError):
            if self.babbles:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            elif self.greets:
                _send(connection, {"QMP": {"version": version, "capabilities": ["oob"]}})
            for request in _requests(connection):
                command, arguments = request["execute"], request.get("arguments", {})
                self.commands.append((command, arguments))
                if command == self.hang_up_at:
                    return
                answer = self._carry_out(command, arguments)
                if command not in (self.hang_up_after, self.silent_at):
                    _send(connection, {**answer, "id": request["id"]} if "id" in request else answer)
                if command == "device_del" and self.lets_go and "return" in answer:
                    self.remove(arguments["id"])
                if command == self.hang_up_after:
                    return

    def _carry_out(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        name, found = arguments.get("id", ""), self.devices.get(arguments.get("id", ""))
        refusal = self.refusals.get(command) or self.refusals.get(f"{command} {name}")
        if refusal:
            return _error("GenericError", refusal)
        if command == "qom-list":
            types = {device: f"child<{given['driver']}>" for device, given in self.devices.items()}
            items = [{"name": key, "type": kind} for key, kind in {"type": "string", **types}.items()]
            return {"return": items}
        if command == "query-chardev":
            paths = {key: backend["data"]["addr"]["data"]["path"] for key, backend in self.chardevs.items()}
            return {"return": [{"label": key, "filename": f"unix:{path}"} for key, path in paths.items()]}
        if command == "chardev-add":
            self.chardevs[name] = arguments["backend"]
        elif command == "chardev-remove":
            del self.chardevs[name]
        elif command == "device_add" and found is not None:
            return _error("GenericError", f"Duplicate device ID '{name}'")
        elif command == "device_add":
            self.devices[name] = {key: value for key, value in arguments.items() if key != "id"}
        elif command == "device_del" and found is None:
            return _error("DeviceNotFound", f"Device '{name}' not found")
        return {"return": {}}


@contextlib.contextmanager
def peer(address: Path | int, release: tuple[int, int, int] = (10, 1, 0)) -> Iterator[Peer]:
    """A peer that listens."""
    scripted = Peer(address, release)
    scripted.start()
    try:
        yield scripted
    finally:
        scripted.stop()


def _requests(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What the client sends: JSON objects with nothing in between."""
    text = ""
    while received := connection.recv(65536):
        text += received.decode()
        with contextlib.suppress(ValueError):
            while text:
                request, end = json.JSONDecoder().raw_decode(text)
                text = text[end:].lstrip()
                yield request


def _error(sort: str, words: str) -> dict[str, Any]:
    return {"error": {"class": sort, "desc": words}}


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\r\n")
