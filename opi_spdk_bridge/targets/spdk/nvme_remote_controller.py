"""NvmeRemoteController on SPDK: an NVMe bdev controller, which comes and goes with its paths, and its key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Volume
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.core.side import Counters
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import NvmePath, NvmeRemoteController
from opi_spdk_bridge.spdk import identify
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, StepFailed
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import LiveView, View
from opi_spdk_bridge.targets.spdk import keys
from opi_spdk_bridge.targets.spdk.base import SpdkSide

T = TypeVar("T")

_LONGEST_NSID = 10  # digits of 2^32


class NvmeRemoteControllerSide(SpdkSide[NvmeRemoteController, Keyed, keys.Seen]):
    """What there is to see on the target is its key: the controller itself comes and goes with its paths."""

    async def volume_behind(self, record: Record[NvmeRemoteController, Keyed], reference: str) -> Volume | None:
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

    async def _volume(self, record: Record[NvmeRemoteController, Keyed], nsid: int) -> Volume | None:
        """The bdev of that namespace. Without an NGUID or UUID of the array's its UUID is drawn anew each time."""
        bdev = f"{record.id}n{nsid}"
        found, (data, uuid) = await asyncio.gather(
            self.target.view().bdev(bdev), remote_identities(self.target, record.id, nsid)
        )
        if found is None or remote_nsid(record.id, found) != nsid:
            return None
        return Volume(bdev, found.uuid, by_name=not (data.nguid or uuid), shape=found)

    async def look(self, record: Record[NvmeRemoteController, Keyed], view: View) -> keys.Seen | None:
        return await keys.look(record, self.target, view, record.desired.tcp.psk)

    async def make(self, record: Record[NvmeRemoteController, Keyed]) -> Keyed:
        return await self._try(record, self.steps(record, None))

    def steps(self, record: Record[NvmeRemoteController, Keyed], seen: keys.Seen | None) -> list[Step]:
        given = (seen,) if seen is not None else ()
        return [*keys.add(record, self.target, record.desired.tcp.psk, *given), *self._stale(record)]

    def removal(self, record: Record[NvmeRemoteController, Keyed], present: bool) -> list[Step]:
        return [*keys.remove(record, self.target), *self._stale(record)]

    def _stale(self, record: Record[NvmeRemoteController, Keyed]) -> list[Step]:
        """After an update that was broken off: the other key."""
        other = record.previous
        same = other is None or other.own.psk_key == record.own.psk_key
        return [] if other is None or same else keys.remove(other, self.target)

    def amendment(
        self, old: Record[NvmeRemoteController, Keyed], new: Record[NvmeRemoteController, Keyed]
    ) -> list[Step]:
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
        if old.own == new.own:
            return []
        return [*keys.add(new, self.target, new.desired.tcp.psk), *keys.remove(old, self.target)]

    async def diagnose(self, record: Record[NvmeRemoteController, Keyed], failure: StepFailed) -> errors.BridgeError:
        return keys.why_not_taken(record, self.target, failure.error, "tcp.psk") or failure.undiagnosed()

    async def measure(self, record: Record[NvmeRemoteController, Keyed]) -> Counters:
        found = await bdevs_of(record.id, self.target.view())
        return sum(await asyncio.gather(*(self.bdev_counters(bdev.name) for bdev in found)), Counters())


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
