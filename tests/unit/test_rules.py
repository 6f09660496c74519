from __future__ import annotations

import base64
import contextlib
import uuid
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.emulator.fabric.nqn import is_valid_nqn
from opi_spdk_bridge.kinds.shared import rules

UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"


def refused(rule: Callable[[], object], text: str = "spec.x") -> None:
    with pytest.raises(errors.InvalidArgument, match=text) as problem:
        rule()
    assert problem.value.field == "spec.x"
    assert problem.value.message.startswith("spec.x ")


@pytest.mark.parametrize(
    "nqn",
    [
        "nqn.2022-09.io.spdk:cnode1",
        "nqn.2016-06.io.spdk:cnode1:part:two",
        "nqn.2019-12.my-company.example-site.com:a",
        "nqn.2019-12.com.a-b--c:x",
        "nqn.2019-01.com." + "a" * 63 + ":x",
        "nqn.2019-12.com.example:späte Gäste",
        UUID_NQN,
        UUID_NQN.replace("f81d4fae", "F81D4FAE"),
    ],
)
def test_nqns_in_the_date_and_the_uuid_form_are_taken(nqn: str) -> None:
    rules.nqn(nqn, "spec.x")


@pytest.mark.parametrize(
    "nqn",
    [
        "nqn.2022-13.io.spdk:a", "nqn.2022-00.io.spdk:a", "nqn.22-09.io.spdk:a", "nqn.2022-9.io.spdk:a",
        "NQN.2022-09.io.spdk:a", "iqn.2022-09.io.spdk:a", "nqn.2022-09.-io.spdk:a", "nqn.2022-09.io-.spdk:a",
        "nqn.2022-09.io..spdk:a", "nqn.2022-09.io.spdk.:a", "nqn.2022-09.:a", "nqn.2022-09.io.spdk:",
        "nqn.2022-09.io_x.spdk:a", "nqn.2022-09.com." + "a" * 64 + ":x", " nqn.2022-09.io.spdk:a",
        "nqn.2022-09.io.spdk:a\n", "nqn.2022-09.io.spdk:a\x00b", "nqn", "x",
        UUID_NQN + "0", UUID_NQN[:-1], UUID_NQN.replace("-7dec-", "7dec"), UUID_NQN[:32],
    ],
)  # fmt: skip
def test_what_is_no_nqn_is_refused(nqn: str) -> None:
    refused(lambda: rules.nqn(nqn, "spec.x"))


def test_the_discovery_subsystems_name_is_refused() -> None:
    refused(lambda: rules.nqn("nqn.2014-08.org.nvmexpress.discovery", "spec.x"), "discovery")


@given(st.from_regex(r"nqn\.[0-9]{4}-[01][0-9]\.[a-zA-Z0-9.-]{0,70}:.{0,3}", fullmatch=True))
def test_what_is_taken_for_an_nqn_the_target_takes_too(nqn: str) -> None:
    with contextlib.suppress(errors.InvalidArgument):
        rules.nqn(nqn, "spec.x")
        assert is_valid_nqn(nqn)


ELSEWHERE = [
    "testnqn",
    "nqn.2005-10.com.3par:x",
    "nqn.1992-08.com.netapp:sn.1:subsystem.a",
    "x",
    "two words",
    "語" * 74 + "x",
]


@pytest.mark.parametrize("rule", [rules.sent_nqn, rules.remote_nqn])
@pytest.mark.parametrize("name", [*ELSEWHERE, "nqn.2022-13.io.spdk:a", UUID_NQN + "0"])
def test_elsewhere_any_name_that_can_be_sent_is_taken(rule: Callable[[str, str], None], name: str) -> None:
    rule(name, "spec.x")


@pytest.mark.parametrize("rule", [rules.sent_nqn, rules.remote_nqn])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "has 0 bytes"),
        ("x" * 224, "has 224 bytes"),
        ("語" * 75, "has 225 bytes"),
        ("a\nb", "printed"),
        ("a\0", "printed"),
    ],
)
def test_what_cannot_be_sent_is_refused(rule: Callable[[str, str], None], name: str, why: str) -> None:
    refused(lambda: rule(name, "spec.x"), why)


