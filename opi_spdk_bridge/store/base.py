"""The interface of a store, and the row that it keeps for each record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it is stored; names are unique.

    desired   the desired resource, serialised, without secrets
    previous  the same before an update that is under way; None otherwise
    facts     JSON: what was assigned, what the kind keeps, what the record stands on
    secrets   the secret fields; sealed by the time a store sees them; b"" where there are none
    Times are seconds since the epoch.
    """

    name: str
    kind: str
    phase: str
    revision: int
    desired: bytes
    previous: bytes | None
    facts: bytes
    secrets: bytes
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """Deletes, then puts, as a whole or not at all."""

    puts: Sequence[Row] = ()
    deletes: Sequence[str] = ()


class Store(Protocol):
    """Keeps rows and a few named settings. Raises Unavailable, with what to do, when it cannot."""

    @property
    def address(self) -> str:
        """Where it is, as given to --state."""

    @property
    def lost(self) -> asyncio.Event:
        """Set when another bridge has taken the state over: this one must stop."""

    async def open(self) -> None:
        """Opens it for this process alone; raises FailedPrecondition when another has it or it is damaged."""

    async def load(self) -> list[Row]:
        """Every row."""

    async def write(self, change: Change) -> None:
        """Returns when the change survives this process, however that ends. Changes apply in the order of the calls."""

    def sync(self) -> asyncio.Future[None]:
        """Ends when all that has been written by now survives the machine, too."""

    async def commit(self, puts: Sequence[Row], deletes: Sequence[str] = ()) -> None:
        """Writes one change, and returns when it survives the machine."""
        await self.write(Change(puts, deletes))
        await self.sync()

    async def get_setting(self, key: str) -> str | None:
        """A setting, or None."""

    async def put_setting(self, key: str, value: str) -> None:
        """Sets it, durably."""

    async def close(self) -> None:
        """Lets go of it; what was committed stays."""


def finished() -> asyncio.Future[None]:
    """For stores in which what is written needs no more."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done
