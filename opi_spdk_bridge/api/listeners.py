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

_DEFAULT_MODE = 0o660
_MODE = re.compile(r"0?[0-7]{3}")
_CONNECT_S = 1.0


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
        return cls(address, given.get("identity", ""), int(mode, 8))

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
        """Removes the socket that a bridge before left; raises Unavailable when one is still listening there."""
        path = self.path
        if path is None or not path.exists():
            return
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise errors.Unavailable(f"cannot listen on {path}: it is there, and no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_S)
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                path.unlink()
                return
        raise errors.Unavailable(f"cannot listen on {path}: another program does")  # also one that may not be asked

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
