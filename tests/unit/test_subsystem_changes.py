"""Releases that refuse a second change of a subsystem while the first is under way: the bridge makes them wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opi_spdk_bridge.core.record import Phase, Record
from opi_spdk_bridge.kinds.nvme_controller import ControllerOwn
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController
from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.release import Release
from opi_spdk_bridge.spdk.shared import SharedFolder
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.targets.spdk.discovery import NQN, Discovery


class Client:
    """Takes a while over each call, and notes how many are under way."""

    def __init__(self, version: str) -> None:
        self.release = Release(version, frozenset())
        self.on_connected: list[Any] = []
        self.most = 0
        self._now = 0

    async def call(self, _call: Call[Any]) -> bool:
        self._now += 1
        self.most = max(self.most, self._now)
        for _ in range(5):
            await asyncio.sleep(0)
        self._now -= 1
        return True


def controller(port: int) -> Record[NvmeController, ControllerOwn]:
    desired = NvmeController()
    desired.spec.trtype = opi.NVME_TRANSPORT_TYPE_TCP
    desired.spec.fabrics_id.traddr, desired.spec.fabrics_id.trsvcid = "127.0.0.1", str(port)
    desired.spec.fabrics_id.adrfam = opi.NVME_ADDRESS_FAMILY_IPV4
    name = f"nvmeSubsystems/s{port}/nvmeControllers/c"
    return Record("nvmeController", name, desired, Phase.READY, 1, 0.0, 0.0, ControllerOwn())


@pytest.mark.parametrize(("version", "waits"), [("SPDK v24.01", True), ("SPDK v24.05", False), ("SPDK v26.09", False)])
async def test_discovery_listeners_come_one_after_another_where_the_target_demands_it(
    version: str, waits: bool, tmp_path: Path
) -> None:
    client: Any = Client(version)
    graph: Any = SimpleNamespace(holders=lambda _key: ())
    discovery = Discovery(Target(client, SharedFolder(tmp_path, tmp_path)), graph)
    changes = [step.do for port in range(4420, 4424) for step in discovery.restore(controller(port), ())]
    assert [isinstance(change, Call) for change in changes] == [not waits] * 4
    if waits:
        await asyncio.gather(*(change() for change in changes if not isinstance(change, Call)))
        assert client.most == 1


async def test_changes_of_different_subsystems_do_not_wait_for_each_other(tmp_path: Path) -> None:
    client: Any = Client("SPDK v24.01")
    target = Target(client, SharedFolder(tmp_path, tmp_path))
    call = Call("nvmf_subsystem_add_listener", {"nqn": NQN}, bool)
    await asyncio.gather(*(target.change_alone(f"{NQN}{number}", call) for number in range(3)))
    assert client.most == 3
