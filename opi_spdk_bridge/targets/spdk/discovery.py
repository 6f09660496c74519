"""The discovery subsystem listens where plain TCP and RDMA controllers do, so that hosts can ask there what there is.

SPDK answers them at other addresses, too, but says that it will not for ever. The port of a secure address speaks TLS,
for which discovery has no key. Subsystems may share an address, and then share its discovery listener: it goes with the
last controller there. One that somebody else had there before is left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph
from opi_spdk_bridge.core.record import Phase, Record
from opi_spdk_bridge.kinds.nvme_controller import OURS, THEIRS, ControllerOwn, others_at
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import ListenAddress, Subsystem
from opi_spdk_bridge.spdk.steps import Local, Step, StepFailed
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.listening import MOST_LISTENERS, in_words, listen_address, same_address

NQN = "nqn.2014-08.org.nvmexpress.discovery"

Controller = Record[NvmeController, ControllerOwn]


class Discovery:
    """The discovery listeners of NvmeControllers; each method is for those with a plain fabrics address."""

    def __init__(self, target: Target, graph: Graph) -> None:
        self._target = target
        self._graph = graph

    async def look(self, view: View) -> Sequence[ListenAddress] | None:
        """Where the discovery subsystem listens; None on a target that has none."""
        subsystem = await view.subsystem(NQN)
        return subsystem.listen_addresses if subsystem is not None else None

    def add(self, record: Controller) -> list[Step]:
        """With the controller's own listener, and in the same write a look at who listens there already."""
        if self._is_left_to_another(record):
            return []
        address = self._address(record)
        before: list[ListenAddress] = []
        looked = False

        def note(subsystem: Subsystem) -> Callable[[ControllerOwn], ControllerOwn]:
            nonlocal looked
            looked = True
            before.extend(subsystem.listen_addresses)
            ours = OURS in (other.own.discovery for other in (record, *self._others(record)))
            new = record.phase is Phase.CREATING  # else it was not known to be theirs when the controller was made
            whose = THEIRS if new and _is_among(address, before) and not ours else OURS
            return lambda own: replace(own, discovery=whose)

        def needless(error: SpdkError) -> bool:
            """It listens there already, or nowhere, or at as many addresses as it can."""
            known = looked and not _is_among(address, before) and len(before) < MOST_LISTENERS
            return error.gone or (error.is_invalid_parameters and not known)

        async def undo() -> None:
            if not _is_among(address, before) and not self._is_needed_without(record):
                await self._target.change_alone(NQN, methods.nvmf_subsystem_remove_listener(NQN, address))

        look = methods.nvmf_get_subsystem(NQN)
        return [
            Step("where hosts can discover is not known", look, learn=note, already=_anything),
            Step(self._says(record), self._listen(address), undo, already=needless),
        ]

    def restore(self, record: Controller, listening: Sequence[ListenAddress] | None) -> list[Step]:
        """What is left to have it, where `look` found the others; a subsystem listens at so many addresses only."""
        if listening is None or record.own.discovery == THEIRS or self._is_left_to_another(record):
            return []
        address = self._address(record)
        if _is_among(address, listening) or len(listening) >= MOST_LISTENERS:
            return []
        remove = self._change(methods.nvmf_subsystem_remove_listener(NQN, address))
        return [Step(self._says(record), self._listen(address), remove, already=_is_so)]

    def drop(self, record: Controller) -> list[Step]:
        """With the last of the bridge's controllers at the address."""
        if record.own.discovery == THEIRS or self._is_needed_without(record):
            return []
        address = self._address(record)
        says = f"hosts can still discover at {in_words(address)}"
        remove = self._change(methods.nvmf_subsystem_remove_listener(NQN, address))
        return [Step(says, remove, self._listen(address), already=_is_so)]

    def why_not(self, record: Controller, failure: StepFailed) -> errors.BridgeError | None:
        """The error where it was the discovery listener that could not be had; None for other steps."""
        if failure.step.says != self._says(record):
            return None
        cause = failure.undiagnosed()
        return type(cause)(f"{self._says(record)}: {cause.message}", field="spec.fabrics_id", resource=record.name)

    async def require_none_of_others(self, records: Iterable[Controller], view: View) -> None:
        """Raises FailedPrecondition where somebody else's listener would keep an address plain that is to be secure."""
        theirs = [record for record in records if record.own.discovery == THEIRS]
        listening = await self.look(view) or () if theirs else ()
        for record in theirs:
            address = self._address(record)
            if _is_among(address, listening):
                text = f"somebody else has the discovery subsystem listen at {in_words(address)}, which keeps it plain"
                raise errors.FailedPrecondition(f"{text}: remove that first", field="spec.psk", resource=record.name)

    def _listen(self, address: ListenAddress) -> Call[bool] | Local:
        return self._change(methods.nvmf_subsystem_add_listener(NQN, address, secure_channel=False))

    def _change(self, call: Call[bool]) -> Call[bool] | Local:
        """Controllers of different subsystems come and go together, and all change this one."""
        if self._target.release.queues_changes:
            return call
        return functools.partial(self._target.change_alone, NQN, call)

    def _address(self, record: Controller) -> ListenAddress:
        return listen_address(record, self._target.shared)

    def _says(self, record: Controller) -> str:
        return f"hosts cannot discover at {in_words(self._address(record))}"

    def _others(self, record: Controller) -> list[Controller]:
        return others_at(self._graph, record.name, record.desired)

    def _in_force(self, record: Controller) -> list[Controller]:
        """The others that count on it; one that is being made puts it there itself."""
        return [other for other in self._others(record) if other.phase in (Phase.READY, Phase.UPDATING)]

    def _is_needed_without(self, record: Controller) -> bool:
        return bool(self._in_force(record))

    def _is_left_to_another(self, record: Controller) -> bool:
        """One of those at an address sees to it: up to 24.01 a target counts a listener that is asked for twice twice,
        and never gives up the port."""
        new = record.phase is Phase.CREATING
        return any(new or other.name < record.name for other in self._in_force(record))


def _is_among(address: ListenAddress, listening: Iterable[ListenAddress]) -> bool:
    return any(same_address(address, other) for other in listening)


def _anything(_error: SpdkError) -> bool:
    return True


def _is_so(error: SpdkError) -> bool:
    """It listens there already, or does not."""
    return error.is_invalid_parameters
