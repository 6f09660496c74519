"""A bridge with HTTP on an emulator, for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.web import Web, web
from tests.support.target import Emulator, emulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's own."""
    return tmp_path_factory.mktemp("observed")


@pytest.fixture(scope="module")
def near(folder: Path) -> Iterator[Emulator]:
    """The target, with a TCP transport."""
    with emulator(folder, "near") as started:
        started.rpc("nvmf_create_transport", trtype="TCP")
        yield started


@pytest.fixture(scope="module")
def observed(folder: Path, near: Emulator) -> Iterator[Web]:
    """A bridge that reads the target at each scrape and compares it every half second."""
    with web(
        folder, spdk=near.socket, state="memory:", metrics_ttl_s=0, sweep_interval_s=0.5, log_format="json"
    ) as started:
        yield started
