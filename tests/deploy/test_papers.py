"""The documents' claims name tests: those exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.deploy.files import ROOT

TESTS = ROOT / "tests"
PAPERS = sorted((ROOT / "docs").glob("*.md"))
_NAMED = re.compile(r"`(?P<file>(?:tests/)?(?:\w+/)*\w+\.py)(?:::(?P<part>\w+))?`|`(?P<test>test_\w+…?)`")


@cache
def defined() -> dict[Path, set[str]]:
    """The functions and classes of each file of the tests."""
    return {
        path.relative_to(TESTS): set(re.findall(r"^ *(?:async )?(?:def|class) (\w+)", path.read_text(), re.MULTILINE))
        for path in TESTS.rglob("*.py")
    }


def named(paper: Path) -> list[re.Match[str]]:
    """What a paper names of the tests."""
    found = _NAMED.finditer(paper.read_text())
    return [match for match in found if match["test"] or re.search(r"(^|/)test_|^tests/", match["file"])]


def missing(match: re.Match[str]) -> bool:
    """Whether there is no such file, no such class or function in it, or no test that begins so."""
    if match["test"]:
        begins, rest = match["test"].removesuffix("…"), match["test"].endswith("…")
        names = set().union(*defined().values())
        return not any(name == begins or (rest and name.startswith(begins)) for name in names)
    wanted = Path(match["file"].removeprefix("tests/"))
    files = [path for path in defined() if path == wanted or path.name == str(wanted)]
    return not any(match["part"] is None or match["part"] in defined()[path] for path in files)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_tests_that_are_named_exist(paper: Path) -> None:
    assert [match[0] for match in named(paper) if missing(match)] == []


def test_every_claim_about_security_names_a_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    claims = text[text.index("| claim | test |") : text.index("## Limits")].splitlines()[2:]
    rows = [line.split(" | ") for line in claims if line.startswith("|")]
    assert len(rows) >= 20
    assert [claim for claim, *tests in rows if not _NAMED.search("".join(tests))] == []


@pytest.mark.parametrize(
    "lie", ["`tests/security/test_gone.py`", "`test_tls.py::TestGone`", "`test_a_lie…`", "`test_tls`"]
)
def test_a_test_that_does_not_exist_is_found_missing(lie: str) -> None:
    match = _NAMED.search(lie)
    assert match is not None
    assert missing(match)
