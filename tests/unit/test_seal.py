from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.store.seal import KEY_BYTES, MasterKey

KEY = MasterKey([b"k" * KEY_BYTES])


@given(st.text(), st.binary())
def test_what_was_sealed_opens_with_the_same_key_and_name(name: str, secret: bytes) -> None:
    assert KEY.open(name, KEY.seal(name, secret)) == secret


def test_equal_secrets_are_sealed_differently_each_time() -> None:
    assert len({KEY.seal("a", b"secret") for _ in range(50)}) == 50


def test_another_key_or_name_does_not_open_it() -> None:
    sealed = KEY.seal("a", b"secret")
    for opener, name in ((MasterKey([b"x" * KEY_BYTES]), "a"), (KEY, "b")):
        with pytest.raises(errors.FailedPrecondition, match="master key"):
            opener.open(name, sealed)


def test_during_a_rotation_the_first_key_seals_and_each_opens(tmp_path: Path) -> None:
    old, new = b"o" * KEY_BYTES, b"n" * KEY_BYTES
    path = tmp_path / "key"
    path.write_bytes(new + old)
    path.chmod(0o600)
    both = MasterKey.from_file(path)
    assert both.open("a", MasterKey([old]).seal("a", b"secret")) == b"secret"
    assert MasterKey([new]).open("a", both.seal("a", b"secret")) == b"secret"
    with pytest.raises(errors.FailedPrecondition):
        MasterKey([old]).open("a", both.seal("a", b"secret"))


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(place: int, change: int) -> None:
    sealed = bytearray(KEY.seal("a", b"secret"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(errors.FailedPrecondition):
        KEY.open("a", bytes(sealed))


@pytest.mark.parametrize("length", range(34))
def test_a_sealed_text_cut_short_is_refused(length: int) -> None:
    with pytest.raises(errors.FailedPrecondition):
        KEY.open("a", KEY.seal("a", b"secret")[:length])


def test_the_key_is_made_on_first_use_for_the_owner_only_and_is_the_same_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "state.key"
    sealed = MasterKey.from_file(path).seal("a", b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_size == KEY_BYTES
    assert MasterKey.from_file(path).open("a", sealed) == b"secret"


def test_two_keys_that_were_made_are_different(tmp_path: Path) -> None:
    for name in ("one", "two"):
        MasterKey.from_file(tmp_path / name)
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_reach_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    MasterKey.from_file(path)
    path.chmod(mode)
    with pytest.raises(errors.FailedPrecondition, match=f"chmod 0600 {path}"):
        MasterKey.from_file(path)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused_and_kept(tmp_path: Path, length: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(length))
    path.chmod(0o600)
    with pytest.raises(errors.FailedPrecondition, match=f"has {length} bytes"):
        MasterKey.from_file(path)
    assert path.stat().st_size == length


def test_a_key_that_cannot_be_read_or_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(errors.FailedPrecondition, match=str(path)):
            MasterKey.from_file(path)
