"""What the kinds share on SPDK that are vhost-user controllers, named by their resource ID."""

from __future__ import annotations

import asyncio
import errno
import os
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

_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Between looks whether a guest has gone: a target needs a moment to notice that a device was unplugged."""


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
        """Makes the controller and its socket; refused where that would take the place of another's file, or where
        nobody would find it.
        """
        delete = methods.vhost_delete_controller(record.id)

        async def do() -> None:
            await self.target.vhost_folder.require_free(record.id)
            await self.target.client.call(create)
            try:
                await self.target.vhost_folder.require_found(record.id)
            except errors.FailedPrecondition:
                await self.target.client.call(delete)
                raise

        return Step(f"vhost device {record.id} is missing", do, delete)

    def deletion(self, record: Record[M, P]) -> Step:
        """Removes the controller; its socket goes too. Refused while a guest is connected.

        Since 24.09 a target that is asked to remove it then answers when the guest has gone, and is at it all the time.
        """
        delete = methods.vhost_delete_controller(record.id)

        async def do() -> None:
            for pause_s in (*_PAUSES_S, None):
                seen = await self.target.view().vhost(record.id)
                if seen is None or not self.ours(record, seen):
                    raise SpdkError(delete.method, -errno.ENODEV, os.strerror(errno.ENODEV))
                if not seen.sessions:
                    break
                if pause_s is None:
                    text = f"the vhost device {record.id} is in use: a guest is connected to it"
                    raise errors.FailedPrecondition(text, resource=record.name)
                await asyncio.sleep(pause_s)
            await self.target.client.call(delete)

        return Step(f"vhost device {record.id} is still there", do, already=gone)

    async def diagnose(self, record: Record[M, P], failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, SpdkError) and error.method == "vhost_delete_controller" and error.is_errno(errno.EBUSY):
            text = f"the vhost device {record.id} is in use: a guest is connected to it"
            return errors.FailedPrecondition(text, resource=record.name)
        if isinstance(error, SpdkError) and error.method == "vhost_delete_controller" and error.gone:
            text = f"vhost device {record.id} is not on the target any more: the bridge will restore it, try again then"
            return errors.Aborted(text, resource=record.name)
        if isinstance(error, SpdkError) and error.method.startswith("vhost_create_") and error.is_errno(errno.EIO):
            text = f"the target cannot make a socket {record.id} in its vhost folder: it has a file there, or may not"
            return errors.FailedPrecondition(text, resource=record.name)
        return failure.undiagnosed()

    def foreign(self, record: Record[M, P]) -> errors.BridgeError:
        text = f"the target already has a vhost device named {record.id} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)
