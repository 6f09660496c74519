"""What the kinds share on SPDK that are vhost-user controllers, named by their resource ID."""

from __future__ import annotations

import errno
from typing import Generic

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import M, P, Record
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.base import SpdkSide


class VhostSide(SpdkSide[M, P, VhostController], Generic[M, P]):
    """The target keeps no identity but the name: a controller of that name and sort is taken for the record's."""

    def fits(self, record: Record[M, P], seen: VhostController) -> bool:
        """Whether the controller is of the record's sort."""
        return not seen.is_block

    def ours(self, record: Record[M, P], seen: VhostController) -> bool:
        return self.fits(record, seen)

    async def look(self, record: Record[M, P], view: View) -> VhostController | None:
        return await view.vhost(record.id)

    def creation(self, record: Record[M, P], create: Call[bool]) -> Step:
        """Makes the controller and its socket; refused where that would take the place of another's file."""

        async def do() -> None:
            await self.target.vhost_folder.require_free(record.id)
            await self.target.client.call(create)

        return Step(f"vhost device {record.id} is missing", do, methods.vhost_delete_controller(record.id))

    def deletion(self, record: Record[M, P]) -> Step:
        """Removes the controller; its socket goes too."""
        delete = methods.vhost_delete_controller(record.id)
        return Step(f"vhost device {record.id} is still there", delete, already=gone)

    async def diagnose(self, record: Record[M, P], failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, SpdkError) and error.method == "vhost_delete_controller":
            busy = error.is_errno(errno.EBUSY) or "busy" in error.message
            why = "a guest is connected to it" if busy else error.message
            text = f"the target would not remove the vhost device {record.id}: {why}"
            return errors.FailedPrecondition(text, resource=record.name)
        return failure.undiagnosed()

    def foreign(self, record: Record[M, P]) -> errors.BridgeError:
        text = f"the target already has a vhost device named {record.id} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)
