"""Where the bridge listens: host:port, or unix:PATH[,identity=NAME][,mode=0660]."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opi_spdk_bridge import errors
from opi_spdk_bridge.sockets import too_long, why_not_bound

_DEFAULT_MODE = 0o660
_MODE = re.compile(r"0?[0-7]{3}")
_CONNECT_S = 1.0
_BACKLOG = 1024  # connections that wait to be accepted


class CannotListen(errors.Unavailable):
    """Nobody can listen at the address, or another program does; the text says why."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"cannot listen on {address}: {why}")


_OF_PORTS = {
    errno.EADDRINUSE: "another program has that port",
    errno.EADDRNOTAVAIL: "the address is not one of this machine's",
    errno.EACCES: f"uid {os.geteuid()} may not have that port",
}


@dataclass(frozen=True, slots=True)
class Listener:
    """One address. `identity` is what a policy knows the callers of a Unix listener by; `mode` is its file's."""

    address: str
    identity: str = ""
    mode: int = _DEFAULT_MODE

    @classmethod
    def parse(cls, text: str) -> Listener:
        """Reads an address; raises InvalidArgument."""
        address, *options = text.split(",")
        if not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            if options or not host or not port.isdigit() or int(port) > 65535:
                wanted = "host:port or unix:PATH[,identity=NAME][,mode=0660]"
                raise errors.InvalidArgument(f"{text!r} is no address to listen on; it looks like {wanted}")
            return cls(address)
        given = dict(option.partition("=")[::2] for option in options)
        if set(given) - {"identity", "mode"} or not address.removeprefix("unix:"):
            raise errors.InvalidArgument(f"{text!r}: a Unix listener takes a path, identity=NAME and mode=0660")
        mode = given.get("mode", f"{_DEFAULT_MODE:o}")
        if not _MODE.fullmatch(mode):
            raise errors.InvalidArgument(f"{text!r}: mode is an octal number such as 0660")
        listener = cls(address, given.get("identity", ""), int(mode, 8))
        if listener.path is not None and (problem := too_long(listener.path)):
            raise errors.InvalidArgument(f"{text!r}: {problem}")
        return listener

    @property
    def path(self) -> Path | None:
        """The socket's file, for Unix listeners."""
        return Path(self.address.removeprefix("unix:")).absolute() if self.address.startswith("unix:") else None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None:
            return True
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def make_way(self) -> None:
        """Removes the socket that a bridge before left; raises CannotListen when one is still listening there."""
        path = self.path
        if path is None:
            return
        try:
            found = path.stat()
        except OSError as problem:
            if problem.errno == errno.ENOENT and path.parent.is_dir():
                return
            raise CannotListen(self.address, why_not_bound(path, problem)) from None
        if not stat.S_ISSOCK(found.st_mode):
            raise CannotListen(self.address, "it is there, and no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_S)
            refused = probe.connect_ex(str(path)) == errno.ECONNREFUSED
        if not refused:
            raise CannotListen(self.address, "another program does")  # also one that may not be asked
        try:
            path.unlink()
        except OSError as problem:
            raise CannotListen(self.address, why_not_bound(path, problem)) from None

    def bound(self) -> socket.socket:
        """A socket that listens there; raises CannotListen."""
        try:
            if self.path is not None:
                return socket.create_server(str(self.path), family=socket.AF_UNIX, backlog=_BACKLOG)
            host, _, port = self.address.rpartition(":")
            found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            family, _, _, _, place = found[0]
            return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
        except (OSError, UnicodeError) as problem:  # the latter for what is no host's name
            raise CannotListen(self.address, self._why(problem)) from None

    def refused(self, otherwise: str) -> CannotListen:
        """Why another way to listen there failed: what this one says, or `otherwise` where it succeeds."""
        try:
            self.bound().close()
        except CannotListen as problem:
            return problem
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        return CannotListen(self.address, otherwise)

    def _why(self, problem: OSError | UnicodeError) -> str:
        if not isinstance(problem, OSError) or isinstance(problem, socket.gaierror):
            return f"there is no such host or port ({problem})"
        if self.path is not None:
            return why_not_bound(self.path, problem)
        return _OF_PORTS.get(problem.errno or 0, problem.strerror or str(problem))

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """A socket bound inside is nobody's but the owner's until `let_in`."""
        mask = os.umask(0o177) if self.path is not None else None
        try:
            yield
        finally:
            if mask is not None:
                os.umask(mask)

    def let_in(self) -> None:
        """Sets who may connect: the file's mode."""
        if self.path is not None:
            os.chmod(self.path, self.mode)


def exposed(listeners: Sequence[Listener], encrypted: bool) -> list[str]:
    """The addresses at which other machines could listen in on keys and change storage."""
    return [] if encrypted else [listener.address for listener in listeners if not listener.is_local]
