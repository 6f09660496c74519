"""What the kinds have in common that are vhost-user controllers of the target, named by their resource ID."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Reservation
from opi_spdk_bridge.kinds.base import SpdkKind
from opi_spdk_bridge.sockets import too_long
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import VhostController
from opi_spdk_bridge.spdk.steps import Step, StepFailed, gone
from opi_spdk_bridge.spdk.view import View

M = TypeVar("M", bound=Message)


class VhostKind(SpdkKind[M, VhostController]):
    """The target keeps no identity but the name: a controller of that name and sort is taken for the record's."""

    legacy_collection: ClassVar[str | None] = "volumes"

    def fits(self, record: Record, seen: VhostController) -> bool:
        """Whether the controller is of the record's sort."""
        return not seen.is_block

    def ours(self, record: Record, seen: VhostController) -> bool:
        return self.fits(record, seen)

    async def look(self, record: Record, view: View) -> VhostController | None:
        seen = await view.vhost(record.id)
        if seen is not None:
            self._learn(seen)
        return seen

    def creation(self, record: Record, create: Call[bool]) -> list[Step]:
        """Makes the controller, and looks where its socket is; raises FailedPrecondition where that cannot be used.

        The target cuts a path that is too long for a socket (create_unix_socket in DPDK's lib/vhost) and tells the
        whole one: nobody finds it there. Its folder (-S) is known once it has told the path of a socket.
        """

        def fits(answer: Any) -> VhostController:
            seen = look.read(answer)
            self._learn(seen)
            _require_short(record, seen.socket)
            return seen

        if self.target.vhost_folder is not None:
            _require_short(record, f"{self.target.vhost_folder}{record.id}")
        look = methods.vhost_get_controller(record.id)
        return [
            Step(f"vhost device {record.id} is missing", create, methods.vhost_delete_controller(record.id)),
            Step(f"the socket of vhost device {record.id} has not been looked at", replace(look, read=fits)),
        ]

    def _learn(self, seen: VhostController) -> None:
        self.target.vhost_folder = seen.socket.removesuffix(seen.ctrlr)

    def deletion(self, record: Record) -> Step:
        """Removes the controller; its socket goes too."""
        delete = methods.vhost_delete_controller(record.id)
        return Step(f"vhost device {record.id} is still there", delete, already=gone)

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        error = failure.error
        if isinstance(error, SpdkError) and error.method == "vhost_delete_controller":
            busy = error.is_errno(errno.EBUSY) or "busy" in error.message
            why = "a guest is connected to it" if busy else error.message
            text = f"the target would not remove the vhost device {record.id}: {why}"
            return errors.FailedPrecondition(text, resource=record.name)
        return failure.undiagnosed()

    def foreign(self, record: Record) -> errors.BridgeError:
        text = f"the target already has a vhost device named {record.id} that this bridge did not make"
        return errors.AlreadyExists(text, resource=record.name)


def _require_short(record: Record, path: str) -> None:
    if problem := too_long(path):
        text = f"{problem}: give {record.name} a shorter ID, or start the target with a shorter vhost folder (-S)"
        raise errors.FailedPrecondition(text, resource=record.name)


def vhost_reservation(name: str) -> Reservation:
    """The name of a vhost controller, block or SCSI, which is also its socket's."""
    return Reservation(f"vhost:{name}", f"the vhost device name {name}")
