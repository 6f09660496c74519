"""Records as an earlier version of the bridge kept them: values in a spelling that this one would not keep."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opi_spdk_bridge.cli import offline
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import HOST_NQN, NQN, PSK, World, fabrics, gets_in, psk
from tests.support.target import DISCOVERY_NQN, Emulator, Target, wait_until

CONTROLLER = "nvmeSubsystems/sub/nvmeControllers/c0"
Record = dict[str, Any]


def rewrite(state: str, change: Callable[[Record], None]) -> None:
    """Changes the resources of a state that no bridge has open."""

    async def work() -> None:
        exported = await offline.export(state, None, with_secrets=True)
        for record in exported["records"]:
            change(record)
        await offline.import_(state, None, exported, replace=True)

    asyncio.run(work())


"""A sweep rests 100 times as long as it takes, which on a busy machine is long."""


@pytest.fixture
def world(tmp_path: Path, spdk: Emulator, far: Target) -> World:
    """Its bridge is not started yet."""
    return World(KeptBridge(tmp_path, spdk=spdk.socket, sweep_interval_s=0.2), spdk, tmp_path, lambda: far)


def test_a_listener_on_a_port_with_zeros_stays_as_it_is_and_can_be_deleted(world: World, tmp_path: Path) -> None:
    port, zeros = str(world.ports[0]), f"0{world.ports[0]}"
    bridge = world.opi
    assert isinstance(bridge, KeptBridge)
    with bridge:
        world.subsystem()
        world.controller("c0", world.ports[0])
        bridge.stop()
        old, new = (
            {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": each} for each in (port, zeros)
        )
        for nqn in (NQN, DISCOVERY_NQN):
            world.target.rpc("nvmf_subsystem_remove_listener", nqn=nqn, listen_address=old)
        for nqn in (NQN, DISCOVERY_NQN):
            world.target.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=new)

        def spell(record: Record) -> None:
            if record["name"] == CONTROLLER:
                record["resource"]["spec"]["fabrics_id"]["trsvcid"] = zeros

        rewrite(f"sqlite:{tmp_path}/state.sqlite", spell)
        world.quiet()
        bridge.start()
        made = world.get("NvmeController", CONTROLLER)
        assert (made["spec"]["fabrics_id"]["trsvcid"], made["status"]) == (port, {"active": True})
        assert world.controller("c0", world.ports[0]) == made
        endpoint = {"trtype": made["spec"]["trtype"], "fabrics_id": {**fabrics(world.ports[0]), "trsvcid": zeros}}
        assert world.make("NvmeController", "c0", {"spec": endpoint}, "nvmeSubsystems/sub") == made
        world.update("NvmeController", {"name": CONTROLLER, "spec": {"max_nsq": 5}}, "spec.max_nsq")
        wait_until(lambda: bridge.log.count("swept") >= 2, "the target is swept")
        assert [call for call in world.asked() if "listener" in call] == []
        assert world.listeners() == [("127.0.0.1", zeros, False)]
        world.delete("NvmeController", CONTROLLER)
        assert world.listeners() == []
        assert world.target.discovery_listeners() == []


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_keys_with_a_newline_lose_it_and_work(world: World, tmp_path: Path) -> None:
    bridge = world.opi
    assert isinstance(bridge, KeptBridge)
    with bridge:
        world.subsystem(hostnqn=HOST_NQN, psk=psk())
        world.controller("c0", world.ports[0])
        world.remote_controller(tcp={"psk": psk()})
        bridge.stop()
        files = [Path(key["path"]) for key in world.target.rpc("keyring_get_keys")]
        for file in files:
            file.write_text(f"{PSK}\n")

        def end(record: Record) -> None:
            for part in (record["resource"].get("spec", {}), record["resource"].get("tcp", {})):
                if "psk" in part:
                    part["psk"] = base64.b64encode(f"{PSK}\n".encode()).decode()

        rewrite(f"sqlite:{tmp_path}/state.sqlite", end)
        bridge.start()
        wait_until(lambda: [_text(file) for file in files] == [PSK, PSK], "the keys' files have the keys alone")
        wait_until(lambda: gets_in(world, world.ports[0], PSK), "the host gets in")
        world.subsystem(hostnqn=HOST_NQN, psk=psk())
        world.remote_controller(tcp={"psk": psk()})


def test_controllers_of_before_get_their_discovery_listeners(world: World, tmp_path: Path) -> None:
    bridge = world.opi
    assert isinstance(bridge, KeptBridge)
    with bridge:
        for name in ("one", "two"):
            world.subsystem(name, f"{NQN}:{name}")
            world.controller("c0", world.ports[0], f"nvmeSubsystems/{name}")
        bridge.stop()
        (address,) = world.target.discovery_listeners()
        world.target.rpc("nvmf_subsystem_remove_listener", nqn=DISCOVERY_NQN, listen_address=address)

        def forget(record: Record) -> None:
            if record["kind"] == "nvmeController":
                record["private"] = {}

        rewrite(f"sqlite:{tmp_path}/state.sqlite", forget)
        bridge.start()
        wait_until(lambda: world.target.discovery_listeners() == [address], "hosts can discover")
        for name in ("one", "two"):
            assert world.target.discovery_listeners() == [address]
            world.delete("NvmeController", f"nvmeSubsystems/{name}/nvmeControllers/c0")
        assert world.target.discovery_listeners() == []
