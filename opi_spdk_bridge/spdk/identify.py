"""Identify commands to a remote NVMe controller: who its namespaces are.

NVMe Base Specification 2.0, section 5.17: opcode 06h, the CNS in command dword 10. Command and data travel as URL-safe
base64 in bdev_nvme_send_cmd.
"""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from opi_spdk_bridge.spdk.client import Call

T = TypeVar("T")

DATA_BYTES = 4096
_IDENTIFY = 0x06
_NAMESPACE, _ACTIVE_NAMESPACES, _DESCRIPTORS = 0x00, 0x02, 0x03
_NGUID, _EUI64 = slice(104, 120), slice(120, 128)  # NVM Command Set: bytes of the Identify Namespace data structure
_UUID_TYPE, _UUID_BYTES = 0x03, 16  # figure 278: Namespace Identification Descriptor


@dataclass(frozen=True, slots=True)
class NamespaceData:
    """A namespace's own identities: `nguid` as 32 upper-case hexadecimal digits, "" and 0 where it has none."""

    nguid: str = ""
    eui64: int = 0
    """As the contract has it: signed."""


def namespace(controller: str, nsid: int) -> Call[NamespaceData]:
    """The Identify Namespace data structure; empty where the controller would not tell."""
    return _identify(controller, nsid, _NAMESPACE, _namespace_data)


def descriptors(controller: str, nsid: int) -> Call[str]:
    """The UUID in the namespace's identification descriptors, in lower case; "" where it has none."""
    return _identify(controller, nsid, _DESCRIPTORS, _uuid_of)


def active_namespaces(controller: str) -> Call[list[int]]:
    """The NSIDs of the namespaces that the controller shows; the first 1,024 of them."""
    return _identify(controller, 0, _ACTIVE_NAMESPACES, _nsids)


def _identify(controller: str, nsid: int, cns: int, read: Callable[[bytes], T]) -> Call[T]:
    command = struct.pack("<B3xI32xI", _IDENTIFY, nsid, cns).ljust(64, b"\0")
    params = {
        "name": controller,
        "cmd_type": "admin",
        "data_direction": "c2h",
        "cmdbuf": base64.urlsafe_b64encode(command).decode(),
        "data_len": DATA_BYTES,
    }
    return Call("bdev_nvme_send_cmd", params, lambda result: read(_data(result)))


def _data(result: Any) -> bytes:
    """The data; zeros where the completion entry has a status (bytes 14 and 15, from bit 1) other than success."""
    (status,) = struct.unpack_from("<H", base64.urlsafe_b64decode(result["cpl"]), 14)
    return bytes(DATA_BYTES) if status >> 1 else base64.urlsafe_b64decode(result["data"])


def _namespace_data(data: bytes) -> NamespaceData:
    nguid = data[_NGUID].hex().upper() if any(data[_NGUID]) else ""
    return NamespaceData(nguid, int.from_bytes(data[_EUI64], "big", signed=True))


def _uuid_of(data: bytes) -> str:
    """Descriptors follow each other: type, length, two reserved bytes, the identifier; type 0 ends them."""
    offset = 0
    while offset + 4 <= len(data) and data[offset]:
        kind, length = data[offset], data[offset + 1]
        if kind == _UUID_TYPE and length == _UUID_BYTES:
            found = uuid.UUID(bytes=data[offset + 4 : offset + 4 + length])
            return str(found) if found.int else ""
        offset += 4 + length
    return ""


def _nsids(data: bytes) -> list[int]:
    return [nsid for (nsid,) in struct.iter_unpack("<I", data) if nsid]
