"""The check at the end of every session finds what it is there to find."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.observability.secrets import secrets_of_tests, told
from tests.support.array import TEST_PSK

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


def test_the_secrets_of_several_suites_are_known() -> None:
    assert len(set(secrets_of_tests().values())) > 5
