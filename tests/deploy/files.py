"""The deployed files, read."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click import Option

from opi_spdk_bridge.cli import main as cli
from opi_spdk_bridge.daemon.settings import Settings
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
GRAFANA = DOCKER / "grafana"
KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD = ROOT / "deploy" / "systemd"
WORKFLOWS = ROOT / ".github" / "workflows"

yaml: Any = importlib.import_module("yaml")  # has no types


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def document(path: Path) -> Any:
    """The one document of a YAML file."""
    (only,) = documents(path)
    return only


def settings_of(path: Path) -> Settings:
    """The settings of a TOML file, as `serve --config` reads them."""
    given: dict[str, Any] = {"config": path}
    return Settings(**given)


def tool(name: str, why: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: {why}")
    return found


def output_of(*command: str, timeout_s: float = PATIENCE_S) -> str:
    """What a program prints; fails with it where the program does."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def require_accepted(arguments: list[str]) -> None:
    """Fails unless the program takes this command line (everything after its name)."""
    command = cli.main.commands[arguments[0]]
    known = {flag: option for option in command.params if isinstance(option, Option) for flag in option.opts}
    rest = iter(arguments[1:])
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        assert flag in known, f"{arguments[0]} has no {flag}"
        if not known[flag].is_flag and not equals:
            next(rest)


def containers(pod: Any) -> Iterator[Any]:
    """All containers of a pod's specification."""
    yield from pod.get("initContainers", [])
    yield from pod["containers"]
