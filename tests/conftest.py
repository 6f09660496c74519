"""Fixtures: a target and a bridge on it, both processes of their own, clean for each test.

By default targets are emulators. `make test-spdk SPDK=… SPDK_FAR=…` has the same tests run on real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.observability.secrets import secrets_of_tests, told
from tests.support.bridge import Bridge, bridge
from tests.support.clock import Clock
from tests.support.program import keep_in
from tests.support.target import Emulator, Target, emulator, real_target

settings.register_profile("suite", deadline=None, print_blob=True)  # how long an example takes is not what is tested
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _no_process_tells_a_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Looks, after everything else has ended, into whatever the program has printed in the session."""
    keep_in(tmp_path_factory.mktemp("printed"))
    yield
    leaks = told(tmp_path_factory.getbasetemp().rglob("*.log"), secrets_of_tests())
    assert not leaks, leaks


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The monotonic clock of this process, to be moved on."""
    return Clock(monkeypatch)


@pytest.fixture(scope="session")
def shared_emulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Emulator]]:
    """Emulators that tests share, by role; started when first asked for."""
    folder = tmp_path_factory.mktemp("targets")
    started: dict[str, Emulator] = {}
    yield _Started(folder, started)
    for target in started.values():
        target.kill()


class _Started(dict[str, Emulator]):
    def __init__(self, folder: Path, started: dict[str, Emulator]) -> None:
        super().__init__()
        self._folder = folder
        self._started = started

    def __missing__(self, role: str) -> Emulator:
        if role not in self._started:
            self._started[role] = Emulator(self._folder, role)
            self._started[role].start()
        return self._started[role]


def _target(role: str, variable: str, shared: dict[str, Emulator]) -> Iterator[Target]:
    target = real_target(variable) or shared[role]
    target.clean()
    if not target.rpc("nvmf_get_transports"):
        target.rpc("nvmf_create_transport", trtype="TCP")
    yield target
    target.clean()


@pytest.fixture
def target(shared_emulators: dict[str, Emulator]) -> Iterator[Target]:
    """A target with nothing on it: real where SPDK is set, else emulated."""
    yield from _target("near", "SPDK", shared_emulators)


@pytest.fixture
def far(shared_emulators: dict[str, Emulator]) -> Iterator[Target]:
    """A second target, the remote array: real where SPDK_FAR is set, else emulated."""
    if real_target("SPDK") and not real_target("SPDK_FAR"):
        pytest.skip("needs a second real target: SPDK_FAR is not set")
    yield from _target("far", "SPDK_FAR", shared_emulators)


@pytest.fixture
def spdk(tmp_path: Path) -> Iterator[Emulator]:
    """An emulator of the test's own, to kill, restart and disturb."""
    if real_target("SPDK"):
        pytest.skip("needs a target that can be killed and disturbed: an emulated one")
    with emulator(tmp_path) as own:
        yield own


@pytest.fixture
def opi(tmp_path: Path, target: Target) -> Iterator[Bridge]:
    """A bridge on `target`, its state in a file."""
    with bridge(tmp_path, spdk=target.socket, state=f"sqlite:{tmp_path}/state.sqlite") as daemon:
        yield daemon


@pytest.fixture
def own(tmp_path: Path, spdk: Emulator) -> Iterator[Bridge]:
    """A bridge on `spdk`, its state in a file."""
    with bridge(tmp_path, spdk=spdk.socket, state=f"sqlite:{tmp_path}/state.sqlite") as daemon:
        yield daemon
