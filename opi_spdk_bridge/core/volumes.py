"""Volume references: every form that a client may write, resolved in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Phase, Record, Reservation, Volume
from opi_spdk_bridge.core.registry import Registry

_REMOTE_NAMESPACE = re.compile(r"nvmeRemoteControllers/([^/]+)/nvmeRemoteNamespaces/(\d+)")
_REMOTE_BDEV = re.compile(r"(.+)n\d+")


class Bdev(Protocol):
    """What is asked of a bdev on the target."""

    @property
    def name(self) -> str: ...

    @property
    def uuid(self) -> str: ...


class BdevView(Protocol):
    """A way to find a bdev that the bridge does not manage."""

    async def bdev(self, name: str) -> Bdev | None:
        """A bdev by name, alias or UUID; None where there is none."""


def bdev_reservation(name: str) -> Reservation:
    """The name of a bdev on the target: no two volumes may have it."""
    return Reservation(f"bdev:{name}", f"the bdev name {name}")


def uuid_reservation(uuid: str, field: str) -> Reservation:
    """The UUID of a bdev, which is its alias on the target."""
    return Reservation(f"bdev-uuid:{uuid}", f"the UUID {uuid}", field=field)


class Volumes:
    """Resolves references against the bridge's own volumes first, then the target's bdevs."""

    def __init__(self, graph: Graph, registry: Registry, view: Callable[[], BdevView]) -> None:
        self._graph = graph
        self._registry = registry
        self._view = view

    async def resolve(self, reference: str, field: str) -> Volume:
        """The volume for a resource name in either style, a bare resource ID, or a bdev's name, alias or UUID.

        Raises NotFound (naming `field`), Unavailable when only the target could tell and it is away.
        """
        record = self._by_name(reference)
        wanted = _bdev_name(reference)
        if record is None:
            record = self._by_identity(wanted)
        if record is not None:
            return self._volume(record)
        found = await self._view().bdev(wanted) if wanted else None
        if found is None:
            text = f"{field} {reference!r} is neither a volume of this bridge nor a bdev of the target"
            raise errors.NotFound(text, field=field, resource=reference)
        record = self._by_identity(found.name)
        if record is not None:
            return self._volume(record)
        return Volume(found.name, found.uuid, self._remote_controller(found.name))

    def _by_name(self, reference: str) -> Record | None:
        if "/" not in reference:
            return None
        record = self._graph.record(reference)
        return record if record is not None and self._registry.kinds[record.kind].volume(record) else None

    def _by_identity(self, identity: str) -> Record | None:
        """A volume by its bdev's name or UUID, or a volume that stands for another by its bare ID."""
        for key in (f"bdev:{identity}", f"bdev-uuid:{identity.lower()}", f"volume-id:{identity}"):
            for record in self._graph.holders(key):
                if record.phase is not Phase.DELETED:
                    return record
        return None

    def _remote_controller(self, bdev: str) -> str:
        """The name of the remote controller whose namespace the target shows as this bdev; "" for other bdevs."""
        found = _REMOTE_BDEV.fullmatch(bdev)
        return next((record.name for record in self._graph.holders(f"nvme:{found[1]}")), "") if found else ""

    def _volume(self, record: Record) -> Volume:
        volume = self._registry.kinds[record.kind].volume(record)
        assert volume is not None
        return replace(volume, resource=record.name)


def _bdev_name(reference: str) -> str:
    """What a reference that is no name of a volume resource can be on the target."""
    remote = _REMOTE_NAMESPACE.fullmatch(reference)
    return f"{remote[1]}n{remote[2]}" if remote else reference.removeprefix("volumes/")
