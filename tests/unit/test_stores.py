# ruff: noqa: ASYNC240 - a test may wait for the disk
"""One contract for every store, then what the SQLite file promises beyond it."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from opi_spdk_bridge import errors
from opi_spdk_bridge.store.base import Change, Row, Store
from opi_spdk_bridge.store.memory import MemoryStore
from opi_spdk_bridge.store.seal import MasterKey, SealedStore
from opi_spdk_bridge.store.sqlite import SqliteStore
from tests.support.patience import PATIENCE_S, until

KEY = MasterKey([bytes(range(32))])


def row(name: str, revision: int = 1, **more: bytes | None) -> Row:
    columns = {"desired": b"\x00\xff", "previous": None, "facts": b'{"a":1}', "secrets": b"secret", **more}
    return Row(name, "nullVolume", "ready", revision, created_at=1.25, updated_at=2.5, **columns)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "sqlite", "sealed sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Makes a store over the same medium each time (for memory: the same store)."""
    path = tmp_path / "folder" / "state.sqlite"
    memory = MemoryStore()
    makers: dict[str, Callable[[], Store]] = {
        "memory": lambda: memory,
        "sqlite": lambda: SqliteStore(path),
        "sealed sqlite": lambda: SealedStore(SqliteStore(path), KEY),
    }
    return makers[request.param]


@pytest.fixture
async def store(make: Callable[[], Store]) -> AsyncIterator[Store]:
    made = make()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "state.sqlite")
    await made.open()
    yield made
    await made.close()


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.load() == []
    assert await store.get_setting("target") is None


@pytest.mark.parametrize("previous", [None, b"", b"before"])
@pytest.mark.parametrize("secrets", [b"", b"secret\x00"])
async def test_a_row_comes_back_column_by_column(store: Store, previous: bytes | None, secrets: bytes) -> None:
    given = row("nullVolumes/a", 7, previous=previous, secrets=secrets)
    await store.commit([given])
    assert await store.load() == [given]


async def test_a_put_replaces_the_row_of_that_name(store: Store) -> None:
    await store.commit([row("a", 1), row("b", 1)])
    await store.commit([row("a", 2)])
    assert sorted((one.name, one.revision) for one in await store.load()) == [("a", 2), ("b", 1)]


async def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    await store.commit([row("a")])
    await store.commit([], ["a", "never"])
    assert await store.load() == []


async def test_puts_and_deletes_of_one_commit_are_applied_together(store: Store) -> None:
    await store.commit([row("a")])
    await store.commit([row("b")], ["a"])
    assert [one.name for one in await store.load()] == ["b"]


async def test_a_row_that_is_deleted_and_put_in_one_commit_is_put(store: Store) -> None:
    await store.commit([row("a", 1)])
    await store.commit([row("a", 2)], ["a"])
    assert [one.revision for one in await store.load()] == [2]


async def test_commits_take_effect_in_the_order_of_their_calls(store: Store) -> None:
    changes = [store.commit([row("a", number)]) if number % 3 else store.commit([], ["a"]) for number in range(1, 60)]
    await asyncio.gather(*changes)
    assert [one.revision for one in await store.load()] == [59]


async def test_many_concurrent_commits_are_all_kept(store: Store, make: Callable[[], Store]) -> None:
    await asyncio.gather(*(store.commit([row(f"n{number:03}")]) for number in range(300)))
    assert sorted(one.name for one in await store.load()) == [f"n{number:03}" for number in range(300)]


async def test_what_was_committed_is_there_after_reopening(make: Callable[[], Store]) -> None:
    first = make()
    await first.open()
    await first.commit([row("a"), row("b")], [])
    await first.commit([], ["b"])
    await first.put_setting("target", "/var/tmp/spdk.sock")
    await first.close()
    second = make()
    await second.open()
    try:
        assert await second.load() == [row("a")]
        assert await second.get_setting("target") == "/var/tmp/spdk.sock"
    finally:
        await second.close()


async def test_a_setting_is_replaced(store: Store) -> None:
    await store.put_setting("target", "one")
    await store.put_setting("target", "two")
    assert await store.get_setting("target") == "two"


@pytest.mark.parametrize("turns", range(4))
async def test_a_commit_whose_caller_went_away_spoils_nothing(store: Store, turns: int) -> None:
    gone = asyncio.create_task(store.commit([row("a", 1)]))
    for _ in range(turns):
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    await store.commit([row("b")])
    found = {one.name for one in await store.load()}
    assert "b" in found
    assert found <= {"a", "b"}


async def test_the_address_is_what_state_takes(make: Callable[[], Store], tmp_path: Path) -> None:
    store = make()
    assert store.address in ("memory:", f"sqlite:{tmp_path}/folder/state.sqlite")


