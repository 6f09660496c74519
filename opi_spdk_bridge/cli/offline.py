"""Work on a state without serving it: export, import, rotation of the master key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import archive
from opi_spdk_bridge.core.journal import Journal, in_order
from opi_spdk_bridge.daemon.resources import kinds_only
from opi_spdk_bridge.daemon.settings import state_folder
from opi_spdk_bridge.store.base import Store
from opi_spdk_bridge.store.open import beside, open_store, sqlite_path
from opi_spdk_bridge.store.seal import KEY_BYTES, write_key_file


@asynccontextmanager
async def _opened(address: str, key_file: Path | None, *, read_only: bool = False) -> AsyncIterator[Store]:
    store = open_store(address, state_folder(), key_file, read_only=read_only)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def export(address: str, key_file: Path | None, *, with_secrets: bool) -> dict[str, Any]:
    """The state as JSON; also beside a bridge that serves it."""
    registry = kinds_only()
    async with _opened(address, key_file, read_only=True) as store:
        records = in_order(await Journal(store, registry.kinds).load(), list(registry))
        return archive.dump(records, registry.kinds, with_secrets=with_secrets)


async def import_(address: str, key_file: Path | None, exported: Any, *, replace: bool) -> int:
    """Puts an exported state into a store that no bridge has open, and returns the number of records.

    Raises FailedPrecondition when the store has records and is not to be replaced.
    """
    registry = kinds_only()
    records = archive.load(exported, registry.kinds)
    async with _opened(address, key_file) as store:
        present = [row.name for row in await store.load()]
        if present and not replace:
            text = f"{store.address} has {len(present)} resources: give --replace to have them forgotten"
            raise errors.FailedPrecondition(text)
        journal = Journal(store, registry.kinds)
        await journal.exchange(present, records)
    return len(records)


async def rekey(address: str, key_file: Path | None) -> Path:
    """Seals every secret with a fresh key and returns the key's file.

    The file holds both keys while the rows are rewritten, so a crash at any point leaves a readable state.
    """
    if key_file is None:
        path = sqlite_path(address)
        if path is None:
            raise errors.InvalidArgument("give the file of the key with --master-key-file")
        key_file = beside(path)
    if not await asyncio.to_thread(key_file.exists):
        raise errors.NotFound(f"there is no master key {key_file}")
    async with _opened(address, key_file):
        old = await asyncio.to_thread(key_file.read_bytes)
        fresh = os.urandom(KEY_BYTES)
        write_key_file(key_file, [fresh, old])
    async with _opened(address, key_file) as store:
        await store.commit(await store.load())
    write_key_file(key_file, [fresh])
    return key_file