@pytest.mark.parametrize("rest", ["", ":x"])
def test_a_discovery_subsystem_elsewhere_has_no_volumes(rest: str) -> None:
    refused(lambda: rules.remote_nqn(f"nqn.2014-08.org.nvmexpress.discovery{rest}", "spec.x"), "it has no volumes")


def test_why_there_is_an_upper_bound_is_told_to_who_is_above_it() -> None:
    rules.within(9, 1, 9, "spec.x", "no room")
    refused(lambda: rules.within(10, 1, 9, "spec.x", "no room"), r"is 10; it must be 1 to 9: no room$")
    refused(lambda: rules.within(0, 1, 9, "spec.x", "no room"), r"is 0; it must be 1 to 9$")


@pytest.mark.parametrize("filler", ["a", "é", "語"])
def test_an_nqn_has_at_most_223_bytes_of_utf_8(filler: str) -> None:
    start = "nqn.2022-09.io.spdk:"
    width = len(filler.encode())
    most = (223 - len(start)) // width
    padding = "x" * (223 - len(start) - most * width)
    longest = start + padding + filler * most
    assert len(longest.encode()) == 223
    rules.nqn(longest, "spec.x")
    refused(lambda: rules.nqn(longest + "x", "spec.x"), "224 bytes")
    refused(lambda: rules.nqn("", "spec.x"), "0 bytes")


# Keys


def psk(hash_id: bytes, material: bytes, checksum: bytes | None = None) -> bytes:
    ending = zlib.crc32(material).to_bytes(4, "little") if checksum is None else checksum
    return b"NVMeTLSkey-1:" + hash_id + b":" + base64.b64encode(material + ending) + b":"


@pytest.mark.parametrize(("hash_id", "length"), [(b"00", 32), (b"00", 48), (b"01", 32), (b"02", 48)])
@given(st.data())
def test_a_psk_of_its_hashs_length_with_its_checksum_is_taken(hash_id: bytes, length: int, data: st.DataObject) -> None:
    material = data.draw(st.binary(min_size=length, max_size=length))
    rules.psk(psk(hash_id, material), "spec.x")


def test_the_key_of_the_specifications_tools_is_taken() -> None:
    rules.psk(b"NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:", "spec.x")


@pytest.mark.parametrize(("hash_id", "length"), [(b"01", 48), (b"02", 32), (b"00", 16), (b"01", 0)])
def test_a_psk_of_the_wrong_length_is_refused(hash_id: bytes, length: int) -> None:
    refused(lambda: rules.psk(psk(hash_id, b"k" * length), "spec.x"), "wrong length")


@given(st.binary(min_size=32, max_size=32), st.integers(0, 35), st.integers(1, 255))
def test_a_psk_with_a_changed_byte_is_refused(material: bytes, place: int, change: int) -> None:
    whole = bytearray(material + zlib.crc32(material).to_bytes(4, "little"))
    whole[place] ^= change
    refused(lambda: rules.psk(psk(b"01", bytes(whole[:32]), bytes(whole[32:])), "spec.x"), "checksum")


@pytest.mark.parametrize(
    "value",
    [
        b"", b"NVMeTLSkey-1:01::", b"NVMeTLSkey-1:03:AAAA:", b"NVMeTLSkey-2:01:AAAA:", b"nvmetlskey-1:01:AAAA:",
        psk(b"01", b"k" * 32)[:-1], psk(b"01", b"k" * 32) + b"x", psk(b"01", b"k" * 32) + b"\n",
        b" " + psk(b"01", b"k" * 32), b"\xff" * 40,
        psk(b"01", b"k" * 32).replace(b"a", b"!"),
    ],
)  # fmt: skip
def test_what_is_no_psk_is_refused_without_repeating_it(value: bytes) -> None:
    with pytest.raises(errors.InvalidArgument) as problem:
        rules.psk(value, "spec.x")
    assert "AAAA" not in problem.value.message


