"""NvmeRemoteController: a subsystem elsewhere, reached through the paths below it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import ClassVar, TypeVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import VOLUMES_BEHIND, Counters, Facts, Record, Reservation, Settled, Volume
from opi_spdk_bridge.core.volumes import numbers_reservation
from opi_spdk_bridge.kinds.shared import keys, rules
from opi_spdk_bridge.kinds.shared.base import SpdkKind
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import NvmePath, NvmeRemoteController
from opi_spdk_bridge.spdk import identify, methods
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import LiveView, View

T = TypeVar("T")

_LONGEST_NSID = 10  # digits of 2^32


class NvmeRemoteControllerKind(SpdkKind[NvmeRemoteController, keys.Seen]):
    """Holds what its paths have in common. `queue_size` is kept and returned only: the target has one for all.

    What there is to see on the target is its key: the controller itself comes and goes with its paths.
    """

    message = NvmeRemoteController
    secrets: ClassVar[tuple[str, ...]] = ("tcp.psk",)

    def normalise(self, resource: NvmeRemoteController) -> None:
        if resource.tcp.psk:
            resource.tcp.psk = keys.stripped(resource.tcp.psk, "tcp.psk")

    def check(self, resource: NvmeRemoteController) -> None:
        rules.within(resource.io_queues_count, 0, 1024, "io_queues_count")
        rules.within(resource.queue_size, 0, 65536, "queue_size")
        if resource.tcp.psk:
            rules.psk(resource.tcp.psk, "tcp.psk")

    async def settle(self, name: str, resource: NvmeRemoteController, before: Record | None) -> Settled:
        private = {}
        if resource.tcp.psk:
            same = before is not None and before.desired.tcp.psk == resource.tcp.psk
            private[keys.NAME] = before.private[keys.NAME] if before and same else f"opi-{uuid.uuid4().hex}"
        return Settled(private=private)

    def reserves(self, record: Record) -> Iterable[Reservation]:
        own = Reservation(f"nvme:{record.id}", f"the controller name {record.id}")
        return (own, numbers_reservation(record.id), VOLUMES_BEHIND)

    async def volume_behind(self, record: Record, reference: str) -> Volume | None:
        """A namespace by its NSID, or by its own UUID where the target calls its bdev by the NGUID."""
        if not any(child.parent == record.name for child in self.graph.dependents(record.name)):
            return None  # without a path it has no namespaces; a controller of that name is somebody else's
        collection, _, nsid = reference.rpartition("/")
        if collection:
            number = int(nsid) if nsid.isdecimal() and len(nsid) <= _LONGEST_NSID else 0
            return await self._volume(record, number) if collection.endswith("/nvmeRemoteNamespaces") else None
        try:
            numbers = await self.target.client.call(identify.active_namespaces(record.id))
            uuids = await asyncio.gather(
                *(_ask(self.target, identify.descriptors(record.id, number), "") for number in numbers)
            )
        except SpdkError:
            return None
        number = next((number for number, uuid in zip(numbers, uuids, strict=True) if uuid == reference), 0)
        return await self._volume(record, number)

    async def _volume(self, record: Record, nsid: int) -> Volume | None:
        """The bdev of that namespace. Without an NGUID or UUID of the array's its UUID is drawn anew each time."""
        bdev = f"{record.id}n{nsid}"
        found, (data, uuid) = await asyncio.gather(
            self.target.view().bdev(bdev), remote_identities(self.target, record.id, nsid)
        )
        if found is None or remote_nsid(record.id, found) != nsid:
            return None
        return Volume(bdev, found.uuid, by_name=not (data.nguid or uuid))

    async def look(self, record: Record, view: View) -> keys.Seen | None:
        return await keys.look(record, self.target, view, record.desired.tcp.psk)

    async def realize(self, record: Record) -> Facts:
        return await self._try(record, self.steps(record, None))

    def steps(self, record: Record, seen: keys.Seen | None) -> list[Step]:
        given = (seen,) if seen is not None else ()
        return [*keys.add(record, self.target, record.desired.tcp.psk, *given), *self._stale(record)]

    def removal(self, record: Record, present: bool) -> list[Step]:
        return [*keys.remove(record, self.target), *self._stale(record)]

    def _stale(self, record: Record) -> list[Step]:
        """After an update that was broken off: the other key."""
        other = record.previous
        same = other is None or other.private.get(keys.NAME) == record.private.get(keys.NAME)
        return [] if other is None or same else keys.remove(other, self.target)

    def amendment(self, old: Record, new: Record) -> list[Step]:
        paths = [child.name for child in self.graph.dependents(new.name) if isinstance(child.desired, NvmePath)]
        before, after = NvmeRemoteController(), NvmeRemoteController()
        before.CopyFrom(old.desired)
        after.CopyFrom(new.desired)
        before.queue_size = after.queue_size = 0
        if before == after:
            return []
        if paths:
            text = f"{new.name} cannot be changed while paths are attached ({', '.join(paths[:5])}): delete them first"
            raise errors.FailedPrecondition(text, resource=paths[0])
        if old.private == new.private:
            return []
        return [*keys.add(new, self.target, new.desired.tcp.psk), *keys.remove(old, self.target)]

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        return keys.why_not_taken(record, self.target, failure.error, "tcp.psk") or failure.undiagnosed()

    async def measure(self, record: Record) -> Counters:
        found = await bdevs_of(record.id, self.target.view())
        return sum(await asyncio.gather(*(self.bdev_counters(bdev.name) for bdev in found)), Counters())

    async def reset(self, record: Record) -> None:
        """Resets the controller on the target; without paths there is nothing to reset."""
        if await self.target.view().remote_controller(record.id) is None:
            return
        try:
            await self.target.client.call(methods.bdev_nvme_reset_controller(record.id))
        except SpdkError as error:
            text = f"the target could not reset {record.name}: {error.message}"
            raise errors.Aborted(text, resource=record.name) from error


async def bdevs_of(controller: str, view: LiveView) -> list[Bdev]:
    """The bdevs of the namespaces behind an NVMe bdev controller, by NSID."""
    if await view.remote_controller(controller) is None:
        return []
    return behind(controller, await view.bdevs())


def behind(controller: str, bdevs: Iterable[Bdev]) -> list[Bdev]:
    """Those of the bdevs that are namespaces behind that controller, by NSID."""
    found = {nsid: bdev for bdev in bdevs if (nsid := remote_nsid(controller, bdev)) is not None}
    return [found[nsid] for nsid in sorted(found)]


def remote_nsid(controller: str, bdev: Bdev) -> int | None:
    """The NSID of a bdev of that controller (the target names it {controller}n{nsid}); None for other bdevs."""
    nsid = bdev.name.removeprefix(f"{controller}n")
    return int(nsid) if bdev.product_name.startswith("NVMe ") and nsid != bdev.name and nsid.isdigit() else None


async def remote_identities(target: Target, controller: str, nsid: int) -> tuple[identify.NamespaceData, str]:
    """What a namespace tells of itself, and its UUID; nothing where the target would not ask it (a path in trouble)."""
    return await asyncio.gather(
        _ask(target, identify.namespace(controller, nsid), identify.NamespaceData()),
        _ask(target, identify.descriptors(controller, nsid), ""),
    )


async def _ask(target: Target, call: Call[T], otherwise: T) -> T:
    try:
        return await target.client.call(call)
    except SpdkError:
        return otherwise
