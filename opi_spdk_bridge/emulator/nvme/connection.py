"""The host's end of an association with a subsystem of another emulated target."""

import asyncio
import base64
import contextlib
import ipaddress
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EIO
from typing import Any

from ..fabric import wire
from ..fabric.trid import TransportId
from ..fabric.wire import Completion
from ..keyring import PSK_LENGTH_MAX, Key, parse_psk
from ..registry import errno_error

ADMIN_QUEUE_SIZE = 32
COMMANDS_PER_EVENT = 2
"""Admin commands after a namespace event, beside one for each namespace."""
KEEP_ALIVE_S = 5
ABORTED = 0x08


@dataclass(frozen=True)
class HostIdentity:
    """Who connects, and with which keys of this target's keyring. A PSK is read once, when the controller is made."""

    nqn: str
    hostid: str
    addr: str = ""
    svcid: str = ""
    psk: Key | None = None
    dhchap_key: Key | None = None
    dhchap_ctrlr_key: Key | None = None
    psk_bytes: bytes | None = field(default=None, repr=False)

    def held_keys(self) -> tuple[Key | None, ...]:
        return self.psk, self.dhchap_key, self.dhchap_ctrlr_key

    def describe(self) -> dict[str, Any]:
        return {"nqn": self.nqn, "addr": self.addr, "svcid": self.svcid, "no_shn_notification": False}


@dataclass(frozen=True)
class RemoteNamespace:
    """What the subsystem says of one namespace."""

    nsid: int
    block_size: int
    num_blocks: int
    nguid: str
    eui64: str
    uuid: str
    ana_state: str
    unmap: bool

    def identity(self) -> tuple[str, str, str]:
        return self.nguid, self.eui64, self.uuid


@dataclass(frozen=True)
class ControllerData:
    """What the subsystem says of its controller."""

    cntlid: int
    serial_number: str
    model_number: str
    ana_reporting: bool


def _commands_to_attach(data: ControllerData, namespaces: int) -> int:
    """How many admin commands a host sends until it knows the namespaces of a controller, as counted on a target."""
    return 13 + 2 * namespaces + (2 if data.ana_reporting else min(1, namespaces))


def describe_trid(trid: TransportId) -> dict[str, str]:
    """As the bdev_nvme methods show it: what is not set is left out."""
    members = {
        "trtype": trid.trtype,
        "adrfam": trid.adrfam,
        "traddr": trid.traddr,
        "trsvcid": trid.trsvcid,
        "subnqn": trid.subnqn,
    }
    return {name: value for name, value in members.items() if value}


