"""The workflows and the project's papers: what they run and name exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DOCKER, ROOT, WORKFLOWS, document

FILES = sorted(WORKFLOWS.glob("*.yaml"))
PAPERS = [
    ROOT / name for name in ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/deploy.md", "docs/kubernetes.md")
]


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of all jobs."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
class TestWorkflows:
    def test_they_may_only_read_unless_a_job_says_more(self, path: Path) -> None:
        assert document(path)["permissions"] == {"contents": "read"}

    def test_every_job_ends(self, path: Path) -> None:
        assert all(0 < job["timeout-minutes"] <= 90 for job in document(path)["jobs"].values())

    def test_actions_are_of_a_commit_and_checkouts_keep_no_token(self, path: Path) -> None:
        lines = re.findall(r"uses: (.+)", path.read_text())
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line) for line in lines), lines
        for step in steps(document(path)):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False

    def test_no_expression_of_a_pull_request_gets_into_a_shell(self, path: Path) -> None:
        for step in steps(document(path)):
            found = re.findall(r"\$\{\{\s*([\w.]+)", step.get("run", ""))
            assert set(found) <= {"matrix.target"}


def runs() -> str:
    return "\n".join(step.get("run", "") for path in FILES for step in steps(document(path)))


def test_ci_is_what_everybody_runs() -> None:
    assert ".ci/run" in runs()
    assert (ROOT / ".ci" / "run").exists()


def test_targets_of_make_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    papers = "\n".join(paper.read_text() for paper in PAPERS)
    assert (
        set(re.findall(r"`make ([a-z-]+)", papers)) | set(re.findall(r"^make ([a-z-]+)", runs(), re.MULTILINE))
        <= targets
    )


def test_profiles_that_are_named_exist() -> None:
    profiles = {
        profile for service in document(DOCKER / "compose.yaml")["services"].values() for profile in service["profiles"]
    }
    papers = "\n".join(paper.read_text() for paper in PAPERS)
    assert set(re.findall(r"--profile ([a-z]+)", papers + runs())) <= profiles


def test_the_image_is_built_for_both_architectures() -> None:
    platforms = [
        step["with"]["platforms"]
        for step in steps(document(WORKFLOWS / "image.yaml"))
        if "platforms" in step.get("with", {})
    ]
    assert platforms == ["linux/amd64,linux/arm64"]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_links_lead_somewhere(paper: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]+`(?!\])", "", paper.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        assert link.startswith("https://") or (paper.parent / link).exists(), link


def test_the_guide_to_a_new_kind_names_what_there_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:opi_spdk_bridge|tests|docs)/[\w/]+\.\w+)`", text):
        assert (ROOT / path).exists() or "foo_volume" in path, path
    package = ROOT / "opi_spdk_bridge"
    code = "".join(file.read_text() for folder in (package, ROOT / "tests") for file in folder.rglob("*.py"))
    for name in re.findall(r"`(_?[A-Z]{2,})`", text):
        assert re.search(rf"^{name}\b.* = ", code, re.MULTILINE), name
    bases = "".join((package / file).read_text() for file in ("core/kind.py", "core/side.py", "targets/spdk/base.py"))
    table = text[text.index("| say | where |") : text.index("A `Step` is")]
    for name in re.findall(r"`([a-z_]+)`", table):
        assert re.search(rf"(def {name}\(|^    {name}: ClassVar)", bases, re.MULTILINE), name