# Identifiers


@given(st.uuids(), st.booleans(), st.booleans())
def test_every_spelling_of_a_uuid_becomes_the_canonical_one(value: uuid.UUID, upper: bool, dashes: bool) -> None:
    text = str(value) if dashes else value.hex
    assert rules.uuid(text.upper() if upper else text, "spec.x") == str(value)


@pytest.mark.parametrize(
    "value", ["", "x", "f81d4fae-7dec-11d0-a765-00a0c91e6bf", "{f81d4fae-7dec-11d0-a765-00a0c91e6bf6}",
              "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "g81d4fae-7dec-11d0-a765-00a0c91e6bf6",
              "f81d4fae-7dec-11d0-a765-00a0c91e6bf6\n"],
)  # fmt: skip
def test_what_is_no_uuid_is_refused(value: str) -> None:
    refused(lambda: rules.uuid(value, "spec.x"), "8-4-4-4-12")


@given(st.uuids().filter(lambda value: value.int != 0), st.booleans(), st.booleans())
def test_every_spelling_of_an_nguid_becomes_the_canonical_one(value: uuid.UUID, upper: bool, dashes: bool) -> None:
    text = str(value) if dashes else value.hex
    assert rules.nguid(text.upper() if upper else text, "spec.x") == value.hex.upper()


@pytest.mark.parametrize("value", ["", "0" * 32, "00000000-0000-0000-0000-000000000000", "A" * 31, "A" * 33, "G" * 32])
def test_what_is_no_nguid_is_refused(value: str) -> None:
    refused(lambda: rules.nguid(value, "spec.x"), "32 hexadecimal digits")


@pytest.mark.parametrize(
    ("text", "version", "canonical"),
    [
        ("127.0.0.1", 4, "127.0.0.1"), ("::1", 6, "::1"), ("2001:DB8:0:0:0:0:0:1", 6, "2001:db8::1"),
        ("0.0.0.0", 4, "0.0.0.0"), ("0:0:0:0:0:0:0:0", 6, "::"),
    ],
)  # fmt: skip
def test_an_address_gets_its_canonical_spelling(text: str, version: int, canonical: str) -> None:
    assert rules.address(text, version, "spec.x") == canonical


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("::1", 4),
        ("127.0.0.1", 6),
        ("127.0.0", 4),
        ("127.0.0.01", 4),
        ("localhost", 4),
        ("", 4),
        ("127.0.0.1/8", 4),
        ("fe80::1%eth0", 6),
    ],
)
def test_what_is_no_address_of_the_family_is_refused(text: str, version: int) -> None:
    refused(lambda: rules.address(text, version, "spec.x"))


@given(st.integers(1, 65535), st.integers(0, 300))
def test_a_port_has_one_spelling(number: int, zeros: int) -> None:
    assert rules.port("0" * zeros + str(number), "spec.x") == str(number)


@pytest.mark.parametrize(
    "value", ["", "0", "00", "65536", "99999", "100000", "-1", "+4420", " 4420", "4420\n", "4_420", "4420.0", "0x1144",
              "٤٤٢٠", "４４２０", "1" * 5000],
)  # fmt: skip
def test_what_is_no_port_is_refused(value: str) -> None:
    refused(lambda: rules.port(value, "spec.x"), "is not a port, 1 to 65535")


def test_printable_ascii_of_the_length() -> None:
    rules.printable_ascii(" ~" * 10, 20, "spec.x")
    for wrong in ("x" * 21, "é", "a\tb", "\x7f"):
        refused(lambda wrong=wrong: rules.printable_ascii(wrong, 20, "spec.x"))  # type: ignore[misc]


@given(st.integers(-10, 20))
def test_within_includes_both_bounds(value: int) -> None:
    if 0 <= value <= 10:
        rules.within(value, 0, 10, "spec.x")
    else:
        refused(lambda: rules.within(value, 0, 10, "spec.x"), f"is {value}; it must be 0 to 10")
