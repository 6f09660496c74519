"""NvmeNamespace: a volume under an NSID of a subsystem."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation, Settled, Taken, Volume
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import Record, fills
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.kinds.shared.base import ContractKind, parent_of
from opi_spdk_bridge.kinds.shared.claims import claim_reservation
from opi_spdk_bridge.kinds.shared.shape import NAMESPACE, require_usable
from opi_spdk_bridge.kinds.shared.underlying import OnVolume, stands_on
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeNamespace, NvmeNamespaceStatus

NSID = "spec.host_nsid"
VOLUME = "spec.volume_name_ref"
_NGUID, _EUI64, _UUID = "spec.nguid", "spec.eui64", "spec.uuid"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceOwn(OnVolume):
    """What the client left open."""

    nsid: int | None = fills(NSID)
    nguid: str | None = fills(_NGUID)
    uuid: str | None = fills(_UUID)


class NvmeNamespaceKind(ContractKind[NvmeNamespace, NamespaceOwn]):
    """Recognised by its NGUID: the client's, or one chosen before the first call."""

    message = NvmeNamespace
    title = "Namespaces"
    own = NamespaceOwn
    immutable: ClassVar[tuple[str, ...]] = (NSID, _NGUID, _UUID, _EUI64)
    hints: ClassVar[tuple[str, ...]] = (NSID,)

    def line(self, resource: NvmeNamespace) -> Line:
        state = NvmeNamespaceStatus.OperState.Name(resource.status.oper_state).removeprefix("OPER_STATE_").lower()
        state = state if resource.status.oper_state else "unknown"
        return Line((f"NSID {resource.spec.host_nsid or '?'}",), state, state == "online")

    def normalise(self, resource: NvmeNamespace) -> None:
        spec = resource.spec
        if spec.nguid:
            spec.nguid = rules.nguid(spec.nguid, _NGUID)
        if spec.uuid:
            spec.uuid = rules.uuid(spec.uuid, _UUID)

    def check(self, resource: NvmeNamespace) -> None:
        rules.within(resource.spec.host_nsid, 0, 2**31 - 1, NSID)

    async def settle(
        self,
        name: str,
        resource: NvmeNamespace,
        before: Record[NvmeNamespace, NamespaceOwn] | None,
        taken: Collection[Any] = (),
    ) -> Settled[NamespaceOwn]:
        parent = name.rsplit("/", 2)[0]
        volume = await self.volumes.resolve(resource.spec.volume_name_ref, VOLUME)
        require_usable(volume, before, NAMESPACE, VOLUME)
        chosen = before.own if before is not None else self._chosen(parent, resource, volume, taken)
        own = replace(chosen, bdev=volume.bdev, volume_uuid=volume.identity)
        return Settled(own, (parent, *stands_on(volume)))

    def nqn(self, record: Record[NvmeNamespace, NamespaceOwn]) -> str:
        return str(parent_of(self.graph, record).desired.spec.nqn)

    def _chosen(self, subsystem: str, resource: NvmeNamespace, volume: Volume, taken: Collection[Any]) -> NamespaceOwn:
        """Identities for what the client left open; the UUID is the volume's, unless another namespace has that."""
        spec, own_uuid = resource.spec, volume.uuid or None
        if own_uuid and any(True for _ in self.graph.holders(f"namespace-uuid:{own_uuid}")):
            own_uuid = str(uuid.uuid4())
        return NamespaceOwn(
            nsid=None if spec.host_nsid else self._free_nsid(subsystem, taken),
            nguid=None if spec.nguid else uuid.uuid4().hex.upper(),
            uuid=None if spec.uuid else own_uuid,
        )

    def _free_nsid(self, subsystem: str, taken: Collection[Any]) -> int:
        """The first NSID that no namespace has: chosen here, since the target knows only of those that it has now."""
        return next(
            nsid
            for nsid in count(1)
            if nsid not in taken and not any(True for _ in self.graph.holders(_nsid_key(subsystem, nsid)))
        )

    def reserves(self, record: Record[NvmeNamespace, NamespaceOwn]) -> Iterable[Reservation]:
        nsid, nguid, own_uuid = nsid_of(record), nguid_of(record), uuid_of(record)
        yield claim_reservation(record.own.bdev, record.name, VOLUME)
        yield Reservation(f"nguid:{nguid}", f"the NGUID {nguid}", field=_NGUID)
        if record.desired.spec.eui64:
            eui64 = eui64_of(record)
            yield Reservation(f"eui64:{eui64}", f"the EUI64 {eui64}", field=_EUI64)
        if own_uuid:
            conflict = errors.AlreadyExists if record.desired.spec.uuid else Taken
            yield Reservation(
                f"namespace-uuid:{own_uuid}", f"the namespace UUID {own_uuid}", conflict=conflict, field=_UUID
            )
        if nsid:
            what = f"NSID {nsid} of {record.parent}"
            conflict = errors.AlreadyExists if record.desired.spec.host_nsid else Taken
            yield Reservation(_nsid_key(record.parent, nsid), what, conflict=conflict, field=NSID)


def nsid_of(record: Record[NvmeNamespace, NamespaceOwn]) -> int | None:
    """Its NSID."""
    return record.desired.spec.host_nsid or record.own.nsid


def nguid_of(record: Record[NvmeNamespace, NamespaceOwn]) -> str:
    """Its NGUID, as 32 upper-case hexadecimal digits."""
    return record.desired.spec.nguid or record.own.nguid or ""


def uuid_of(record: Record[NvmeNamespace, NamespaceOwn]) -> str:
    """Its UUID; "" where the target is to take the bdev's."""
    return record.desired.spec.uuid or record.own.uuid or ""


def eui64_of(record: Record[NvmeNamespace, NamespaceOwn]) -> str:
    """Its EUI64, as 16 upper-case hexadecimal digits; "" where it has none."""
    eui64 = record.desired.spec.eui64
    return f"{eui64 % 2**64:016X}" if eui64 else ""


def _nsid_key(subsystem: str, nsid: int) -> str:
    return f"nsid:{subsystem} {nsid}"
