"""Forms of identifiers that several kinds check. Each raises InvalidArgument naming the field."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import uuid as uuids
import zlib

from opi_spdk_bridge import errors

_LABEL = r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NQN_DATE = re.compile(rf"nqn\.[0-9]{{4}}-(?:0[1-9]|1[0-2])\.{_LABEL}(?:\.{_LABEL})*:.+", re.DOTALL)
_NQN_UUID = re.compile(r"nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
_DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
_PSK = re.compile(rb"NVMeTLSkey-1:(00|01|02):([A-Za-z0-9+/=]+):")
_PSK_BYTES = {b"00": (32, 48), b"01": (32,), b"02": (48,)}


def nqn(value: str, field: str) -> None:
    """An NVMe Qualified Name: NVMe Base Specification 2.0, section 4.5 (1 to 223 bytes; date form or UUID form)."""
    wrong = ""
    if not 1 <= len(value.encode()) <= 223:
        wrong = f"has {len(value.encode())} bytes; an NQN has 1 to 223"
    elif value == _DISCOVERY_NQN:
        wrong = "is the discovery subsystem's name"
    elif value.startswith(_UUID_PREFIX):
        wrong = "" if _NQN_UUID.fullmatch(value) else f"does not end in a UUID after {_UUID_PREFIX}"
    elif not _NQN_DATE.fullmatch(value):
        wrong = "is not of the form nqn.YYYY-MM.reverse.domain:name or nqn.2014-08.org.nvmexpress:uuid:UUID"
    elif not value.isprintable():
        wrong = "has characters that cannot be printed"
    if wrong:
        raise errors.InvalidArgument(f"{field} {wrong}", field=field)


def sent_nqn(value: str, field: str) -> None:
    """A name that the target's initiator sends: SPDK takes any of 1 to 223 bytes (bdev_nvme_attach_controller).

    Arrays have subsystems, and know hosts, by names that `nqn` refuses, such as testnqn and nqn.2005-10.com.3par:x.
    """
    wrong = ""
    if not 1 <= len(value.encode()) <= 223:
        wrong = f"has {len(value.encode())} bytes; 1 to 223 can be sent"
    elif not value.isprintable():
        wrong = "has characters that cannot be printed"
    if wrong:
        raise errors.InvalidArgument(f"{field} {wrong}", field=field)


def remote_nqn(value: str, field: str) -> None:
    """The name of a subsystem elsewhere; not of a discovery subsystem, which SPDK tells by how the name begins."""
    sent_nqn(value, field)
    if value.startswith(_DISCOVERY_NQN):
        raise errors.InvalidArgument(f"{field} is a discovery subsystem's name: it has no volumes", field=field)


def printable_ascii(value: str, longest: int, field: str) -> None:
    """At most `longest` printable ASCII characters (NVMe Base Specification 2.0, section 1.4.2: ASCII strings)."""
    if len(value) > longest:
        raise errors.InvalidArgument(f"{field} has {len(value)} characters; at most {longest} fit", field=field)
    if not all(" " <= character <= "~" for character in value):
        raise errors.InvalidArgument(f"{field} has characters other than printable ASCII", field=field)


def uuid(value: str, field: str) -> str:
    """The canonical spelling (lower case, with dashes) of a UUID written with or without dashes."""
    if re.fullmatch(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}", value):
        parsed = uuids.UUID(value)
        if parsed.int:
            return str(parsed)
    raise errors.InvalidArgument(
        f"{field} {value[:80]!r} is not a UUID (8-4-4-4-12 hexadecimal digits, not all zero)", field=field
    )


def nguid(value: str, field: str) -> str:
    """The canonical spelling (32 upper-case hexadecimal digits) of an NGUID written with or without dashes."""
    digits = value.replace("-", "").upper()
    if re.fullmatch(r"[0-9A-F]{32}", digits) and digits.strip("0"):
        return digits
    raise errors.InvalidArgument(
        f"{field} {value[:80]!r} is not an NGUID (32 hexadecimal digits, not all zero)", field=field
    )


def psk(value: bytes, field: str) -> None:
    """A TLS pre-shared key in the interchange format (NVMe/TCP Transport Specification 1.0, section 3.6.1.5)."""
    found = _PSK.fullmatch(value)
    wrong = "is not of the form NVMeTLSkey-1:HH:BASE64:"
    if found:
        try:
            material = base64.b64decode(found[2], validate=True)
        except binascii.Error:
            material = b""
        wrong = ""
        if len(material) - 4 not in _PSK_BYTES[found[1]]:
            wrong = "has a key of the wrong length for its hash"
        elif zlib.crc32(material[:-4]) != int.from_bytes(material[-4:], "little"):
            wrong = "has a wrong checksum: it was not copied whole"
    if wrong:
        raise errors.InvalidArgument(f"{field} {wrong}", field=field)


def port(value: str, field: str) -> str:
    """The canonical spelling of a port written in decimal digits, which leading zeros do not change."""
    found = re.fullmatch(r"0*([1-9][0-9]{0,4})", value)
    if found is None or int(found[1]) > 65535:
        raise errors.InvalidArgument(f"{field} {value[:80]!r} is not a port, 1 to 65535", field=field)
    return found[1]


def address(value: str, version: int, field: str) -> str:
    """The canonical spelling of an IP address of that version (4 or 6).

    A zone (fe80::1%eth0) is refused: SPDK listens there, and then takes it for no address that it knows.
    """
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        raise errors.InvalidArgument(f"{field} {value[:80]!r} is not an IPv{version} address", field=field) from None
    if "%" in value:
        raise errors.InvalidArgument(f"{field} {value[:80]} has a zone, which the target does not know", field=field)
    if parsed.version != version:
        raise errors.InvalidArgument(f"{field} {value} is not an IPv{version} address as adrfam says", field=field)
    return str(parsed)


def within(value: int, lowest: int, highest: int, field: str, why: str = "") -> None:
    """An integer within bounds, both included; `why` is told where the upper one is no matter of course."""
    if not lowest <= value <= highest:
        reason = f": {why}" if why and value > highest else ""
        raise errors.InvalidArgument(f"{field} is {value}; it must be {lowest} to {highest}{reason}", field=field)