class Connection:
    """A connected controller. `namespaces` follows the subsystem; the callbacks tell of changes and of the end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        data: ControllerData,
        namespaces: list[RemoteNamespace],
    ) -> None:
        self.data = data
        self.namespaces = namespaces
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ended = False
        self._sent = 0
        self._admin_sent = _commands_to_attach(data, len(namespaces))
        self._connected_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def watch(self, on_namespaces: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._task = asyncio.create_task(self._receive(on_namespaces, on_lost))

    async def _receive(self, on_namespaces: Callable[[], None], on_lost: Callable[[], None]) -> None:
        while (message := await wire.receive(self._reader)) is not None:
            if "namespaces" in message:
                self.namespaces = [RemoteNamespace(**namespace) for namespace in message["namespaces"]]
                self._admin_sent += COMMANDS_PER_EVENT + len(self.namespaces)
                on_namespaces()
            elif message.get("id") in self._waiting:
                self._waiting.pop(message["id"]).set_result(message)
        self._end()
        on_lost()

    def _end(self) -> None:
        """Nothing is sent any more, and what was not answered has failed."""
        self._ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_result({"failed": True})
        self._waiting.clear()

    def set_io_qpairs(self, count: int) -> None:
        self._tell({"io_qpairs": count})

    def account(self, nsid: int, kind: str, ops: int, size_bytes: int, latency_ticks: int) -> None:
        """Has the other side count I/O that this side only pretends to do."""
        message = {"kind": kind, "ops": ops, "size_bytes": size_bytes, "latency_ticks": latency_ticks}
        self._sent += 1
        self._tell({"io": "account", "id": self._sent, "nsid": nsid, **message})

    def _tell(self, message: dict[str, Any]) -> None:
        """Sends what nobody waits for the answer to."""
        if not self._ended:
            wire.send(self._writer, message)

    async def read(self, nsid: int, offset: int, length: int) -> bytes:
        answer = await self._io({"io": "read", "nsid": nsid, "offset": offset, "length": length})
        return base64.b64decode(answer["content"])

    async def write(self, nsid: int, offset: int, content: bytes) -> None:
        await self._io({"io": "write", "nsid": nsid, "offset": offset, "content": base64.b64encode(content).decode()})

    @property
    def admin_queue_head(self) -> int:
        """How far the other side has read the admin queue, by this side's count of what it sent."""
        keep_alives = int((time.monotonic() - self._connected_at) / KEEP_ALIVE_S)
        return (self._admin_sent + keep_alives) % ADMIN_QUEUE_SIZE

    async def admin(self, command: bytes, data_size: int) -> Completion:
        """An admin command; it is aborted when the connection ends meanwhile."""
        self._admin_sent += 1
        try:
            answer = await self._io({"admin": command.hex(), "data_size": data_size})
        except OSError:
            return Completion(ABORTED)
        return Completion(answer["status"], bytes.fromhex(answer["data"]))

    async def _io(self, message: dict[str, Any]) -> dict[str, Any]:
        """Raises OSError EIO, also once the connection is ending."""
        if self._ended:
            raise errno_error(EIO)
        self._sent += 1
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._sent] = answered
        wire.send(self._writer, {**message, "id": self._sent})
        answer = await answered
        if "failed" in answer:
            raise errno_error(EIO)
        return answer

    async def close(self) -> None:
        """Disconnects, and waits until the other side has seen it."""
        if self._task is not None:
            self._task.cancel()
        self._end()
        with contextlib.suppress(OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            await asyncio.wait_for(self._drain(), 1)
        self._writer.close()

    async def _drain(self) -> None:
        while await self._reader.read(65536):
            pass


def read_psk(host: HostIdentity) -> bytes | None:
    """The configured PSK. Raises OSError EIO for a key that is not one."""
    try:
        return None if host.psk is None else parse_psk(host.psk.read(PSK_LENGTH_MAX))
    except (OSError, ValueError):
        raise errno_error(EIO) from None


async def connect(trid: TransportId, host: HostIdentity, timeout_s: float) -> Connection:
    """Connects a controller. Raises OSError EIO: nothing there, no such subsystem, or it does not let this host in."""
    try:
        if trid.trtype != "TCP" or not trid.adrfam:
            raise errno_error(EIO)
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                trid.traddr, int(trid.trsvcid), limit=wire.LINE_BYTES_MAX, local_addr=_source(trid, host)
            )
            try:
                return await _introduce(trid, host, reader, writer)
            except BaseException:
                writer.close()
                raise
    except (OSError, ValueError):
        raise errno_error(EIO) from None


def _source(trid: TransportId, host: HostIdentity) -> tuple[str, int] | None:
    """Where to connect from, None for anywhere. Raises ValueError for what is no address or no port."""
    if not host.addr and not host.svcid:
        return None
    port = int(host.svcid or 0)
    if port not in range(1 if host.svcid else 0, 65536):
        raise ValueError(host.svcid)
    anywhere = "::" if trid.adrfam == "IPv6" else "0.0.0.0"
    return str(ipaddress.ip_address(host.addr or anywhere)), port


async def _introduce(
    trid: TransportId, host: HostIdentity, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Connection:
    greeting = await wire.receive(reader)
    if greeting is None:
        raise errno_error(EIO)
    nonce, own_nonce = greeting["nonce"], secrets.token_hex(wire.NONCE_BYTES)
    request = {"subnqn": trid.subnqn, "hostnqn": host.nqn, "hostid": host.hostid}
    if host.psk_bytes is not None:
        request["psk"] = wire.prove(host.psk_bytes, nonce, "psk")
    if host.dhchap_key is not None:
        request["dhchap"] = wire.prove(host.dhchap_key.read(PSK_LENGTH_MAX), nonce, "dhchap")
    ctrlr_key = host.dhchap_ctrlr_key
    if ctrlr_key is not None:
        request["dhchap_ctrlr_nonce"] = own_nonce
    wire.send(writer, request)
    answer = await wire.receive(reader)
    if answer is None or "refused" in answer:
        raise errno_error(EIO)
    if ctrlr_key is not None:
        expected = ctrlr_key.read(PSK_LENGTH_MAX)
        if not wire.proves(expected, own_nonce, "dhchap_ctrlr", answer.get("dhchap_ctrlr")):
            raise errno_error(EIO)
    data = ControllerData(answer["cntlid"], answer["serial_number"], answer["model_number"], answer["ana_reporting"])
    return Connection(reader, writer, data, [RemoteNamespace(**namespace) for namespace in answer["namespaces"]])
