"""The initiator's side of an NVMe path, for the transport that no machine of the tests has: RDMA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from opi_spdk_bridge.core.record import AnyRecord, Own, Phase, Record
from opi_spdk_bridge.kinds.nvme_path import NvmePathKind
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.backend_nvme_pb2 import NVME_MULTIPATH_MULTIPATH, NvmePath, NvmeRemoteController
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.targets.spdk.nvme_path import NvmePathSide

ARRAY = "nvmeRemoteControllers/array"


def record(kind: str, name: str, desired: Any, own: Own) -> AnyRecord:
    return Record(kind, name, desired, Phase.READY, 1, 0.0, 0.0, own)


class Graph:
    """Knows the controller alone."""

    def record(self, name: str) -> AnyRecord | None:
        controller = NvmeRemoteController(multipath=NVME_MULTIPATH_MULTIPATH)
        return record("nvmeRemoteController", ARRAY, controller, Keyed()) if name == ARRAY else None

    def dependents(self, name: str) -> Iterable[AnyRecord]:
        return ()

    def holders(self, key: str) -> Iterable[AnyRecord]:
        return ()


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ({}, {}),
        ({"source_traddr": "192.0.2.1"}, {"hostaddr": "192.0.2.1"}),
        ({"source_trsvcid": 4421}, {"hostsvcid": "4421"}),
    ],
)
def test_an_rdma_path_comes_from_the_address_and_port_that_were_given(
    source: dict[str, Any], sent: dict[str, str]
) -> None:
    unused: Any = None
    kind, side = NvmePathKind(Graph(), unused, unused), NvmePathSide(unused, Graph(), unused)
    path = NvmePath(trtype=opi.NVME_TRANSPORT_TYPE_RDMA, traddr="192.0.2.2")
    path.fabrics.trsvcid, path.fabrics.subnqn = 4420, "nqn.2022-09.io.spdk:far"
    path.fabrics.adrfam = opi.NVME_ADDRESS_FAMILY_IPV4
    for field, value in source.items():
        setattr(path.fabrics, field, value)
    kind.check(path)
    attach, _ = side.steps(record("nvmePath", f"{ARRAY}/nvmePaths/p0", path, Own()), None)
    for step in (attach.do, attach.undo):  # the path is taken away by its whole address
        assert isinstance(step, Call)
        assert {name: value for name, value in (step.params or {}).items() if name.startswith("host") and value} == sent
