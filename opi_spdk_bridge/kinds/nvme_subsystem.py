"""NvmeSubsystem: an NVMe-oF subsystem, the host that may connect to it and that host's TLS key."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation, Settled
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import Record, fills
from opi_spdk_bridge.kinds.shared import keys, rules
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeSubsystem

_SERIAL_NUMBER = "spec.serial_number"

_MOST_NAMESPACES = 65536
_WHY_NO_MORE = (
    "the target takes memory for each namespace that there may be, some 360 bytes of it on each of its cores, and goes"
    " through all of them at each change"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsystemOwn(Keyed):
    """`psk_given`: the host was added with its key while there was the TCP transport."""

    serial_number: str | None = fills(_SERIAL_NUMBER)
    psk_given: bool = False


class NvmeSubsystemKind(ContractKind[NvmeSubsystem, SubsystemOwn]):
    """Recognised by its serial number: the client's, or one chosen before the first call."""

    message = NvmeSubsystem
    title = "NVMe subsystems"
    front_end = True
    own = SubsystemOwn
    immutable: ClassVar[tuple[str, ...]] = ("spec.nqn", _SERIAL_NUMBER, "spec.model_number", "spec.max_namespaces")
    secrets: ClassVar[tuple[str, ...]] = ("spec.psk",)

    def line(self, resource: NvmeSubsystem) -> Line:
        host = resource.spec.hostnqn
        return Line((resource.spec.nqn, f"host {host}" if host else "any host"))

    def normalise(self, resource: NvmeSubsystem) -> None:
        if resource.spec.psk:
            resource.spec.psk = keys.stripped(resource.spec.psk, "spec.psk")

    def check(self, resource: NvmeSubsystem) -> None:
        spec = resource.spec
        rules.nqn(spec.nqn, "spec.nqn")
        rules.printable_ascii(spec.serial_number, 20, "spec.serial_number")
        rules.printable_ascii(spec.model_number, 40, "spec.model_number")
        rules.within(spec.max_namespaces, 0, _MOST_NAMESPACES, "spec.max_namespaces", _WHY_NO_MORE)
        if spec.hostnqn:
            rules.nqn(spec.hostnqn, "spec.hostnqn")
        if spec.psk:
            if not spec.hostnqn:
                text = (
                    "spec.psk is the key of one host: it needs spec.hostnqn (to clear it, name spec.psk in update_mask)"
                )
                raise errors.InvalidArgument(text, field="spec.psk")
            rules.psk(spec.psk, "spec.psk")

    async def settle(
        self,
        name: str,
        resource: NvmeSubsystem,
        before: Record[NvmeSubsystem, SubsystemOwn] | None,
        taken: Collection[Any] = (),
    ) -> Settled[SubsystemOwn]:
        own, psk = (before.own, before.desired.spec.psk) if before is not None else (None, b"")
        chosen = own.serial_number if own is not None else uuid.uuid4().hex[:20].upper()
        serial_number = None if resource.spec.serial_number else chosen
        key = keys.key_name(resource.spec.psk, own, psk)
        return Settled(SubsystemOwn(serial_number=serial_number, psk_key=key))

    def reserves(self, record: Record[NvmeSubsystem, SubsystemOwn]) -> Iterable[Reservation]:
        nqn, serial = record.desired.spec.nqn, serial_number_of(record)
        yield Reservation(f"nqn:{nqn}", f"the NQN {nqn}", field="spec.nqn")
        yield Reservation(f"serial:{serial}", f"the serial number {serial}", field="spec.serial_number")


def serial_number_of(record: Record[NvmeSubsystem, SubsystemOwn]) -> str:
    """Its serial number."""
    return record.desired.spec.serial_number or record.own.serial_number or ""
