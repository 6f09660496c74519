"""docs/api.md against the bridge: each RPC sends the JSON-RPC methods that the table names for it, and no others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.case import Case, put
from tests.kinds.cases import CASES
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import HOST_NQN, NQN, OTHER_PSK, World, collection, free_ports, pci, psk
from tests.support.bridge import METHODS, Client
from tests.support.patience import PATIENCE_S
from tests.support.target import Target, emulator, real_target, wait_until

SUB = "nvmeSubsystems/sub"
ARRAY = "nvmeRemoteControllers/array"
_TABLE = Path(__file__).parents[2] / "docs" / "api.md"
_ROW = re.compile(r"\| (\w+) \| (.*?) \| .*\|")
_METHOD = re.compile(r"`([a-z]+_[a-z0-9_]+)`")
_NEVER = 3600  # seconds between sweeps, so that the bridge asks the target of requests alone
_LAST_OF_A_SWEEP = "notify_get_notifications"  # asked before and after it


class _Recording(Client):
    """Notes what the target is asked during each call."""

    def __init__(self, address: str, target: Target) -> None:
        super().__init__(address)
        self.asked: defaultdict[str, set[str]] = defaultdict(set)
        self._target = target

    def call(self, method: str, request: dict[str, Any] | None = None, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        self._target.rpc("emulator_call_counts", reset=True)
        answer = super().call(method, request, timeout_s)
        self.asked[method].update(_asked(self._target))
        return answer


def _asked(target: Target) -> dict[str, int]:
    """How often the target was asked what, by method."""
    return dict(target.rpc("emulator_call_counts")["calls"])


def _named() -> dict[str, set[str]]:
    """The methods in the table's column of calls, by RPC."""
    rows = (_ROW.fullmatch(line) for line in _TABLE.read_text().splitlines())
    return {row[1]: set(_METHOD.findall(row[2])) for row in rows if row and row[1] in METHODS}


@pytest.fixture
def recorded(tmp_path: Path, far: Target) -> Iterator[tuple[World, _Recording]]:
    """A bridge on an emulator of its own, which has no transport yet."""
    if real_target("SPDK"):
        pytest.skip("needs a target that counts what it is asked: an emulated one")
    with (
        emulator(tmp_path) as own,
        KeptBridge(tmp_path, spdk=own.socket, sweep_interval_s=_NEVER, notifications_s=_NEVER) as daemon,
    ):
        wait_until(lambda: _asked(own).get(_LAST_OF_A_SWEEP) == 2, "the first sweep is over")
        opi = _Recording(daemon.address, own)
        yield World(opi, own, tmp_path, lambda: far, free_ports(8)), opi
        opi.close()


def test_each_rpc_sends_what_the_table_names(recorded: tuple[World, _Recording]) -> None:
    world, opi = recorded
    walks: list[Callable[[World], None]] = [*(partial(_verbs, case) for case in CASES), *_MORE]
    for walk in walks:
        walk(world)
        world.clear()
        world.far.clean()
    opi.call("GetInventory", {"name": "any"})
    assert opi.asked.keys() == METHODS.keys()
    told = _named()
    differ = {rpc: (opi.asked[rpc], told.get(rpc)) for rpc in METHODS if opi.asked[rpc] != told.get(rpc)}
    assert differ == {}, "(sent, named in docs/api.md)"


def _verbs(case: Case, world: World) -> None:
    case.prepare(world)
    made = case.create(world)
    world.get(case.noun, case.name())
    world.page(case.noun, case.parent)
    world.update(case.noun, put(made, *case.change(world)) if case.change else made)
    world.stats(case.noun, case.name())
    world.delete(case.noun, case.name())


def _a_subsystem_with_a_key(world: World) -> None:
    world.subsystem(hostnqn=HOST_NQN)
    world.controller("listener", world.ports[0])
    world.update("NvmeSubsystem", {"name": SUB, "spec": {"psk": psk()}})
    world.get("NvmeSubsystem", SUB)
    world.update("NvmeSubsystem", {"name": SUB, "spec": {"psk": psk(OTHER_PSK)}})
    world.update("NvmeSubsystem", {"name": SUB}, "spec.hostnqn", "spec.psk")
    world.subsystem("other", f"{NQN}:other", hostnqn=HOST_NQN, psk=psk())
    world.delete("NvmeSubsystem", "nvmeSubsystems/other")


def _sums_over_namespaces(world: World) -> None:
    world.subsystem()
    world.controller("listener", world.ports[0])
    world.null_volume("vol")
    world.namespace("ns", "vol")
    world.stats("NvmeSubsystem", SUB)
    world.stats("NvmeController", f"{SUB}/nvmeControllers/listener")


