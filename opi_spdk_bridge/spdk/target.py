"""The target as the daemon holds it: one connection, the folder shared with it, and what is known of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call, Client
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.release import Release
from opi_spdk_bridge.spdk.shared import SharedFolder
from opi_spdk_bridge.spdk.steps import Diagnosis, Learn, Step, carry_out
from opi_spdk_bridge.spdk.vhost_folder import VhostFolder
from opi_spdk_bridge.spdk.view import LiveView, SweepView

T = TypeVar("T")

TRANSPORT_METHODS = ("nvmf_get_transports", "nvmf_create_transport")
"""What `make_transport` asks of the target."""

_CAME, _WENT = "bdev_register", ("bdev_unregister", "bdev_resize")
_NOTIFICATIONS = 512  # at a time: an answer of about 40 KB


@dataclass(frozen=True, slots=True)
class BdevChanges:
    """Names of bdevs that `went` or changed, and of those that `came`; some may have done both."""

    went: set[str] = field(default_factory=set)
    came: set[str] = field(default_factory=set)


class Target:
    """Groups what the kinds need to work on the target."""

    def __init__(self, client: Client, shared: SharedFolder) -> None:
        self.client = client
        self.shared = shared
        self._transports: set[str] = set()
        self._making_transport = asyncio.Lock()
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._uuids: dict[str, str] = {}
        """By name: the UUIDs of bdevs of which the target has not told since that they went."""
        self._live = LiveView(client, self._uuids)
        self.vhost_folder = VhostFolder(client, self._live)
        self._taken_nqns: set[str] | None = None
        self._next_notification: int | None = None
        client.on_connected.append(self._forget_knowledge)

    def _forget_knowledge(self) -> None:
        self._transports.clear()
        self._uuids.clear()
        self._taken_nqns = None
        self._next_notification = None

    @property
    def connected(self) -> bool:
        return self.client.connected

    @property
    def release(self) -> Release:
        """What the target can do."""
        return self.client.release

    @property
    def uid(self) -> int | None:
        """The user the target runs as; None over TCP, where it cannot be known."""
        return self.client.peer_uid

    async def ready(self) -> None:
        await self.client.ready()

    def view(self) -> LiveView:
        return self._live

    def snapshot(self) -> SweepView:
        return SweepView(self.client, self._uuids)

    async def make_transport(self, trtype: str) -> None:
        """Makes the transport (TCP, …) unless it exists; asks nothing where the connected target is known to have it.

        One at a time, since two made together would both stay for good. Raises SpdkError where the target cannot.
        """
        async with self._making_transport:
            if trtype in self._transports:
                return
            found = await self.client.call(methods.nvmf_get_transports())
            if all(transport.trtype.upper() != trtype for transport in found):
                await self.client.call(methods.nvmf_create_transport(trtype))
            self._transports.add(trtype)

    async def change_alone(self, nqn: str, call: Call[T]) -> T:
        """Calls when no other such call changes the same subsystem; errors as for `Client.call`."""
        async with self._changing[nqn]:
            return await self.client.call(call)

    async def look_around(self, *, subsystems: bool) -> None:
        """Remembers what need not be asked again: the transports and, where asked for, which NQNs are taken.

        Every subsystem is in one answer: not for a target that may hold thousands of namespaces.
        """
        asked = self.client.submit(methods.nvmf_get_subsystems()) if subsystems else None
        for transport in await self.client.call(methods.nvmf_get_transports()):
            self._transports.add(transport.trtype.upper())
        if asked is not None:
            self._taken_nqns = {subsystem.nqn for subsystem in await asked}

    def nqn_was_free(self, nqn: str) -> bool:
        """Whether the last look showed that no subsystem has this NQN."""
        return self._taken_nqns is not None and nqn not in self._taken_nqns

    async def changed_bdevs(self) -> BdevChanges | None:
        """Reads the target's notifications on from where the last call stopped.

        The target keeps the last 1024: None after a gap, and at the first call on a connection.
        """
        changed = await self._notified()
        if changed is None:
            self._uuids.clear()
        else:
            for name in changed.went | changed.came:
                self._uuids.pop(name, None)
        return changed

    async def _notified(self) -> BdevChanges | None:
        if "notify_get_notifications" not in self.release.methods:
            return None
        first, changed = self._next_notification is None, BdevChanges()
        complete = True
        while True:
            after = self._next_notification or 0
            try:
                events = await self.client.call(methods.notify_get_notifications(after, _NOTIFICATIONS))
            except SpdkError:
                return None
            if events and events[0].id > after:
                complete = False
            changed.went.update(event.ctx for event in events if event.type in _WENT)
            changed.came.update(event.ctx for event in events if event.type == _CAME)
            self._next_notification = events[-1].id + 1 if events else after
            if len(events) < _NOTIFICATIONS:
                return changed if complete and not first else None

    async def carry_out(
        self, steps: Sequence[Step], *, together: bool = True, diagnose: Diagnosis | None = None
    ) -> list[Learn]:
        """See `steps.carry_out`."""
        return await carry_out(self.client, steps, together=together, diagnose=diagnose)
