"""The check at the end of every session finds what it is there to find."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.observability.secrets import secrets_of_tests, told
from tests.support.array import TEST_PSK
from tests.support.program import program

KEY = bytes(range(32))


@pytest.mark.parametrize(
    "text",
    [
        TEST_PSK,
        base64.b64encode(TEST_PSK),
        TEST_PSK.hex().encode(),
        TEST_PSK.split(b":")[2],
        KEY,
        base64.b64encode(KEY),
        KEY.hex().upper().encode(),
        KEY[:16].hex().encode(),
        KEY[16:].hex().encode(),
    ],
)
def test_a_log_that_has_a_secret_is_named(tmp_path: Path, text: bytes) -> None:
    log = tmp_path / "printed"
    log.write_bytes(b'{"event": "x", "key": "' + text + b'"}\n')
    (first, *_) = told([log], secrets_of_tests())
    assert first.startswith(f"{log} has a secret of ")
    assert text.decode(errors="replace") not in first


def test_a_log_without_one_is_not(tmp_path: Path) -> None:
    log = tmp_path / "printed"
    log.write_text('{"event": "request", "resource": "encryptedVolumes/e0", "key": "[secret]"}\n')
    assert told([log], secrets_of_tests()) == []


def test_nobody_starts_the_program_past_the_one_place_that_keeps_what_it_prints() -> None:
    tests = Path(__file__).parents[1]
    starts = re.compile(r"""["']-m["'], *["']opi_spdk_bridge["']""")
    found = [path.relative_to(tests) for path in tests.rglob("*.py") if starts.search(path.read_text())]
    assert found == [Path("support/program.py")]


@pytest.mark.parametrize("asked_for", [False, True])
def test_what_the_program_prints_is_kept_but_for_secrets_that_were_asked_for(
    tmp_path_factory: pytest.TempPathFactory, asked_for: bool
) -> None:
    before = set(_kept(tmp_path_factory))
    printed = program("state", "export", *(["--with-secrets"] if asked_for else []), "--help").stdout
    (kept,) = set(_kept(tmp_path_factory)) - before
    assert "Write the desired state" in printed
    assert kept.read_text() == ("" if asked_for else printed)


def _kept(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Path]:
    return tmp_path_factory.getbasetemp().rglob("*.log")


def test_the_secrets_of_several_suites_are_known() -> None:
    assert len(set(secrets_of_tests().values())) > 5