def _sums_over_luns(world: World) -> None:
    world.null_volume("vol")
    for noun, wanted in (("VirtioScsiTarget", {}), ("VirtioScsiController", {"pcie_id": pci(1)})):
        world.make(noun, "dev", wanted)
        world.make("VirtioScsiLun", "lun", {"target_name_ref": "dev", "volume_name_ref": "vol"})
        world.stats(noun, f"{collection(noun)}/dev")
        world.delete("VirtioScsiLun", "virtioScsiLuns/lun")
        world.delete(noun, f"{collection(noun)}/dev")


def _volumes_made_anew(world: World) -> None:
    world.null_volume("vol")
    world.update("NullVolume", {"name": "nullVolumes/vol", "block_size": 4096})
    world.make("AioVolume", "file", {"filename": world.file("file", 2048), "block_size": 512})
    world.file("file", 4096)
    world.update("AioVolume", {"name": "aioVolumes/file", "blocks_count": 4096})


def _limits(world: World) -> None:
    """On volumes that are open, on one that is not, and those that wait for it to be opened."""
    world.subsystem()
    for volume in ("vol", "other", "idle", "more"):
        world.null_volume(volume)
    for volume in ("vol", "other"):
        world.namespace(volume, volume)
    limited = {"volume_name_ref": "vol", "limits": {"max": {"rw_iops_kiops": 20}}}
    qos = world.make("QosVolume", "qos", limited)["name"]
    world.update("QosVolume", {"name": qos, "volume_name_ref": "other"})
    for volume in ("idle", "more"):
        world.make("QosVolume", f"q{volume}", {**limited, "volume_name_ref": volume})
        world.update("QosVolume", {"name": f"qosVolumes/q{volume}", "limits": {"max": {"rw_iops_kiops": 30}}})
    world.delete("NvmeNamespace", f"{SUB}/nvmeNamespaces/vol")
    world.namespace("vol", "idle")
    world.update("NvmeNamespace", {"name": f"{SUB}/nvmeNamespaces/vol", "spec": {"volume_name_ref": "more"}})
    world.delete("NvmeNamespace", f"{SUB}/nvmeNamespaces/vol")
    world.make("VirtioScsiTarget", "dev", {})
    world.make("VirtioScsiLun", "lun", {"target_name_ref": "dev", "volume_name_ref": "idle"})
    world.make("VirtioScsiTarget", "else", {})
    moved = {"target_name_ref": "else", "volume_name_ref": "more"}
    world.update("VirtioScsiLun", {"name": "virtioScsiLuns/lun", **moved})
    world.update("QosVolume", {"name": "qosVolumes/qmore", **limited, "volume_name_ref": "more"})
    world.get("QosVolume", "qosVolumes/qmore")
    world.delete("QosVolume", "qosVolumes/qmore")
    world.make("QosVolume", "qmore", {**limited, "volume_name_ref": "more"})
    world.delete("QosVolume", "qosVolumes/qidle")
    device = {"volume_name_ref": "idle", "pcie_id": pci(1), "max_limit": {"rw_iops_kiops": 20}}
    blk = world.make("VirtioBlk", "blk", device)["name"]
    world.get("VirtioBlk", blk)
    world.update("VirtioBlk", {"name": blk, "max_limit": {"rw_iops_kiops": 40}})


def _an_array(world: World) -> None:
    world.array(listeners=2)
    world.remote_controller(tcp={"psk": psk()})
    world.update("NvmeRemoteController", {"name": ARRAY, "tcp": {"psk": psk(OTHER_PSK)}})
    world.get("NvmeRemoteController", ARRAY)
    world.update("NvmeRemoteController", {"name": ARRAY}, "tcp.psk")
    world.path("p0", world.ports[0])
    world.path("p1", world.ports[1])
    world.opi.call("ResetNvmeRemoteController", {"name": ARRAY})
    world.opi.call("ListNvmeRemoteNamespaces", {"parent": ARRAY})
    world.opi.call("GetNvmeRemoteNamespace", {"name": f"{ARRAY}/nvmeRemoteNamespaces/1"})
    world.stats("NvmeRemoteController", ARRAY)


def _an_array_that_shows_nothing(world: World) -> None:
    world.array(namespaces=0)
    world.remote_controller()
    world.path("p0", world.ports[0])


_MORE = (
    _a_subsystem_with_a_key,
    _sums_over_namespaces,
    _sums_over_luns,
    _volumes_made_anew,
    _limits,
    _an_array,
    _an_array_that_shows_nothing,
)
