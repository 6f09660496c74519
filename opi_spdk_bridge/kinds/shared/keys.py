"""TLS keys of hosts: a name for each in the target's keyring, chosen before the first call."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Own


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed(Own):
    """Of a resource that may have a key."""

    psk_key: str = ""
    """The name of the key in the target's keyring and of its file; "" without a key."""


def key_name(psk: bytes, before: Keyed | None, psk_before: bytes) -> str:
    """The name for a key; the one before it where it is the same key."""
    if not psk:
        return ""
    return before.psk_key if before is not None and psk == psk_before else f"opi-{uuid.uuid4().hex}"


def stripped(psk: bytes, field: str) -> bytes:
    """A key as clients give it without the white space around it, such as the newline at the end of a key's file.

    Raises InvalidArgument where nothing is left: that asks for no key by mistake.
    """
    if psk and not psk.strip():
        raise errors.InvalidArgument(f"{field} is nothing but white space: leave it out for no key", field=field)
    return psk.strip()