# The SQLite file


async def test_concurrent_commits_share_transactions(file: SqliteStore) -> None:
    began: list[str] = []

    def trace(statement: str) -> None:
        if statement.startswith("BEGIN"):
            began.append(statement)

    assert file._connection is not None
    file._connection.set_trace_callback(trace)
    await asyncio.gather(*(file.commit([row(f"n{number}")]) for number in range(200)))
    assert len(began) <= 3


async def test_a_commit_is_on_the_disk_when_it_returns(file: SqliteStore, tmp_path: Path) -> None:
    await file.commit([row("a")])
    with sqlite3.connect(tmp_path / "state.sqlite") as other:
        assert other.execute("SELECT name FROM records").fetchall() == [("a",)]
    other.close()
    assert file._connection is not None
    assert file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Stands between the store and the disk."""
    made = Disk()
    monkeypatch.setattr(os, "fdatasync", made.sync)
    yield made
    made.answers.set()


class Disk:
    """Syncs for real, but only while `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.broken = False
        self.synced: list[str] = []
        self._sync = os.fdatasync

    def sync(self, descriptor: int) -> None:
        self.answers.wait()
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self._sync(descriptor)
        self.synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))


async def until_written(file: SqliteStore, rows: int) -> None:
    """Waits until a reader finds so many rows, whether or not they are on the disk."""

    async def found() -> bool:
        return len(await file.load()) == rows

    await until(found)


async def test_a_commit_waits_for_the_disk_and_a_write_does_not(file: SqliteStore, disk: Disk, tmp_path: Path) -> None:
    await asyncio.wait_for(file.write(Change([row("a")])), PATIENCE_S)
    durable = file.sync()
    commit = asyncio.create_task(file.commit([row("b")]))
    await until_written(file, 2)
    for _ in range(10):  # a commit that waited for nobody would have ended by now
        await file.load()
    assert not durable.done()
    assert not commit.done()
    assert sorted(one.name for one in await file.load()) == ["a", "b"], "they survive the process by now"
    disk.answers.set()
    await asyncio.wait_for(asyncio.gather(durable, commit), PATIENCE_S)
    assert set(disk.synced) == {f"{tmp_path}/state.sqlite-wal"}


async def test_many_writes_share_syncs(file: SqliteStore, disk: Disk) -> None:
    commits = [asyncio.create_task(file.commit([row(f"n{number}")])) for number in range(50)]
    await until_written(file, 50)
    disk.answers.set()
    await asyncio.wait_for(asyncio.gather(*commits), PATIENCE_S)
    assert len(disk.synced) <= 2


async def test_a_sync_that_fails_says_so(file: SqliteStore, disk: Disk) -> None:
    disk.broken = True
    await file.write(Change([row("a")]))
    disk.answers.set()
    with pytest.raises(errors.Unavailable, match="Input/output error"):
        await asyncio.wait_for(file.sync(), PATIENCE_S)
    disk.broken = False
    await asyncio.wait_for(file.commit([row("b")]), PATIENCE_S)


async def test_the_file_and_its_folder_are_for_the_owner_only(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "new" / "state.sqlite")
    await store.open()
    await store.commit([row("a")])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    await store.close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert set(modes) >= {"state.sqlite", "state.sqlite-wal", "state.sqlite.lock"}
    assert set(modes.values()) == {0o600}


async def test_a_second_process_is_told_that_the_state_is_taken(file: SqliteStore, tmp_path: Path) -> None:
    program = """
import asyncio, pathlib, sys
from opi_spdk_bridge import errors
from opi_spdk_bridge.store.sqlite import SqliteStore
try:
    asyncio.run(SqliteStore(pathlib.Path(sys.argv[1])).open())
except errors.FailedPrecondition as problem:
    print(problem)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "state.sqlite")]
    told = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "another bridge has the state file" in told.stdout, told.stderr


async def test_the_state_can_be_opened_again_once_it_was_closed(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path / "state.sqlite"), SqliteStore(tmp_path / "state.sqlite")
    await first.open()
    with pytest.raises(errors.FailedPrecondition):
        await second.open()
    await first.close()
    third = SqliteStore(tmp_path / "state.sqlite")
    await third.open()
    await third.close()
    await second.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
async def test_a_damaged_file_is_refused_saying_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(content)
    store = SqliteStore(path)
    with pytest.raises(errors.FailedPrecondition, match=r"damaged.*Put back a copy"):
        await store.open()
    assert path.read_bytes() == content, "left as it was, for whoever rescues it"
    await store.close()


async def test_a_page_damaged_in_the_middle_is_noticed_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    await store.open()
    await store.commit([row(f"n{number}", desired=b"x" * 500) for number in range(100)])
    await store.close()
    whole = bytearray(path.read_bytes())
    whole[8192:8292] = b"\xa5" * 100
    path.write_bytes(bytes(whole))
    store = SqliteStore(path)
    with pytest.raises(errors.FailedPrecondition, match="damaged"):
        await store.open()
    await store.close()


async def test_a_file_of_a_newer_bridge_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = SqliteStore(path)
    with pytest.raises(errors.FailedPrecondition, match=r"newer bridge.*99"):
        await store.open()
    await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    connection.close()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SqliteStore(tmp_path / "file" / "state.sqlite")
    with pytest.raises(errors.Unavailable, match=r"file/state\.sqlite"):
        await store.open()
    await store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    store = SqliteStore(tmp_path / "state.sqlite")
    with pytest.raises(errors.Unavailable, match=r"state\.sqlite"):
        await store.open()
    await store.close()
    tmp_path.chmod(0o700)


async def test_a_failed_opening_lets_go_of_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.mkdir()
    store = SqliteStore(path)
    with pytest.raises(errors.BridgeError):
        await store.open()
    path.rmdir()
    again = SqliteStore(path)
    try:
        await again.open()
    finally:
        await again.close()
        await store.close()


async def test_a_file_that_another_program_has_locked_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.sqlite"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, timeout=0.0))
    store = SqliteStore(path)
    try:
        with pytest.raises(errors.BridgeError, match="locked") as refused:
            await store.open()
    finally:
        other.close()
        await store.close()
    assert "damaged" not in refused.value.message
    assert "move it away" not in refused.value.message


async def test_a_commit_to_a_closed_store_fails(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.sqlite")
    await store.open()
    await store.close()
    with pytest.raises(errors.Unavailable):
        await asyncio.wait_for(store.commit([row("a")]), PATIENCE_S)


async def test_a_row_that_cannot_be_written_fails_its_commit_and_no_later_one(file: SqliteStore) -> None:
    unwritable = replace(row("a"), kind="\ud800")
    outcome = (await asyncio.gather(asyncio.wait_for(file.commit([unwritable]), PATIENCE_S), return_exceptions=True))[0]
    assert isinstance(outcome, Exception)
    assert not isinstance(outcome, TimeoutError), "it says so"
    await asyncio.wait_for(file.commit([row("b")]), PATIENCE_S)
    assert [one.name for one in await file.load()] == ["b"]


async def test_a_failed_transaction_fails_its_commits_and_no_later_one(file: SqliteStore) -> None:
    assert file._connection is not None
    file._connection.execute("CREATE TRIGGER no BEFORE INSERT ON records WHEN new.name = 'bad' BEGIN"
                             " SELECT RAISE(ABORT, 'disk is full'); END")  # fmt: skip
    with pytest.raises(errors.Unavailable, match="disk is full"):
        await file.commit([row("good"), row("bad")])
    assert await file.load() == [], "all of a commit or nothing"
    await file.commit([row("good")])
    assert [one.name for one in await file.load()] == ["good"]


# Sealed


async def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
    store = SealedStore(SqliteStore(tmp_path / "state.sqlite"), KEY)
    await store.open()
    await store.commit([row("a", secrets=b"a-very-secret-secret")])
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    await store.close()
    content += (tmp_path / "state.sqlite").read_bytes()
    assert b"nullVolume" in content
    assert b"a-very-secret-secret" not in content


async def test_another_key_is_refused_at_loading(tmp_path: Path) -> None:
    file = SqliteStore(tmp_path / "state.sqlite")
    await file.open()
    await SealedStore(file, KEY).commit([row("a")])
    with pytest.raises(errors.FailedPrecondition, match="secrets of a cannot be read with this master key"):
        await SealedStore(file, MasterKey([b"\x07" * 32])).load()
    await file.close()


async def test_another_key_does_no_harm_where_there_are_no_secrets(tmp_path: Path) -> None:
    file = SqliteStore(tmp_path / "state.sqlite")
    await file.open()
    await SealedStore(file, KEY).commit([row("a", secrets=b"")])
    assert await SealedStore(file, MasterKey([b"\x07" * 32])).load() == [row("a", secrets=b"")]
    await file.close()


async def test_secrets_swapped_between_rows_are_refused() -> None:
    medium = MemoryStore()
    sealed = SealedStore(medium, KEY)
    await sealed.commit([row("a", secrets=b"of a"), row("b", secrets=b"of b")])
    one, other = await medium.load()
    await medium.commit([replace(one, secrets=other.secrets), replace(other, secrets=one.secrets)])
    with pytest.raises(errors.FailedPrecondition):
        await sealed.load()
