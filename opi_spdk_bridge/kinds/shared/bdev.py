"""What the kinds have in common whose resources are bdevs of the target, named by their resource ID."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.message import Message

from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core.kind import Reservation, Volume
from opi_spdk_bridge.core.record import M, Own, Record, fills
from opi_spdk_bridge.core.volumes import bdev_reservations
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.kinds.shared.base import ContractKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified(Own):
    """Of a volume whose UUID is the client's, or chosen before the first call."""

    uuid: str | None = fills("uuid")


V = TypeVar("V", bound=Identified)


class IdentifiedVolumeKind(ContractKind[M, V], Generic[M, V]):
    """A volume that is a bdev of its ID, recognised by its UUID."""

    legacy_collection: ClassVar[str | None] = "volumes"

    def normalise(self, resource: M) -> None:
        given: Any = fields.get(resource, "uuid")
        if given:
            fields.put(resource, "uuid", rules.uuid(given, "uuid"))

    def reserves(self, record: Record[M, V]) -> Iterable[Reservation]:
        return bdev_reservations(record.id, uuid_of(record), "uuid")

    def volume(self, record: Record[M, V]) -> Volume | None:
        return Volume(record.id, uuid_of(record))


def uuid_of(record: Record[Message, Identified]) -> str:
    """The UUID of a volume's bdev."""
    given: Any = fields.get(record.desired, "uuid")
    return str(given or record.own.uuid or "")
