"""What the kinds have in common that are vhost-user controllers of the target, named by their resource ID."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import ClassVar, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Reservation
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View

M = TypeVar("M", bound=Message)

_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Between looks whether a guest has gone: a target needs a moment to notice that a device was unplugged."""


class VhostKind(SpdkKind[M, VhostController]):
    """The target keeps no identity but the name: a controller of that name and sort is taken for the record's."""

    legacy_collection: ClassVar[str | None] = "volumes"

    def fits(self, record: Record, seen: VhostController) -> bool:
        """Whether the controller is of the record's sort."""
        return not seen.is_block

    def ours(self, record: Record, seen: VhostController) -> bool:
        return self.fits(record, seen)

    async def look(self, record: Record, view: View) -> VhostController | None:
        return await view.vhost(record.id)

    def creation(self, record: Record, create: Call[bool]) -> Step:
        """Makes the controller and its socket; refused where that would take the place of another's file."""

        async def do() -> None:
            await self.target.vhost_folder.require_free(record.id)
            await self.target.client.call(create)

        return Step(f"vhost device {record.id} is missing", do, methods.vhost_delete_controller(record.id))

    def deletion(self, record: Record) -> Step:
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

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
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

    def foreign(self, record: Record) -> errors.BridgeError:
        text = f"the target already has a vhost device named {record.id} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)


def vhost_reservation(name: str) -> Reservation:
    """The name of a vhost controller, block or SCSI, which is also its socket's."""
    return Reservation(f"vhost:{name}", f"the vhost device name {name}")
