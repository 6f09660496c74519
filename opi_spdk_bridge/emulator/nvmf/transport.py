"""NVMe-oF transports and what they listen on (lib/nvmf/transport.c, tcp.c, vfio_user.c).

A TCP listener is a socket of this process: subsystems that listen on the same address share it, and an address that
cannot be bound fails as it does on the target. A vfio-user listener is a folder with the socket `cntrl` in it.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EADDRNOTAVAIL, EEXIST, EINVAL, ENAMETOOLONG
from pathlib import Path
from typing import Any, Protocol

from ..fabric.trid import TransportId
from ..registry import errno_error

UNLIMITED = 2**32 - 1
SOCKET_PATH_MAX = 107
KEEP_ALIVE_UNIT_MS = 100
MAX_IO_SIZE_MIN = 8192
AQ_DEPTH_MIN = 32


class Port(Protocol):
    """Something that listens."""

    def close(self) -> None: ...


ListenTcp = Callable[[socket.socket, TransportId, bool], Port]
"""Starts to accept on a bound socket; the flag says whether its connections must use TLS."""


@dataclass
class Listener:
    """A transport's listener; `users` counts the subsystems that have it."""

    trid: TransportId
    secure: bool
    port: Port
    users: int = 1


@dataclass
class TransportOptions:
    """The options of a transport, under the names of nvmf_create_transport; defaults are TCP's."""

    max_queue_depth: int = 128
    max_io_qpairs_per_ctrlr: int = 127
    in_capsule_data_size: int = 4096
    max_io_size: int = 131072
    max_aq_depth: int = 128
    iobuf_small_cache_size: int = UNLIMITED
    iobuf_large_cache_size: int = UNLIMITED
    dif_insert_or_strip: bool = False
    zcopy: bool = False
    abort_timeout_sec: int = 1
    ack_timeout: int = 0
    data_wr_pool_size: int = 0
    disable_command_passthru: bool = False
    kas: int = 100
    min_kato: int = 10000


DEFAULTS: dict[str, TransportOptions] = {
    "TCP": TransportOptions(),
    "RDMA": TransportOptions(data_wr_pool_size=4095),
    "VFIOUSER": TransportOptions(
        max_queue_depth=256,
        in_capsule_data_size=0,
        max_io_size=131072,
        max_aq_depth=32,
        iobuf_small_cache_size=0,
        iobuf_large_cache_size=0,
        abort_timeout_sec=0,
    ),
}
"""The transports the target was built with and their defaults (opts_init)."""


@dataclass
class Transport:
    """One transport of the target; `extra` are the options only its type has."""

    trtype: str
    options: TransportOptions
    extra: dict[str, Any]
    listen_tcp: ListenTcp
    listeners: dict[TransportId, Listener] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        options = vars(self.options)
        common = {name: options[name] for name in list(options)[:9]}
        rest = {name: options[name] for name in list(options)[9:]}
        return {"trtype": self.trtype, **common, **self.extra, **rest}

    def listen(self, trid: TransportId, *, secure: bool) -> None:
        """Listens, or takes over what listens there already, secure or not. Raises OSError."""
        listener = self.listeners.get(trid.canonical())
        if listener is not None:
            listener.users += 1
            return
        port = self._listen_tcp(trid, secure) if self.trtype == "TCP" else self._listen_vfio_user(trid)
        self.listeners[trid.canonical()] = Listener(trid, secure, port)

    def stop_listen(self, trid: TransportId) -> None:
        """One user less; the last one closes the listener."""
        listener = self.listeners.get(trid.canonical())
        if listener is None:
            return
        listener.users -= 1
        if not listener.users:
            listener.port.close()
            del self.listeners[trid.canonical()]

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.port.close()
        self.listeners.clear()

    def _listen_tcp(self, trid: TransportId, secure: bool) -> Port:
        return self.listen_tcp(bind_tcp(trid), trid, secure)

    def _listen_vfio_user(self, trid: TransportId) -> Port:
        if any(listener.trid.traddr == trid.traddr for listener in self.listeners.values()):
            raise errno_error(EEXIST)
        return VfioUserEndpoint(Path(trid.traddr))


class VfioUserEndpoint:
    """The socket a hypervisor would connect to."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when the socket cannot be created, for one because the folder is not there."""
        self._path = folder / "cntrl"
        if len(os.fsencode(self._path)) > SOCKET_PATH_MAX:
            raise errno_error(ENAMETOOLONG)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(os.fspath(self._path))
            self._socket.listen()
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


def bind_tcp(trid: TransportId) -> socket.socket:
    """A listening socket on a numeric address and port. Raises OSError."""
    if not trid.trsvcid.isascii() or not trid.trsvcid.isdecimal() or not 0 < int(trid.trsvcid) <= 65535:
        raise errno_error(EINVAL)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            trid.traddr.removeprefix("[").removesuffix("]") or "invalid",
            int(trid.trsvcid),
            type=socket.SOCK_STREAM,
            flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE,
        )[0]
    except socket.gaierror:
        raise errno_error(EADDRNOTAVAIL) from None
    if trid.adrfam != ("IPv6" if family == socket.AF_INET6 else "IPv4"):
        raise errno_error(EINVAL)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(512)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
