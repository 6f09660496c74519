"""A target of named objects that records calls and fails as told, three small kinds with their sides, and a bridge."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.engine import Engine
from opi_spdk_bridge.core.journal import Journal, in_order
from opi_spdk_bridge.core.kind import Graph, Kind, Reservation, Settled, Volume
from opi_spdk_bridge.core.paging import Page
from opi_spdk_bridge.core.record import AnyRecord, Facts, M, Own, P, Record, fills, to_json
from opi_spdk_bridge.core.registry import Entry, Registry
from opi_spdk_bridge.core.side import Counters, Observation, Presence, Side
from opi_spdk_bridge.pb.storage.backend_null_pb2 import NullVolume
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeSubsystem
from opi_spdk_bridge.spdk.target import BdevChanges
from opi_spdk_bridge.store.base import Change
from opi_spdk_bridge.store.memory import MemoryStore
from tests.support.patience import spin as spin

PSK = b"NVMeTLSkey-1:01:VGhpcyBpcyBhIHRlc3Qga2V5IG9mIDMyIGJ5dGVzITEyMzQ=:"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error to raise, before or after the change was made."""

    error: Exception
    carried_out: bool


class FakeTarget:
    """Objects by name; every call yields before and after its effect, so that it can be interleaved and cancelled."""

    def __init__(self) -> None:
        self.connected = True
        self.objects: dict[str, object] = {}
        self.calls: list[tuple[str, str]] = []
        self.announced: set[str] | None = None
        self.arrived: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self._failures: defaultdict[str, deque[Failure]] = defaultdict(deque)

    def fail(self, verb: str, error: Exception, *, carried_out: bool = False) -> None:
        """Makes the next call of `verb` (create, change, remove, look) raise."""
        self._failures[verb].append(Failure(error, carried_out))

    async def ready(self) -> None:
        await asyncio.sleep(0)
        if not self.connected:
            raise errors.Unavailable("the target is away")

    def view(self) -> FakeTarget:
        return self

    def snapshot(self) -> FakeTarget:
        return self

    async def changed_bdevs(self) -> BdevChanges | None:
        await asyncio.sleep(0)
        return BdevChanges(set(self.announced), set(self.arrived)) if self.announced is not None else None

    @property
    def changes(self) -> list[tuple[str, str]]:
        """The calls that were no looks."""
        return [call for call in self.calls if call[0] != "look"]

    async def do(self, verb: str, name: str, change: Callable[[], None] = lambda: None) -> None:
        """One call: recorded, held at the gate, carried out or failed."""
        self.calls.append((verb, name))
        await asyncio.sleep(0)
        await self.gate.wait()
        failure = self._failures[verb].popleft() if self._failures[verb] else None
        if failure is None or failure.carried_out:
            change()
        await asyncio.sleep(0)
        if failure is not None:
            raise failure.error


# What is asked


