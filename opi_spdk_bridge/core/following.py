"""What stands on a volume to which the target has given another identity: it keeps to the resource."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.kind import AnyKind, Volume
from opi_spdk_bridge.core.record import AnyRecord


def followers(
    kinds: Mapping[str, AnyKind], catalog: Catalog, before: AnyRecord, after: AnyRecord
) -> Iterator[AnyRecord]:
    """What is to change with a record that becomes `after`: what stands on it, and on that, with the new identity."""
    was, now = (kinds[after.kind].volume(record) for record in (before, after))
    if was is None or now is None or not was.identity or not now.identity or was.identity == now.identity:
        return
    for user in catalog.dependents(after.name):
        moved = _moved(kinds[user.kind], user, was, now)
        if moved != user:
            yield moved
            yield from followers(kinds, catalog, user, moved)


def _moved(kind: AnyKind, record: AnyRecord, was: Volume, now: Volume) -> AnyRecord:
    previous = None if record.previous is None else _moved(kind, record.previous, was, now)
    return replace(record, own=kind.follow(record.own, was, now), previous=previous)
