"""Volume references: every form that a client may write, resolved in one place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import VOLUMES_BEHIND, Graph, Reservation, Shape, Volume
from opi_spdk_bridge.core.record import AnyRecord, Phase
from opi_spdk_bridge.core.registry import Registry

_NUMBERED = re.compile(r"(.+)n[1-9]\d*")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Bdev(Shape, Protocol):
    """What is asked of a bdev on the target."""

    @property
    def name(self) -> str: ...

    @property
    def uuid(self) -> str: ...


class BdevView(Protocol):
    """A way to find a bdev that the bridge does not manage."""

    async def bdev(self, name: str) -> Bdev | None:
        """A bdev by name, alias or UUID; None where there is none."""


def bdev_reservations(name: str, uuid: str = "", field: str = "") -> Iterator[Reservation]:
    """The name of a bdev and its UUID ("": not known yet), which is its alias on the target: all are of one sort there.

    A name that the namespaces of a remote controller can get is the controller's, if there is one.
    """
    yield Reservation(f"bdev:{name}", f"the bdev name {name}")
    if uuid and uuid != name:
        yield Reservation(f"bdev:{uuid}", f"the UUID {uuid}", field=field)
    yield from numbered_reservation(name)


def numbered_reservation(name: str) -> Iterator[Reservation]:
    """A name such as `arrayn1`, kept from the namespaces of a remote controller `array`."""
    found = _NUMBERED.fullmatch(name)
    if found:
        what = f"the name {name}, which a namespace of the remote controller {found[1]} may get,"
        yield Reservation(f"bdevs-of:{found[1]}", what, tag="volumes")


def numbers_reservation(stem: str) -> Reservation:
    """All names that the namespaces of the remote controller `stem` can get."""
    return Reservation(f"bdevs-of:{stem}", f"a name that its namespaces may get, {stem}n followed by a number,")


class Volumes:
    """Resolves references against the bridge's own volumes first, then the target's bdevs."""

    def __init__(self, graph: Graph, registry: Registry, view: Callable[[], BdevView]) -> None:
        self._graph = graph
        self._registry = registry
        self._view = view

    async def resolve(self, reference: str, field: str) -> Volume:
        """The volume for a resource name in either style, a bare resource ID, or a bdev's name, alias or UUID.

        A reference by a bdev's name alone means the name, any other the identity that it leads to (`Volume.uuid`).
        Raises NotFound (naming `field`), Unavailable when only the target could tell and it is away.
        """
        if self._names_a_resource(reference):
            found = await self._named(reference)
        else:
            bare = reference.removeprefix("volumes/")
            found = self._managed(bare) or await self._on_target(bare) or await self._behind(bare)
        if found is None:
            text = f"{field} {reference!r} is neither a volume of this bridge nor a bdev of the target"
            raise errors.NotFound(text, field=field, resource=reference)
        return found

    def _names_a_resource(self, reference: str) -> bool:
        """Whether it begins as canonical names do: then it means that resource and no bdev that is called so."""
        first, slash, _ = reference.partition("/")
        return bool(slash) and any(first == entry.names.collections[0] for entry in self._registry.values())

    async def _named(self, reference: str) -> Volume | None:
        """A volume by the name of its resource, or by a name below that of a resource that has volumes behind it."""
        record = self._graph.record(reference)
        if record is not None:
            return self._volume(record)
        holder = self._graph.record(reference.rsplit("/", 2)[0])
        return await self._behind_holder(holder, reference) if holder is not None else None

    def _managed(self, identity: str) -> Volume | None:
        """A volume by its bdev's name or UUID, or a volume that stands for another by its bare ID."""
        for key in (f"bdev:{identity}", f"bdev:{identity.lower()}", f"volume-id:{identity}"):
            for record in self._graph.holders(key):
                if record.phase is not Phase.DELETED:
                    return self._volume(record)
        return None

    async def _on_target(self, name: str) -> Volume | None:
        found = await self._view().bdev(name) if name else None
        if found is None:
            return None
        holder = self._remote_controller(found.name)
        return self._managed(found.name) or Volume(
            found.name, found.uuid, holder, by_name=found.name == name, shape=found
        )

    async def _behind(self, identity: str) -> Volume | None:
        """A volume by a UUID that the target does not know: one of another machine can have several."""
        holders = self._graph.holders(VOLUMES_BEHIND.key) if _UUID.fullmatch(identity) else ()
        found = await asyncio.gather(*(self._behind_holder(holder, identity.lower()) for holder in holders))
        return next((volume for volume in found if volume is not None), None)

    async def _behind_holder(self, holder: AnyRecord, reference: str) -> Volume | None:
        volume = await self._registry[holder.kind].side.volume_behind(holder, reference)
        return replace(volume, resource=holder.name) if volume is not None else None

    def _remote_controller(self, bdev: str) -> str:
        """The name of the remote controller whose namespace the target shows as this bdev; "" for other bdevs."""
        found = _NUMBERED.fullmatch(bdev)
        holders = self._graph.holders(f"nvme:{found[1]}") if found else ()
        return next((record.name for record in holders), "")

    def _volume(self, record: AnyRecord) -> Volume | None:
        volume = self._registry.kinds[record.kind].volume(record)
        return replace(volume, resource=record.name) if volume is not None else None
