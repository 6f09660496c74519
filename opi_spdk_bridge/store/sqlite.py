"""The default store: one SQLite file, written ahead.

One thread owns the connection: changes that arrive while it works are written in one transaction. A transaction in the
write-ahead log survives the process; another thread syncs the log to the disk, as SQLite's own synchronous=FULL would
at each commit, so that whoever need not wait for the disk does not.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.store.base import Change, Row, Store
from opi_spdk_bridge.store.group import Grouped

T = TypeVar("T")

# What leads from each schema version to the next; the first makes the schema.
_MIGRATIONS = (
    """
CREATE TABLE records (
    name TEXT PRIMARY KEY, kind TEXT NOT NULL, phase TEXT NOT NULL, revision INTEGER NOT NULL,
    desired BLOB NOT NULL, previous BLOB, facts BLOB NOT NULL, secrets BLOB NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
)
_COLUMNS = "name, kind, phase, revision, desired, previous, facts, secrets, created_at, updated_at"
_PUT = f"INSERT OR REPLACE INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteStore(Store):
    """Keeps rows in the file at `path`, made with its folder if need be (0600 in a 0700 folder).

    `read_only` opens an existing file beside the bridge that has it.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._lost = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-sync")
        self._connection: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        self._log: int | None = None
        self._writes = Grouped(self._write)
        self._syncs: Grouped[None] = Grouped(self._sync_all)

    @property
    def address(self) -> str:
        return f"sqlite:{self._path}"

    @property
    def lost(self) -> asyncio.Event:
        return self._lost

    async def open(self) -> None:
        await self._in_thread(self._open)

    async def load(self) -> list[Row]:
        return await self._in_thread(
            lambda: [Row(*columns) for columns in self._execute(f"SELECT {_COLUMNS} FROM records")]
        )

    async def write(self, change: Change) -> None:
        await self._writes.submit(change)

    def sync(self) -> asyncio.Future[None]:
        return self._syncs.submit(None)

    async def get_setting(self, key: str) -> str | None:
        rows = await self._in_thread(
            lambda: self._execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchall()
        )
        return rows[0][0] if rows else None

    async def put_setting(self, key: str, value: str) -> None:
        await self._in_thread(lambda: self._execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value)))
        await self.sync()

    async def close(self) -> None:
        await self._writes.drain()
        await self._syncs.drain()
        await self._in_thread(self._close)
        self._executor.shutdown()
        self._syncer.shutdown()

    async def _in_thread(self, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread or self._executor, work)
        except (sqlite3.Error, OSError, RuntimeError) as problem:
            raise errors.Unavailable(f"the state file {self._path} cannot be used: {problem}") from problem

    async def _write(self, changes: Sequence[Change]) -> None:
        await self._in_thread(lambda: self._apply(changes))

    async def _sync_all(self, _waiting: Sequence[None]) -> None:
        """Syncs what has been written so far, for all who wait for that."""
        log = self._log
        if log is None:
            raise errors.Unavailable(f"the state file {self._path} is not open")
        await self._in_thread(lambda: os.fdatasync(log), self._syncer)

    # In the thread

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        if self._connection is None:
            raise sqlite3.ProgrammingError("it is not open")
        return self._connection.execute(statement, values)

    def _apply(self, changes: Sequence[Change]) -> None:
        self._execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                for name in change.deletes:
                    self._execute("DELETE FROM records WHERE name = ?", (name,))
                for row in change.puts:
                    self._execute(
                        _PUT,
                        (row.name, row.kind, row.phase, row.revision, row.desired, row.previous, row.facts, row.secrets,
                         row.created_at, row.updated_at),
                    )  # fmt: skip
            self._execute("COMMIT")
        except BaseException:
            if self._connection is not None and self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    def _open(self) -> None:
        if self._read_only:
            place = f"{self._path.as_uri()}?mode=ro"
            self._connection = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)
            self._check_version(self._connection)
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._claim()
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._prepare(self._connection)
            self._log = os.open(f"{self._path}-wal", os.O_RDWR)  # it stays as long as the connection does
        except (sqlite3.OperationalError, OSError):  # no room, no permission, locked: nothing is wrong with the file
            self._close()
            raise
        except sqlite3.DatabaseError as problem:
            self._close()
            raise errors.FailedPrecondition(
                f"the state file {self._path} is damaged or not one of this bridge ({problem}). Put back a copy of it,"
                " or move it away to start empty: what the target still has then counts as another's."
            ) from problem
        except errors.BridgeError:
            self._close()
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        for version in range(self._check_version(connection), len(_MIGRATIONS)):
            connection.executescript(f"BEGIN;{_MIGRATIONS[version]}PRAGMA user_version = {version + 1};COMMIT;")

    def _check_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(_MIGRATIONS):
            raise errors.FailedPrecondition(
                f"the state file {self._path} was written by a newer bridge (schema {version}, this one knows"
                f" {len(_MIGRATIONS)}): run that version, or another --state"
            )
        return version

    def _claim(self) -> None:
        """Takes the lock beside the file, so that two bridges cannot share it; it ends with the process."""
        self._lock_file = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            os.close(self._lock_file)
            self._lock_file = None
            text = f"another bridge has the state file {self._path} open: stop it, or give another --state"
            raise errors.FailedPrecondition(text) from problem

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._log is not None:
            os.close(self._log)
            self._log = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
