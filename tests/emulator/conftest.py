"""Emulated targets for tests."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.emulated import Client, EmulatedTarget, run_target

StartTarget = Callable[..., EmulatedTarget]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A scratch folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="emu") as name:
        yield Path(name)


@pytest.fixture
def start_target(folder: Path) -> Iterator[StartTarget]:
    """Starts targets: `start_target(name, **options)`."""
    with contextlib.ExitStack() as stack:

        def start(name: str = "target", **options: Any) -> EmulatedTarget:
            return stack.enter_context(run_target(folder, name, **options))

        yield start


@pytest.fixture
def target(start_target: StartTarget) -> EmulatedTarget:
    return start_target()


@pytest.fixture
def client(target: EmulatedTarget) -> Client:
    return target.client
