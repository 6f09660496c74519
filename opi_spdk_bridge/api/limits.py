"""What clients may take up, and fields that are too long."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from opi_spdk_bridge import errors

log = logging.getLogger(__name__)
_OTHER_FILES = 256  # that are no connections of clients
_TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of everything; times in seconds."""

    requests: int = 1024
    """At work at once."""
    requests_of_peer: int = 512
    """Of them, those of one address."""
    request_s: float = 60.0
    """The deadline of requests that bring none, or a later one."""
    message_bytes: int = 4 << 20
    field_bytes: int = 4096
    """A text or bytes in a message, in UTF-8; also the items of a list."""
    connections: int = 2048
    """Open ones of one listener."""


def allow_files(connections: int) -> None:
    """Lets the process have as many files open as so many connections need, or as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if allowed < needed:
        log.warning("at most %d files may be open (ulimit -Hn): connections (--max-connections) need more", allowed)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def require_short(message: Message, most: int) -> None:
    """Raises InvalidArgument naming the first field that is longer than `most` bytes, or has more items."""
    if message.ByteSize() > most:  # else no field can be
        _require_short(message, most, "")


def _require_short(message: Message, most: int, prefix: str) -> None:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.is_repeated and len(value) > most:
            raise errors.InvalidArgument(f"{path} has {len(value)} items; {most} are the most", field=path)
        items: Iterable[Any] = value if field.is_repeated else (value,)
        for item in items:
            if field.message_type is not None:
                _require_short(item, most, f"{path}.")
            elif field.type in _TEXT and (length := _bytes(item)) > most:
                raise errors.InvalidArgument(f"{path} is {length} bytes long; {most} are the most", field=path)


def _bytes(value: str | bytes) -> int:
    return len(value.encode() if isinstance(value, str) else value)
