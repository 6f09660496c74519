"""The target's end of a host's association with a subsystem."""

import asyncio
import base64
import contextlib
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from errno import EACCES
from typing import Any

from ..bdev.device import Bdev
from ..fabric import wire
from ..fabric.trid import TransportId
from ..keyring import PSK_LENGTH_MAX, Key
from ..registry import errno_error
from .identify import identify
from .subsystem import Subsystem

FindSubsystem = Callable[[str], Subsystem | None]


@dataclass
class QpairCounts:
    """Queue pairs of the target's poll group since it started, and now."""

    admin_total: int = 0
    io_total: int = 0
    admin_now: int = 0
    io_now: int = 0
    completed_io: int = 0


class TcpPort:
    """Accepts the connections of one TCP listener."""

    def __init__(
        self,
        listener: socket.socket,
        trid: TransportId,
        *,
        secure: bool,
        find_subsystem: FindSubsystem,
        counts: QpairCounts,
    ) -> None:
        self._listener = listener
        self._trid = trid
        self._secure = secure
        self._find_subsystem = find_subsystem
        self._counts = counts
        self._connections: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, peer = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._serve(connection, peer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=wire.LINE_BYTES_MAX)
        peer_trid = TransportId("TCP", str(peer[0]), self._trid.adrfam, str(peer[1]))
        association = Association(writer, self._trid, peer_trid, self._counts)
        try:
            nonce = secrets.token_hex(wire.NONCE_BYTES)
            wire.send(writer, {"nonce": nonce})
            request = await wire.receive(reader)
            if request is not None and association.connect(request, nonce, self._find_subsystem, secure=self._secure):
                await association.serve(reader)
        finally:
            association.disconnect()

    def close(self) -> None:
        self._accepting.cancel()
        for task in list(self._connections):
            task.cancel()
        self._listener.close()


class Association:
    """One host's controller in a subsystem."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        listen_trid: TransportId,
        peer_trid: TransportId,
        counts: QpairCounts,
    ) -> None:
        self.cntlid = 0
        self.hostnqn = ""
        self.hostid = ""
        self.listen_trid = listen_trid
        self.peer_trid = peer_trid
        self.io_qpairs = 0
        self._writer = writer
        self._counts = counts
        self._subsystem: Subsystem | None = None

    def connect(self, request: dict[str, Any], nonce: str, find_subsystem: FindSubsystem, *, secure: bool) -> bool:
        """Lets the host in, or says no: the subsystem, its access list, its listeners and the keys decide."""
        self.hostnqn, self.hostid = str(request.get("hostnqn")), str(request.get("hostid"))
        subsystem = find_subsystem(str(request.get("subnqn")))
        try:
            if subsystem is None or not self._allowed(subsystem, request, nonce, secure=secure):
                raise errno_error(EACCES)
            subsystem.add_controller(self)
        except OSError:
            wire.send(self._writer, {"refused": True})
            return False
        self._subsystem = subsystem
        self._counts.admin_total += 1
        self._counts.admin_now += 1
        options = subsystem.options
        answer = {
            "cntlid": self.cntlid,
            "serial_number": options.serial_number,
            "model_number": options.model_number,
            "ana_reporting": options.ana_reporting,
            "namespaces": self._namespaces(),
        }
        host, challenge = subsystem.find_host(self.hostnqn), request.get("dhchap_ctrlr_nonce")
        key = _key_text(host.dhchap_ctrlr_key) if host else None
        if challenge and key:
            answer["dhchap_ctrlr"] = wire.prove(key, challenge, "dhchap_ctrlr")
        wire.send(self._writer, answer)
        return True

    def _allowed(self, subsystem: Subsystem, request: dict[str, Any], nonce: str, *, secure: bool) -> bool:
        """A secure listener wants the host's PSK, a plain one none; a host with a DH-HMAC-CHAP key must prove it."""
        host = subsystem.find_host(self.hostnqn)
        psk = host.psk if host and secure else None
        dhchap_key = _key_text(host.dhchap_key) if host else None
        return (
            not subsystem.destroying
            and subsystem.host_allowed(self.hostnqn)
            and subsystem.find_listener(self.listen_trid) is not None
            and secure == (request.get("psk") is not None)
            and wire.proves(psk, nonce, "psk", request.get("psk"))
            and (dhchap_key is None or wire.proves(dhchap_key, nonce, "dhchap", request.get("dhchap")))
        )

    def _namespaces(self) -> list[dict[str, Any]]:
        subsystem = self._subsystem
        if subsystem is None:
            return []
        listener = subsystem.find_listener(self.listen_trid)
        return [
            {
                "nsid": namespace.nsid,
                "block_size": namespace.descriptor.bdev.block_size,
                "num_blocks": namespace.descriptor.bdev.num_blocks,
                "nguid": namespace.nguid.hex(),
                "eui64": namespace.eui64.hex() if namespace.eui64 else "",
                "uuid": namespace.uuid,
                "ana_state": listener.state_of(namespace.anagrpid) if listener else "optimized",
                "unmap": namespace.descriptor.bdev.supports("unmap"),
            }
            for namespace in subsystem.namespaces()
            if namespace.visible_to(self.hostnqn)
        ]

    def namespaces_changed(self) -> None:
        wire.send(self._writer, {"namespaces": self._namespaces()})

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answers the host until it is gone."""
        while (message := await wire.receive(reader)) is not None:
            if "io_qpairs" in message:
                self._set_io_qpairs(message["io_qpairs"])
            elif "io" in message:
                wire.send(self._writer, {"id": message["id"], **await self._io(message)})
            elif "admin" in message:
                wire.send(self._writer, {"id": message["id"], **self._admin(message)})

    def _set_io_qpairs(self, count: int) -> None:
        self._counts.io_total += max(0, count - self.io_qpairs)
        self._counts.io_now += count - self.io_qpairs
        self.io_qpairs = count

    def _admin(self, message: dict[str, Any]) -> dict[str, Any]:
        subsystem = self._subsystem
        listener = subsystem.find_listener(self.listen_trid) if subsystem else None
        if subsystem is None or listener is None:
            return {"failed": True}
        visible = {ns.nsid: ns for ns in subsystem.namespaces() if ns.visible_to(self.hostnqn)}
        command, max_io_size = bytes.fromhex(message["admin"]), listener.transport.options.max_io_size
        completion = identify(subsystem, visible, command, message["data_size"], max_io_size)
        return {"status": completion.status, "data": completion.data.hex()}

    async def _io(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._subsystem is None:
                return {"failed": True}
            bdev = self._subsystem.namespace(message["nsid"]).descriptor.bdev
            return await self._run(bdev, message)
        except OSError:
            return {"failed": True}

    async def _run(self, bdev: Bdev, message: dict[str, Any]) -> dict[str, Any]:
        kind = message["io"]
        if kind == "account":
            self._counts.completed_io += message["ops"]
            bdev.record(message["kind"], message["ops"], message["size_bytes"], message["latency_ticks"])
            return {}
        if kind == "write":
            await bdev.write(message["offset"], base64.b64decode(message["content"]))
            return {}
        content = await bdev.read(message["offset"], message["length"])
        return {"content": base64.b64encode(content).decode()}

    def disconnect(self) -> None:
        subsystem, self._subsystem = self._subsystem, None
        if subsystem is not None:
            subsystem.controllers.remove(self)
            self._counts.admin_now -= 1
            self._set_io_qpairs(0)
        self._writer.close()


def _key_text(key: Key | None) -> bytes | None:
    if key is None:
        return None
    with contextlib.suppress(OSError):
        return key.read(PSK_LENGTH_MAX)
    return b""
