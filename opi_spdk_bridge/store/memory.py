"""A store that ends with the process: for the embedded emulator, whose state ends with it too, and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opi_spdk_bridge.store.base import Row


class MemoryStore:
    """Keeps rows in a dictionary."""

    address = "memory:"

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._settings: dict[str, str] = {}
        self.lost = asyncio.Event()

    async def open(self) -> None:
        """Nothing to open."""

    async def load(self) -> list[Row]:
        return list(self._rows.values())

    async def commit(self, puts: Sequence[Row], deletes: Sequence[str] = ()) -> None:
        for name in deletes:
            self._rows.pop(name, None)
        for row in puts:
            self._rows[row.name] = row

    async def get_setting(self, key: str) -> str | None:
        return self._settings.get(key)

    async def put_setting(self, key: str, value: str) -> None:
        self._settings[key] = value

    async def close(self) -> None:
        """Nothing to close."""
