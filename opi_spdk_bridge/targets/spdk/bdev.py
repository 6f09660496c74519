"""What the kinds share on SPDK whose resources are bdevs, named by their resource ID."""

from __future__ import annotations

import asyncio
import errno
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import M, P, Phase, Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.shared.bdev import V, uuid_of
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import StepFailed
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.claims import why_not_removable


class BdevSide(SpdkSide[M, P, Bdev], Generic[M, P]):
    """A volume that is a bdev; named by its ID unless `handle` and `bdev` say otherwise."""

    async def look(self, record: Record[M, P], view: View) -> Bdev | None:
        return await view.bdev(self.handle(record))

    def handle(self, record: Record[M, P]) -> str:
        """What the target is asked for to see the bdev: its name, or an alias that is known before it is made."""
        return record.object_name

    @abstractmethod
    def ours(self, record: Record[M, P], seen: Bdev) -> bool:
        """Whether the bdev of that name is the record's."""

    def bdev(self, record: Record[M, P]) -> str:
        return record.id

    def announced(self, record: Record[M, P]) -> bool:
        return True

    async def measure(self, record: Record[M, P]) -> Counters:
        return await self.bdev_counters(record.id)

    def foreign(self, record: Record[M, P]) -> errors.BridgeError:
        if any(holder.phase is Phase.DELETED for holder in self.graph.holders(f"bdev:{record.id}")):
            text = f"the bdev {record.id} of a resource that was deleted is still being taken down: try again"
            return errors.Aborted(text, resource=record.name)
        text = f"the target already has a bdev named {record.id} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)

    async def unused(self, record: Record[M, P]) -> Bdev | None:
        """What stands in the record's place; raises FailedPrecondition where something has the record's bdev open."""
        view = self.target.view()
        seen, devices = await asyncio.gather(view.bdev(self.handle(record)), view.vhosts())
        if seen is not None and self.ours(record, seen):
            blocked = why_not_removable(self.graph, [seen], devices)
            if blocked is not None:
                raise blocked
        return seen

    def delete(self, record: Record[M, P], call: Call[bool]) -> Callable[[], Awaitable[Any]]:
        """The work of a step that deletes the bdev: refused while something has it open, and for another's bdev."""

        async def do() -> None:
            seen = await self.unused(record)
            if seen is None or not self.ours(record, seen):
                raise SpdkError(call.method, -errno.ENODEV, os.strerror(errno.ENODEV))
            await self.target.client.call(call)

        return do

    async def diagnose(self, record: Record[M, P], failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, SpdkError) and error.method.endswith("_create"):
            return (await self._why_taken(record) if error.exists else None) or failure.undiagnosed()
        if isinstance(error, SpdkError) and error.gone:
            text = f"bdev {record.id} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.name)
        return failure.undiagnosed()

    async def _why_taken(self, record: Record[M, P]) -> errors.BridgeError | None:
        """Why a bdev cannot have the record's name or UUID; None where a bdev of the name is seen."""
        unique, view = self.uuid(record), self.target.view()
        named, same = await asyncio.gather(view.bdev(record.id), view.bdev(unique or record.id))
        if same is not None and same.name != record.id:
            text = f"the UUID {unique} is that of bdev {same.name} on the target"
            return errors.AlreadyExists(text, field="uuid", resource=same.name)
        if named is None:
            text = f"the target is still removing another bdev named {record.id}, or with its UUID: try again"
            return errors.Aborted(text, resource=record.name)
        return None

    def uuid(self, record: Record[M, P]) -> str:
        """The UUID that the bdev is given; "" where the target chooses it."""
        return ""

    def require_idle(self, record: Record[M, P], why: str) -> None:
        """Raises FailedPrecondition while anything of the bridge stands on the volume."""
        users = [user.name for user in self.graph.dependents(record.name)]
        if users:
            text = f"{why} is possible only while nothing stands on {record.name}; {', '.join(users[:5])} does"
            raise errors.FailedPrecondition(text, resource=users[0])


class IdentifiedVolumeSide(BdevSide[M, V], Generic[M, V]):
    """A volume whose bdev was given the UUID that was chosen for it, and is recognised by that."""

    def uuid(self, record: Record[M, V]) -> str:
        return uuid_of(record)

    def ours(self, record: Record[M, V], seen: Bdev) -> bool:
        return seen.name == record.id and seen.uuid in map(uuid_of, record.states)
