"""A pair of targets for each module of client flows: the near one that the bridge works on, and an array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.array import Array, ensure_tcp, set_up_array
from tests.support.target import Emulator, Target, real_target

PACE_MS = 4.0
"""The pace of a real target: it looks at its sockets so often."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's own folder."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def paced(folder: Path) -> Iterator[Target]:
    """The near target, at a real one's pace, with a TCP transport and nothing else."""
    yield from _paced("near", "SPDK", folder)


@pytest.fixture(scope="module")
def paced_far(folder: Path) -> Iterator[Target]:
    """The far target, at a real one's pace."""
    if real_target("SPDK") and not real_target("SPDK_FAR"):
        pytest.skip("needs a second real target: SPDK_FAR is not set")
    yield from _paced("far", "SPDK_FAR", folder)


@pytest.fixture(scope="module")
def array(paced_far: Target, folder: Path) -> Array:
    """The far target as the array that clients attach."""
    return set_up_array(paced_far, folder)


def _paced(role: str, variable: str, folder: Path) -> Iterator[Target]:
    real = real_target(variable)
    target = real or Emulator(folder, role, poll_interval_ms=PACE_MS)
    if isinstance(target, Emulator):
        target.start()
    target.clean()
    ensure_tcp(target)
    yield target
    if isinstance(target, Emulator):
        target.kill()
    else:
        target.clean()