class FakeKind(Kind[M, P], Generic[M, P]):
    """A kind that knows the other resources."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOwn(Own):
    """A field that is shown where the client left it open, and one that is not."""

    uuid: str | None = fills("uuid")
    serial: int = 0


class DiskKind(FakeKind[NullVolume, DiskOwn]):
    """A volume at the top, with an identity that is chosen for it and a size of block that cannot change."""

    message = NullVolume
    own = DiskOwn
    immutable: ClassVar[tuple[str, ...]] = ("block_size",)
    legacy_collection: ClassVar[str | None] = "volumes"

    def normalise(self, resource: NullVolume) -> None:
        if resource.uuid == "malformed":
            raise errors.InvalidArgument("uuid is malformed", field="uuid")
        resource.uuid = resource.uuid.lower()

    def check(self, resource: NullVolume) -> None:
        if resource.blocks_count > 1_000_000:
            raise errors.InvalidArgument("blocks_count is too large", field="blocks_count")

    async def settle(
        self, name: str, resource: NullVolume, before: Record[NullVolume, DiskOwn] | None, taken: Collection[Any] = ()
    ) -> Settled[DiskOwn]:
        await asyncio.sleep(0)
        return Settled(DiskOwn(uuid=None if resource.uuid else f"chosen-for-{name.rpartition('/')[2]}"))

    def reserves(self, record: Record[NullVolume, DiskOwn]) -> Iterable[Reservation]:
        yield Reservation(f"bdev:{record.id}", f"the bdev name {record.id}")
        if record.desired.uuid:
            yield Reservation(f"uuid:{record.desired.uuid}", f"the UUID {record.desired.uuid}", field="uuid")

    def volume(self, record: Record[NullVolume, DiskOwn]) -> Volume | None:
        return Volume(record.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsystemOwn(Own):
    """As that of a real subsystem."""

    serial_number: str | None = fills("spec.serial_number")
    psk_key: str = ""


class SubsystemKind(FakeKind[NvmeSubsystem, SubsystemOwn]):
    """A resource with a secret."""

    message = NvmeSubsystem
    own = SubsystemOwn
    immutable: ClassVar[tuple[str, ...]] = ("spec.nqn", "spec.serial_number")
    secrets: ClassVar[tuple[str, ...]] = ("spec.psk",)

    async def settle(
        self,
        name: str,
        resource: NvmeSubsystem,
        before: Record[NvmeSubsystem, SubsystemOwn] | None,
        taken: Collection[Any] = (),
    ) -> Settled[SubsystemOwn]:
        await asyncio.sleep(0)
        serial_number = None if resource.spec.serial_number else "SN-CHOSEN"
        return Settled(SubsystemOwn(serial_number=serial_number, psk_key="opi-key" if resource.spec.psk else ""))

    def reserves(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Iterable[Reservation]:
        return (Reservation(f"nqn:{record.desired.spec.nqn}", f"the NQN {record.desired.spec.nqn}", field="spec.nqn"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceOwn(Own):
    """`nsid` is learnt from the target, `bdev` settled."""

    nsid: int | None = fills("spec.host_nsid")
    bdev: str = ""


class NamespaceKind(FakeKind[NvmeNamespace, NamespaceOwn]):
    """A nested resource that stands on a volume; the target picks its NSID."""

    message = NvmeNamespace
    own = NamespaceOwn
    hints: ClassVar[tuple[str, ...]] = ("spec.host_nsid",)

    async def settle(
        self,
        name: str,
        resource: NvmeNamespace,
        before: Record[NvmeNamespace, NamespaceOwn] | None,
        taken: Collection[Any] = (),
    ) -> Settled[NamespaceOwn]:
        await asyncio.sleep(0)
        volume = f"nullVolumes/{resource.spec.volume_name_ref}"
        if self.graph.record(volume) is None:
            text = f"{volume} does not exist"
            raise errors.NotFound(text, field="spec.volume_name_ref", resource=volume)
        parent = name.rsplit("/", 2)[0]
        return Settled(NamespaceOwn(bdev=resource.spec.volume_name_ref), stands_on=(parent, volume))

    def reserves(self, record: Record[NvmeNamespace, NamespaceOwn]) -> Iterable[Reservation]:
        bdev = record.own.bdev
        yield Reservation(f"claim:{bdev}", f"the volume {bdev}", conflict=errors.FailedPrecondition)


# How it looks on the target


class FakeSide(Side[M, P], Generic[M, P]):
    """An object of the target that is a copy of what its record asks for."""

    def __init__(self, target: FakeTarget) -> None:
        self.target = target

    def wanted(self, record: Record[M, P]) -> object:
        _, kept = to_json(record.own)
        return (record.desired.SerializeToString(deterministic=True), sorted(kept.items()))

    def learn(self, record: Record[M, P]) -> P:
        """What is kept of the record once it was made, repaired or amended."""
        return record.own

    async def make(self, record: Record[M, P]) -> P:
        def create() -> None:
            if record.name in self.target.objects:
                raise errors.AlreadyExists(f"{record.name} is on the target already", resource=record.name)
            self._put(record)

        await self.target.do("create", record.name, create)
        return self.learn(record)

    async def repair(self, record: Record[M, P], view: Any) -> P:
        await self.target.do("look", record.name)
        if self.target.objects.get(record.name) != self.wanted(record):
            await self.target.do("create", record.name, lambda: self._put(record))
        return self.learn(record)

    async def amend(self, old: Record[M, P], new: Record[M, P]) -> P:
        await self.target.do("change", new.name, lambda: self._put(new))
        return self.learn(new)

    async def remove(self, record: Record[M, P], view: Any | None = None) -> None:
        if view is not None:
            await self.target.do("look", record.name)
        await self.target.do("remove", record.name, lambda: self._drop(record))

    async def observe(self, record: Record[M, P], view: Any) -> Observation:
        await self.target.do("look", record.name)
        found = self.target.objects.get(record.name)
        if found is None:
            return Observation(Presence.ABSENT, ["it is gone"])
        if found == "foreign":
            return Observation(Presence.FOREIGN)
        if found != self.wanted(record):
            return Observation(Presence.DIFFERENT, ["it is another"])
        return Observation(Presence.PRESENT)

    async def measure(self, record: Record[M, P]) -> Counters:
        await self.target.ready()
        return Counters(read_bytes_count=2**40, read_ops_count=7)

    def _put(self, record: Record[M, P]) -> None:
        self.target.objects[record.name] = self.wanted(record)

    def _drop(self, record: Record[M, P]) -> None:
        self.target.objects.pop(record.name, None)


class DiskSide(FakeSide[NullVolume, DiskOwn]):
    """Nothing more."""


class SubsystemSide(FakeSide[NvmeSubsystem, SubsystemOwn]):
    """Shows something of the target."""

    def shown_when_ready(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Facts:
        return {"status.firmware_revision": "fake"}


class NamespaceSide(FakeSide[NvmeNamespace, NamespaceOwn]):
    """The target picks the NSID where the client left it open."""

    def learn(self, record: Record[NvmeNamespace, NamespaceOwn]) -> NamespaceOwn:
        return record.own if record.desired.spec.host_nsid else replace(record.own, nsid=3)


class FakeStore(MemoryStore):
    """A memory store that yields around every commit and fails as told."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: deque[Exception | None] = deque()
        self.slow_disk: list[asyncio.Future[None]] | None = None
        """Where it is a list, a sync ends when the future that it appends does."""

    async def write(self, change: Change) -> None:
        await asyncio.sleep(0)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        await super().write(change)
        await asyncio.sleep(0)

    def sync(self) -> asyncio.Future[None]:
        if self.slow_disk is None:
            return super().sync()
        self.slow_disk.append(asyncio.get_running_loop().create_future())
        return self.slow_disk[-1]


