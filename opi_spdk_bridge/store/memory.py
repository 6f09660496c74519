"""A store that ends with the process: for the embedded emulator, whose state ends with it too, and for tests."""

from __future__ import annotations

import asyncio

from opi_spdk_bridge.store.base import Change, Row, Store, finished


class MemoryStore(Store):
    """Keeps rows in a dictionary."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._settings: dict[str, str] = {}
        self._lost = asyncio.Event()

    @property
    def address(self) -> str:
        return "memory:"

    @property
    def lost(self) -> asyncio.Event:
        return self._lost

    async def open(self) -> None:
        """Nothing to open."""

    async def load(self) -> list[Row]:
        return list(self._rows.values())

    async def write(self, change: Change) -> None:
        for name in change.deletes:
            self._rows.pop(name, None)
        for row in change.puts:
            self._rows[row.name] = row

    def sync(self) -> asyncio.Future[None]:
        return finished()

    async def get_setting(self, key: str) -> str | None:
        return self._settings.get(key)

    async def put_setting(self, key: str, value: str) -> None:
        self._settings[key] = value

    async def close(self) -> None:
        """Nothing to close."""
