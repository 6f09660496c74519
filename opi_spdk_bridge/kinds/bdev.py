"""What the kinds have in common whose resources are bdevs of the target, named by their resource ID."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core.kind import Counters, Phase, Record, Reservation, Volume
from opi_spdk_bridge.core.volumes import bdev_reservation, uuid_reservation
from opi_spdk_bridge.kinds import rules
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.kinds.claims import why_not_removable
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import StepFailed
from opi_spdk_bridge.spdk.view import View

M = TypeVar("M", bound=Message)


class BdevKind(SpdkKind[M, Bdev]):
    """A volume whose bdev is recognised by its UUID: the client's, or one chosen before the first call."""

    legacy_collection: ClassVar[str | None] = "volumes"
    assigned: ClassVar[tuple[str, ...]] = ("uuid",)

    def normalise(self, resource: M) -> None:
        given: Any = fields.get(resource, "uuid")
        if given:
            fields.put(resource, "uuid", rules.uuid(given, "uuid"))

    def reserves(self, record: Record) -> Iterable[Reservation]:
        return (bdev_reservation(record.id), uuid_reservation(self.uuid(record), "uuid"))

    def volume(self, record: Record) -> Volume | None:
        return Volume(record.id, self.uuid(record))

    def uuid(self, record: Record) -> str:
        """The bdev's UUID."""
        return str(record.desired.uuid or record.assigned["uuid"])

    async def look(self, record: Record, view: View) -> Bdev | None:
        return await view.bdev(record.object_name)

    def ours(self, record: Record, seen: Bdev) -> bool:
        states = (record, record.previous) if record.previous is not None else (record,)
        return seen.name == record.id and seen.uuid in [self.uuid(state) for state in states]

    def announced(self, record: Record) -> bool:
        return True

    async def measure(self, record: Record) -> Counters:
        return await self.bdev_counters(record.id)

    def foreign(self, record: Record) -> errors.BridgeError:
        if any(holder.phase is Phase.DELETED for holder in self.graph.holders(f"bdev:{record.id}")):
            text = f"the bdev {record.id} of a resource that was deleted is still being taken down: try again"
            return errors.Aborted(text, resource=record.name)
        text = f"the target already has a bdev named {record.id} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)

    async def unused(self, record: Record) -> Bdev | None:
        """What stands in the record's place; raises FailedPrecondition where something has the record's bdev open."""
        view = self.target.view()
        seen, devices = await asyncio.gather(view.bdev(record.object_name), view.vhosts())
        if seen is not None and self.ours(record, seen):
            blocked = why_not_removable(self.graph, [seen], devices)
            if blocked is not None:
                raise blocked
        return seen

    def delete(self, record: Record, call: Call[bool]) -> Callable[[], Awaitable[Any]]:
        """The work of a step that deletes the bdev: refused while something has it open, and for another's bdev."""

        async def do() -> None:
            seen = await self.unused(record)
            if seen is None or not self.ours(record, seen):
                raise SpdkError(call.method, -errno.ENODEV, os.strerror(errno.ENODEV))
            await self.target.client.call(call)

        return do

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, SpdkError) and error.method.endswith("_create"):
            return (await self._why_taken(record) if error.exists else None) or failure.undiagnosed()
        if isinstance(error, SpdkError) and error.gone:
            text = f"bdev {record.id} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.name)
        return failure.undiagnosed()

    async def _why_taken(self, record: Record) -> errors.BridgeError | None:
        """Why a bdev cannot have the record's name or UUID; None where a bdev of the name is seen."""
        unique, view = self.uuid(record), self.target.view()
        named, same = await asyncio.gather(view.bdev(record.id), view.bdev(unique))
        if same is not None and same.name != record.id:
            text = f"the UUID {unique} is that of bdev {same.name} on the target"
            return errors.AlreadyExists(text, field="uuid", resource=same.name)
        if named is None:
            text = f"the target is still removing another bdev named {record.id}, or with its UUID: try again"
            return errors.Aborted(text, resource=record.name)
        return None

    def require_idle(self, record: Record, why: str) -> None:
        """Raises FailedPrecondition while anything of the bridge stands on the volume."""
        users = [user.name for user in self.graph.dependents(record.name)]
        if users:
            text = f"{why} is possible only while nothing stands on {record.name}; {', '.join(users[:5])} does"
            raise errors.FailedPrecondition(text, resource=users[0])
