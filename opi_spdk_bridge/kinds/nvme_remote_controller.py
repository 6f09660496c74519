"""NvmeRemoteController: a subsystem elsewhere, reached through the paths below it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from opi_spdk_bridge.core.kind import VOLUMES_BEHIND, Reservation, Settled
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.core.volumes import numbers_reservation
from opi_spdk_bridge.kinds.shared import keys, rules
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import NvmeMultipath, NvmeRemoteController


class NvmeRemoteControllerKind(ContractKind[NvmeRemoteController, Keyed]):
    """Holds what its paths have in common. `queue_size` is kept and returned only: the target has one for all."""

    message = NvmeRemoteController
    title = "Remote NVMe controllers"
    own = Keyed
    secrets: ClassVar[tuple[str, ...]] = ("tcp.psk",)

    def line(self, resource: NvmeRemoteController) -> Line:
        return Line((f"multipath {NvmeMultipath.Name(resource.multipath).removeprefix('NVME_MULTIPATH_').lower()}",))

    def normalise(self, resource: NvmeRemoteController) -> None:
        if resource.tcp.psk:
            resource.tcp.psk = keys.stripped(resource.tcp.psk, "tcp.psk")

    def check(self, resource: NvmeRemoteController) -> None:
        rules.within(resource.io_queues_count, 0, 1024, "io_queues_count")
        rules.within(resource.queue_size, 0, 65536, "queue_size")
        if resource.tcp.psk:
            rules.psk(resource.tcp.psk, "tcp.psk")

    async def settle(
        self,
        name: str,
        resource: NvmeRemoteController,
        before: Record[NvmeRemoteController, Keyed] | None,
        taken: Collection[Any] = (),
    ) -> Settled[Keyed]:
        own, psk = (before.own, before.desired.tcp.psk) if before is not None else (None, b"")
        return Settled(Keyed(psk_key=keys.key_name(resource.tcp.psk, own, psk)))

    def reserves(self, record: Record[NvmeRemoteController, Keyed]) -> Iterable[Reservation]:
        own = Reservation(f"nvme:{record.id}", f"the controller name {record.id}")
        return (own, numbers_reservation(record.id), VOLUMES_BEHIND)