class Bridge:
    """An engine over the fakes. A second one over the same store and target is the first after a restart."""

    def __init__(self, target: FakeTarget | None = None, store: FakeStore | None = None) -> None:
        self.target = target or FakeTarget()
        self.store = store or FakeStore()
        self.registry = Registry()
        self.catalog = Catalog(self.registry.kinds)
        self.registry.add(DiskKind(self.catalog), DiskSide(self.target))
        self.registry.add(SubsystemKind(self.catalog), SubsystemSide(self.target))
        self.registry.add(NamespaceKind(self.catalog), NamespaceSide(self.target))
        self.journal = Journal(self.store, self.registry.kinds)
        self.engine = Engine(self.registry, self.catalog, self.journal, self.target)
        self.unfinished: list[str] = []
        self.engine.on_unfinished.append(self.unfinished.append)

    async def restarted(self) -> Bridge:
        """What a new process makes of the store."""
        bridge = Bridge(self.target, self.store)
        for record in in_order(await bridge.journal.load(), list(bridge.registry)):
            bridge.catalog.put(record)
        return bridge

    @property
    def disks(self) -> Entry:
        return self.registry["nullVolume"]

    @property
    def subsystems(self) -> Entry:
        return self.registry["nvmeSubsystem"]

    @property
    def namespaces(self) -> Entry:
        return self.registry["nvmeNamespace"]

    async def create_disk(self, disk_id: str, blocks_count: int = 8, **more: Any) -> Any:
        resource = NullVolume(**{"block_size": 512, "blocks_count": blocks_count, **more})
        return await self.engine.create(self.disks, "", disk_id, resource, "null_volume")

    async def resize_disk(self, disk_id: str, blocks_count: int) -> Any:
        resource = NullVolume(name=f"nullVolumes/{disk_id}", blocks_count=blocks_count)
        return await self.engine.update(self.disks, resource, ["blocks_count"], False, "null_volume")

    async def get_disk(self, disk_id: str) -> Any:
        return await self.engine.get(self.disks, f"nullVolumes/{disk_id}")

    async def delete_disk(self, disk_id: str, allow_missing: bool = False) -> None:
        await self.engine.delete(self.disks, f"nullVolumes/{disk_id}", allow_missing)

    async def create_subsystem(self, subsystem_id: str, **spec: Any) -> Any:
        resource = NvmeSubsystem(spec={"nqn": f"nqn.2022-09.io.spdk:{subsystem_id}", **spec})
        return await self.engine.create(self.subsystems, "", subsystem_id, resource, "nvme_subsystem")

    async def create_namespace(self, subsystem_id: str, namespace_id: str, volume: str, **spec: Any) -> Any:
        resource = NvmeNamespace(spec={"volume_name_ref": volume, **spec})
        parent = f"nvmeSubsystems/{subsystem_id}"
        return await self.engine.create(self.namespaces, parent, namespace_id, resource, "nvme_namespace")

    async def stored(self) -> dict[str, AnyRecord]:
        """The records as a restart would find them."""
        return {record.name: record for record in await self.journal.load()}


def names(page: Page) -> list[str]:
    """The names of a page's items."""
    items: Sequence[Any] = page.items
    return [item.name for item in items]
