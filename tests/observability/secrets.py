"""The secrets that tests use, and where a process has told one."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_PSK = re.compile(rb"NVMeTLSkey-1:0[0-2]:([A-Za-z0-9+/]{40,}=*):")
_KEY = re.compile(rb"""\bkey["']?\s*[:=]\s*["']([A-Za-z0-9+/]{42,}=*)["']""", re.IGNORECASE)
_SHORTEST = 16
_KNOWN = (bytes(range(32)), bytes(range(32, 64)), b"a-token-of-the-tests-0123456789abcdef")


def secrets_of_tests() -> dict[bytes, str]:
    """Each way in which a secret of the tests can be written, with where it comes from.

    Pre-shared keys and keys in base64 are found in the tests' own text, so that a new test is covered at once.
    """
    found: dict[bytes, str] = {}
    for path in sorted(_TESTS.rglob("*.py")):
        text = path.read_bytes()
        material = [base64.b64decode(match[1]) for match in (*_PSK.finditer(text), *_KEY.finditer(text))]
        texts = [match[0] for match in _PSK.finditer(text)]
        for secret in (*material, *texts):
            found |= dict.fromkeys(forms(secret), str(path.relative_to(_TESTS)))
    for secret in _KNOWN:
        found |= dict.fromkeys(forms(secret), "known")
    return found


def forms(secret: bytes) -> Iterator[bytes]:
    """The secret, and its halves where it may be a pair of keys (AES-XTS), in clear, base64 and hexadecimal."""
    half = len(secret) // 2
    for part in (secret, secret[:half], secret[half:]):
        if len(part) >= _SHORTEST:
            yield from (part, base64.b64encode(part).rstrip(b"="), part.hex().encode(), part.hex().upper().encode())


def told(logs: Iterable[Path], secrets: Mapping[bytes, str]) -> list[str]:
    """Which logs have which secret (as the file it comes from: what is found is not told again)."""
    return [
        f"{log} has a secret of {source}"
        for log in logs
        for text in [log.read_bytes()]
        for secret, source in secrets.items()
        if secret in text
    ]
