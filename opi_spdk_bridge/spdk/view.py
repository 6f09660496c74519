"""What is on the target, asked one object at a time; whoever asks the same at the same time shares one query."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, TypeVar

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call, Client
from opi_spdk_bridge.spdk.errors import SpdkError, undiagnosed
from opi_spdk_bridge.spdk.model import Bdev, IoStat, Key, RemoteController, Subsystem, VhostController

T = TypeVar("T")


class View(Protocol):
    """A way to look at the target. Each method returns None where the object does not exist."""

    async def bdev(self, name: str) -> Bdev | None:
        """A bdev by name, alias or UUID."""

    async def has_uuid(self, bdev: str, uuid: str) -> bool:
        """Whether the bdev of that name, which something has open, has that UUID.

        What was seen is remembered until the target tells that the bdev went; a "no" is never said from memory.
        """

    async def subsystem(self, nqn: str) -> Subsystem | None:
        """An NVMe-oF subsystem."""

    async def keys(self, name: str) -> list[Key]:
        """The keys of that name in the keyring: one, and removed ones that are still in use."""

    async def connected_hosts(self, nqn: str) -> set[str]:
        """The NQNs of the hosts that are connected to a subsystem."""

    async def remote_controller(self, name: str) -> RemoteController | None:
        """An NVMe bdev controller."""

    async def vhost(self, name: str) -> VhostController | None:
        """A vhost controller."""


class LiveView:
    """Asks the target now. Raises Unavailable and the other errors of `Client.submit`."""

    _keeps = False

    def __init__(self, client: Client, uuids: dict[str, str] | None = None) -> None:
        """`uuids` remembers the UUIDs of bdevs by name; whoever keeps it drops those that have gone."""
        self._client = client
        self._uuids = uuids if uuids is not None else {}
        self._asking: dict[tuple[str, str], asyncio.Future[Any]] = {}

    async def bdev(self, name: str) -> Bdev | None:
        return await self._ask(name, methods.bdev_get_bdev(name))

    async def has_uuid(self, bdev: str, uuid: str) -> bool:
        if self._uuids.get(bdev) == uuid:
            return True
        found = await self.bdev(bdev)
        if found is None or found.name != bdev:
            return False
        self._uuids[bdev] = found.uuid
        return found.uuid == uuid

    async def subsystem(self, nqn: str) -> Subsystem | None:
        return await self._ask(nqn, methods.nvmf_get_subsystem(nqn))

    async def keys(self, name: str) -> list[Key]:
        found = await self._ask("", methods.keyring_get_keys()) or []
        return [key for key in found if key.name == name]

    async def connected_hosts(self, nqn: str) -> set[str]:
        found = await self._ask(nqn, methods.nvmf_subsystem_get_controllers(nqn)) or []
        return {controller.hostnqn for controller in found}

    async def remote_controller(self, name: str) -> RemoteController | None:
        return await self._ask(name, methods.bdev_nvme_get_controller(name))

    async def vhost(self, name: str) -> VhostController | None:
        return await self._ask(name, methods.vhost_get_controller(name))

    async def vhosts(self) -> list[VhostController]:
        """Every vhost controller; none on a target that has no vhost."""
        await self._client.ready()
        if "vhost_get_controllers" not in self._client.release.methods:
            return []
        return await self._ask("", methods.vhost_get_controllers()) or []

    async def crypto_key(self, name: str) -> str | None:
        """The name of a data encryption key that is there."""
        return await self._ask(name, methods.accel_crypto_key_named(name))

    async def bdevs(self) -> list[Bdev]:
        """Every bdev of the target."""
        return await self._ask("", methods.bdev_get_bdevs()) or []

    async def iostat(self, bdev: str) -> IoStat | None:
        """A bdev's counters."""
        return await self._ask(bdev, methods.bdev_get_iostat(self._client.release, bdev))

    async def _ask(self, name: str, call: Call[T]) -> T | None:
        await self._client.ready()
        key = (call.method, name)
        answer: asyncio.Future[T] | None = self._asking.get(key)
        if answer is None:
            with deadline.limit(self._client.call_timeout_s):  # others may come to wait longer than who asks first
                answer = self._asking[key] = self._client.submit(call)
            answer.add_done_callback(lambda done: self._forget(key, done))
        try:
            async with asyncio.timeout(deadline.remaining_s(self._client.call_timeout_s)):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise errors.AnswerTimeout(f"the SPDK target did not answer {call.method} in time") from None
        except SpdkError as error:
            if error.gone:
                return None
            raise undiagnosed(error) from error

    def _forget(self, key: tuple[str, str], done: asyncio.Future[Any]) -> None:
        if not self._keeps and self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled():
            done.exception()  # retrieved: every asker may have been cancelled


class SweepView(LiveView):
    """Asks for each object once and keeps the answer: for one pass over many records."""

    _keeps = True
