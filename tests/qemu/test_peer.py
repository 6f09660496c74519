"""Plugging on a scripted QEMU: vfio-user, other releases, and what goes wrong in the middle."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from opi_spdk_bridge import errors
from opi_spdk_bridge.daemon import guest
from opi_spdk_bridge.daemon.settings import Settings
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import NQN, World, failing, pci
from tests.qemu.peer import Peer, peer
from tests.support.bridge import Bridge, CallError
from tests.support.patience import HOUR_S
from tests.support.ports import free_ports
from tests.support.program import program
from tests.support.target import Emulator, emulator, wait_until

CTRL = "nvmeSubsystems/sub/nvmeControllers/ctrl"
BLK = "virtioBlks/blk"

Make = Callable[..., World]

FLAGS = {"qmp_unplug_s": HOUR_S, "sweep_interval_s": HOUR_S, "connect_grace_s": 0.7}
SHORT_S = 3
"""What a test waits for in vain; all else has to come within it, too."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Peer, KeptBridge]]:
    """A target, a scripted QEMU 10.1, and a bridge that plugs into it, for the tests to share."""
    folder = tmp_path_factory.mktemp("peer")
    with (
        emulator(folder) as spdk,
        peer(folder / "qmp.sock") as qemu,
        KeptBridge(folder, spdk=spdk.socket, qmp=qemu.address, **FLAGS) as daemon,
    ):
        _wait_for_qemu(daemon)
        yield spdk, qemu, daemon


@pytest.fixture
def spdk(place: tuple[Emulator, Peer, KeptBridge]) -> Emulator:
    """The target."""
    return place[0]


@pytest.fixture
def qemu(place: tuple[Emulator, Peer, KeptBridge]) -> Iterator[Peer]:
    """The scripted QEMU, which does nothing untoward until it is told to, and is left with nothing plugged in."""
    place[1].commands.clear()
    yield place[1]
    assert (place[1].devices, place[1].chardevs) == ({}, {})


@pytest.fixture
def world(place: tuple[Emulator, Peer, KeptBridge], qemu: Peer, tmp_path: Path) -> Iterator[World]:
    """The bridge that the tests share, with a subsystem and a volume."""
    here = _furnished(place[2], place[0], place[2].shared.parent)
    yield here
    _tidy(here, qemu)


@pytest.fixture
def make_world(spdk: Emulator, qemu: Peer, tmp_path: Path) -> Iterator[Make]:
    """Starts a bridge of the test's own, with other settings."""
    started: list[tuple[Bridge, World]] = []

    def make(**flags: Any) -> World:
        settings = {**FLAGS, "spdk": spdk.socket, "state": f"sqlite:{tmp_path}/state.sqlite", "qmp": qemu.address}
        daemon = Bridge(tmp_path, **{**settings, **flags})
        daemon.start()
        _wait_for_qemu(daemon)
        started.append((daemon, _furnished(daemon, spdk, tmp_path)))
        return started[-1][1]

    yield make
    for daemon, here in started:
        _tidy(here, qemu)
        daemon.kill()


def _wait_for_qemu(daemon: Bridge) -> None:
    wait_until(lambda: "connected to QEMU" in daemon.log, "the bridge is connected to QEMU")


def _furnished(daemon: Bridge, spdk: Emulator, folder: Path) -> World:
    here = World(daemon, spdk, folder, lambda: spdk, [])
    here.null_volume("vol")
    here.subsystem()
    return here


def _tidy(world: World, qemu: Peer) -> None:
    """Deletes everything, with a QEMU that does as it should."""
    qemu.behave()
    if not qemu.runs:
        qemu.start()
    _when_it_can(world.clear)
    assert world.leftovers() == {}


def nvme(world: World, function: int = 3, resource_id: str = "ctrl") -> dict[str, Any]:
    """Creates a PCIe controller."""
    spec = {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(function)}
    return world.make("NvmeController", resource_id, {"spec": spec}, "nvmeSubsystems/sub")


def blk(world: World, function: int = 5, resource_id: str = "blk") -> dict[str, Any]:
    """Creates a virtio-blk device."""
    return world.make("VirtioBlk", resource_id, {"volume_name_ref": "vol", "pcie_id": pci(function)})


def listeners(world: World) -> list[dict[str, Any]]:
    """The listeners of the subsystem on the target."""
    subsystem = world.target.subsystem(NQN)
    assert subsystem is not None
    return list(subsystem["listen_addresses"])


def folders(world: World) -> list[Path]:
    """The folders for vfio-user sockets."""
    return list((world.folder / "shared" / "vfio-user").iterdir())


# vfio-user


def test_a_pcie_controller_is_plugged_in_as_long_as_it_exists(qemu: Peer, make_world: Make) -> None:
    world = make_world(qmp_buses="pcie.1,pcie.2")
    nvme(world, 35)
    address = listeners(world)[0]
    assert address["trtype"] == "VFIOUSER"
    socket = {"type": "unix", "path": f"{address['traddr']}/cntrl"}
    plugged = {"driver": "vfio-user-pci", "socket": socket, "bus": "pcie.2", "addr": "0x3"}
    assert qemu.devices == {"opi-pf35-ctrl": plugged}
    assert qemu.chardevs == {}
    assert world.get("NvmeController", CTRL)["status"]["active"]
    world.delete("NvmeController", CTRL)
    assert (qemu.devices, listeners(world), folders(world)) == ({}, [], [])


def test_a_fabrics_controller_is_none_of_qemus_business(qemu: Peer, world: World) -> None:
    qemu.stop()
    port = free_ports(1)[0]
    fabrics = {"traddr": "127.0.0.1", "trsvcid": str(port), "adrfam": "NVME_ADDRESS_FAMILY_IPV4"}
    spec = {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics}
    world.make("NvmeController", "ctrl", {"spec": spec}, "nvmeSubsystems/sub")
    world.delete("NvmeController", CTRL)


def test_vfio_user_needs_a_qemu_that_has_it(tmp_path: Path, make_world: Make) -> None:
    with peer(tmp_path / "qmp.sock", (10, 0, 5)) as old:
        world = make_world(qmp=old.address)
        problem = failing(lambda: nvme(world))
        assert problem.code == "FAILED_PRECONDITION"
        assert "vfio-user-pci needs QEMU 10.1 or later" in problem.message
        assert "is 10.0" in problem.message
        assert (old.devices, listeners(world), folders(world)) == ({}, [], [])
        blk(world)  # vhost-user is older than that
        world.delete("VirtioBlk", BLK)


def test_a_controller_whose_target_was_restarted_is_said_to_be_dead(
    qemu: Peer, world: World, place: tuple[Emulator, Peer, KeptBridge]
) -> None:
    spdk, _, daemon = place
    nvme(world)
    assert "dead" not in daemon.log
    spdk.kill()
    spdk.start()
    wait_until(lambda: world.target.subsystem(NQN) is not None and bool(listeners(world)), "the target listens again")
    wait_until(lambda: "opi-pf3-ctrl: its target was restarted" in daemon.log, "the bridge says so")
    assert qemu.asked("device_del") == []
    world.delete("NvmeController", CTRL)
    nvme(world)
    assert (len(qemu.asked("device_add")), len(qemu.asked("device_del"))) == (2, 1)


# Releases, addresses, settings


@pytest.mark.parametrize(("release", "again"), [((9, 1, 0), {"reconnect": 1}), ((9, 2, 0), {"reconnect-ms": 1000})])
def test_the_chardev_connects_again_by_itself(
    tmp_path: Path, make_world: Make, release: tuple[int, int, int], again: dict[str, int]
) -> None:
    with peer(tmp_path / "qmp.sock", release) as qemu:
        world = make_world(qmp=qemu.address)
        blk(world)
        controller = world.target.vhost("blk")
        assert controller is not None
        address = {"type": "unix", "data": {"path": controller["socket"]}}
        assert qemu.chardevs == {"opi-pf5-blk": {"type": "socket", "data": {"addr": address, "server": False, **again}}}
        assert qemu.devices == {"opi-pf5-blk": {"driver": "vhost-user-blk-pci", "chardev": "opi-pf5-blk"}}


def test_a_path_that_is_too_long_where_qemu_sees_it_is_refused(spdk: Emulator, qemu: Peer, make_world: Make) -> None:
    there = "/" + "q" * (107 - len("//blk"))
    world = make_world(qmp_folders=f"{spdk.vhost_dir}:{there}")
    blk(world)
    world.delete("VirtioBlk", BLK)
    problem = failing(lambda: blk(world, resource_id="blk2"))
    assert problem.code == "FAILED_PRECONDITION"
    assert f"QEMU cannot connect to opi-pf5-blk2: the socket path {there}/blk2 has 108 bytes" in problem.message
    assert "--qmp-folders" in problem.message
    assert spdk.vhost("blk2") is None


def test_the_monitor_may_be_a_tcp_port(make_world: Make) -> None:
    port = free_ports(1)[0]
    with peer(port) as qemu:
        blk(make_world(qmp=qemu.address))
        assert list(qemu.devices) == ["opi-pf5-blk"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--qmp", "nowhere"], "nowhere"),
        (["--qmp", "host:70000"], "host:70000"),
        (["--qmp-buses", "pci.0"], "--qmp is missing"),
        (["--qmp", "/q", "--qmp-buses", "a,b,a"], "twice"),
        (["--qmp", "/q", "--qmp-folders", "/a"], "TARGET_PATH:QEMU_PATH"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_the_start(flags: list[str], words: str) -> None:
    ended = program("serve", "--state", "memory:", "--listen", "127.0.0.1:0", *flags)
    assert ended.returncode != 0
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemu.qmp", None)
    for name in ("machine", "session"):
        monkeypatch.delitem(sys.modules, f"opi_spdk_bridge.qemu.{name}", raising=False)
    with pytest.raises(errors.FailedPrecondition, match=r"pip install 'opi-spdk-bridge\[qemu\]'"):
        guest.host(Settings.model_validate({"qmp": "/run/qmp.sock"}))


# QEMU refuses


def test_what_qemu_refuses_leaves_nothing_behind(qemu: Peer, world: World) -> None:
    qemu.refusals["device_add"] = "Bus 'pci.7' not found"
    for make, reported in ((blk, world.target.inventory), (nvme, world.target.inventory)):
        before = reported()
        problem = failing(partial(make, world))
        assert problem.code == "FAILED_PRECONDITION"
        assert "Bus 'pci.7' not found" in problem.message
        assert reported() == before
    assert (listeners(world), folders(world), qemu.chardevs) == ([], [], {})


def test_somebody_elses_device_of_that_id_is_left_alone(qemu: Peer, world: World) -> None:
    qemu.devices["opi-pf5-blk"] = {"driver": "virtio-net-pci"}
    qemu.hang_up()
    problem = failing(lambda: _when_it_can(lambda: blk(world)))
    assert problem.code == "ALREADY_EXISTS"
    assert "virtio-net-pci" in problem.message
    assert list(qemu.devices) == ["opi-pf5-blk"]
    assert world.target.vhost("blk") is None
    qemu.remove("opi-pf5-blk")


def test_a_function_is_for_one_device_of_whatever_sort(qemu: Peer, world: World) -> None:
    holder = nvme(world, 5)["name"]
    problem = failing(lambda: blk(world, 5))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "virtio_blk.pcie_id")
    assert holder in problem.message
    assert list(qemu.devices) == ["opi-pf5-ctrl"]


def test_a_function_without_a_place_on_the_buses_is_refused(qemu: Peer, make_world: Make) -> None:
    world = make_world(qmp_buses="pci.1,pci.2")
    blk(world, 63)
    for make, name in ((blk, "virtio_blk.pcie_id"), (nvme, "nvme_controller.spec.pcie_id")):
        problem = failing(partial(make, world, 64, "beyond"))
        assert (problem.code, problem.field) == ("INVALID_ARGUMENT", f"{name}.physical_function")
        assert "pci.1, pci.2" in problem.message


# QEMU goes


@pytest.mark.parametrize("make", [blk, nvme])
def test_nothing_is_made_while_qemu_is_away(qemu: Peer, world: World, make: Any) -> None:
    _stop(qemu, world)
    before = world.target.inventory()
    problem = failing(lambda: make(world))
    assert problem.code == "UNAVAILABLE"
    assert "QEMU" in problem.message
    assert qemu.address in problem.message
    assert (world.target.inventory(), listeners(world), folders(world)) == (before, [], [])
    qemu.start()
    _when_it_can(lambda: make(world))
    assert len(qemu.devices) == 1


@pytest.mark.parametrize("change", [{"volume_name_ref": "other"}, {"pcie_id": pci(6)}])
def test_nothing_is_moved_while_qemu_is_away(qemu: Peer, world: World, change: dict[str, Any]) -> None:
    world.null_volume("other")
    before = blk(world)
    _stop(qemu, world)
    problem = failing(lambda: world.update("VirtioBlk", {"name": BLK, **change}))
    assert problem.code == "UNAVAILABLE"
    assert f"QEMU at {qemu.address} cannot be reached" in problem.message
    assert world.get("VirtioBlk", BLK) == before
    controller = world.target.vhost("blk")
    assert controller is not None
    assert controller["backend_specific"]["block"]["bdev"] == "vol"
    qemu.start()
    wait_until(lambda: list(qemu.devices) == ["opi-pf5-blk"], "it is where it was")


@pytest.mark.parametrize("when", ["hang_up_at", "hang_up_after"])
@pytest.mark.parametrize("command", ["chardev-add", "device_add"])
def test_a_creation_that_qemu_hangs_up_on_comes_to_its_end(qemu: Peer, world: World, when: str, command: str) -> None:
    setattr(qemu, when, command)
    problem = failing(lambda: blk(world))
    assert problem.code == "UNAVAILABLE"
    assert f"QEMU hung up during {command}" in problem.message
    setattr(qemu, when, "")
    wait_until(lambda: bool(qemu.devices), "it is plugged in")
    wait_until(lambda: _exists(world, "VirtioBlk", BLK), "it has been created")
    blk(world)  # the same again
    assert list(qemu.devices) == list(qemu.chardevs) == ["opi-pf5-blk"]
    world.delete("VirtioBlk", BLK)
    assert (qemu.devices, qemu.chardevs) == ({}, {})


@pytest.mark.parametrize("when", ["hang_up_at", "hang_up_after"])
@pytest.mark.parametrize("command", ["device_del", "chardev-remove"])
def test_a_deletion_that_qemu_hangs_up_on_comes_to_its_end(qemu: Peer, world: World, when: str, command: str) -> None:
    blk(world)
    setattr(qemu, when, command)
    problem = failing(lambda: world.delete("VirtioBlk", BLK))
    assert problem.code == "UNAVAILABLE"
    assert f"QEMU hung up during {command}" in problem.message
    assert _exists(world, "VirtioBlk", BLK)
    setattr(qemu, when, "")
    wait_until(lambda: not _exists(world, "VirtioBlk", BLK), "it has been deleted")
    assert (qemu.devices, qemu.chardevs) == ({}, {})
    assert world.target.vhost("blk") is None


def test_a_qemu_that_hangs_up_while_the_guest_thinks_forgets_nothing(qemu: Peer, world: World) -> None:
    nvme(world)
    qemu.lets_go = False
    qemu.silent_at = "device_del"
    problem = failing(
        lambda: _while_asked(qemu, "device_del", qemu.hang_up, lambda: world.delete("NvmeController", CTRL))
    )
    assert problem.code == "UNAVAILABLE"
    assert "hung up during device_del" in problem.message
    assert listeners(world)
    qemu.lets_go, qemu.silent_at = True, ""
    wait_until(lambda: not _exists(world, "NvmeController", CTRL), "it has been deleted")
    assert (qemu.devices, listeners(world)) == ({}, [])


def test_a_deletion_that_the_bridge_does_not_live_to_see_comes_to_its_end(
    qemu: Peer, world: World, place: tuple[Emulator, Peer, KeptBridge]
) -> None:
    blk(world)
    qemu.lets_go = False
    failing(lambda: _while_asked(qemu, "device_del", place[2].kill, lambda: world.delete("VirtioBlk", BLK)))
    assert world.target.vhost("blk") is not None
    qemu.lets_go = True
    place[2].start()
    wait_until(lambda: not _exists(world, "VirtioBlk", BLK), "it has been deleted")
    assert (qemu.devices, qemu.chardevs, world.target.vhost("blk")) == ({}, {}, None)


def test_a_command_that_is_never_answered_ends_in_time_and_is_looked_into(qemu: Peer, make_world: Make) -> None:
    world = make_world(call_timeout_s=SHORT_S)
    qemu.silent_at = "device_add"
    problem = failing(lambda: nvme(world))
    assert problem.code == "DEADLINE_EXCEEDED"
    assert f"QEMU did not answer device_add within {SHORT_S} s" in problem.message
    qemu.silent_at = ""
    wait_until(lambda: _exists(world, "NvmeController", CTRL), "it has been created")
    assert len(qemu.asked("device_add")) == 1


def test_a_deletion_is_done_when_no_qemu_runs_any_more(qemu: Peer, world: World) -> None:
    blk(world)
    nvme(world)
    _stop(qemu, world)
    world.delete("VirtioBlk", BLK)
    world.delete("NvmeController", CTRL)
    assert (world.target.vhost("blk"), listeners(world)) == (None, [])
    qemu.start()
    blk(world, resource_id="next")
    assert list(qemu.devices) == ["opi-pf5-next"]


def test_a_monitor_that_another_client_has_is_no_reason_to_take_the_device_from_the_guest(
    qemu: Peer, make_world: Make
) -> None:
    world = make_world(call_timeout_s=SHORT_S)
    blk(world)
    qemu.greets = False
    qemu.hang_up()
    problem = failing(lambda: world.delete("VirtioBlk", BLK))
    assert problem.code == "UNAVAILABLE"
    assert "QEMU" in problem.message
    assert world.target.vhost("blk") is not None
    assert list(qemu.devices) == ["opi-pf5-blk"]
    qemu.greets = True
    qemu.hang_up()
    _when_it_can(lambda: world.delete("VirtioBlk", BLK))
    assert qemu.devices == {}


def test_what_is_no_qemu_is_said_so(qemu: Peer, world: World) -> None:
    qemu.babbles = True
    qemu.hang_up()

    def reason() -> str:
        problem = failing(lambda: blk(world))
        return problem.message if problem.code == "UNAVAILABLE" else ""

    wait_until(lambda: "cannot be reached: Did not understand Greeting" in reason(), "the bridge says so")
    assert "SSH" not in reason()
    assert world.target.vhost("blk") is None


def test_everything_is_plugged_in_again_after_a_restart(qemu: Peer, world: World) -> None:
    blk(world)
    nvme(world)
    for number in range(20, 40):
        blk(world, number, f"more-{number}")
    before = {name: dict(given) for name, given in qemu.devices.items()}
    qemu.stop()
    qemu.start()
    wait_until(lambda: qemu.devices == before, "all are plugged in again")
    assert set(qemu.chardevs) == {name for name, given in before.items() if "chardev" in given}


def test_a_restart_of_the_bridge_leaves_everything_plugged_in(
    qemu: Peer, world: World, place: tuple[Emulator, Peer, KeptBridge]
) -> None:
    blk(world)
    nvme(world)
    daemon, seen = place[2], len(place[2].log)
    qemu.commands.clear()
    daemon.restart()
    wait_until(lambda: "connected to QEMU" in daemon.log[seen:], "the bridge is connected to QEMU")
    wait_until(lambda: "swept 4 resources" in daemon.log[seen:], "the bridge has looked at everything")
    assert qemu.asked("device_add", "device_del", "chardev-add", "chardev-remove") == []


def test_what_somebody_else_unplugs_is_plugged_in_again(qemu: Peer, make_world: Make) -> None:
    blk(make_world(sweep_interval_s=1))
    qemu.remove("opi-pf5-blk")
    wait_until(lambda: bool(qemu.devices), "it is plugged in again")
    assert list(qemu.chardevs) == ["opi-pf5-blk"]


def test_the_target_is_put_right_while_qemu_is_away(qemu: Peer, world: World, spdk: Emulator) -> None:
    blk(world)
    nvme(world)
    _stop(qemu, world)
    spdk.kill()
    spdk.start()
    wait_until(lambda: spdk.vhost("blk") is not None and bool(listeners(world)), "the target is as it was")
    qemu.start()
    wait_until(lambda: len(qemu.devices) == 2, "they are plugged in again")


# The guest


def test_a_guest_that_does_not_let_go_keeps_its_device(qemu: Peer, make_world: Make) -> None:
    world = make_world(qmp_unplug_s=SHORT_S)
    blk(world)
    qemu.lets_go = False
    problem = failing(lambda: world.delete("VirtioBlk", BLK))
    assert problem.code == "FAILED_PRECONDITION"
    assert f"the guest has not let go of opi-pf5-blk within {SHORT_S} s" in problem.message
    assert _exists(world, "VirtioBlk", BLK)
    assert world.target.vhost("blk") is not None
    assert list(qemu.devices) == ["opi-pf5-blk"]
    qemu.lets_go = True
    _when_it_can(lambda: world.delete("VirtioBlk", BLK))
    assert (qemu.devices, world.target.vhost("blk")) == ({}, None)


def test_a_short_deadline_bounds_the_wait_too(qemu: Peer, world: World) -> None:
    blk(world)
    qemu.lets_go = False

    def told() -> str:
        return failing(lambda: world.opi.call("DeleteVirtioBlk", {"name": BLK}, timeout_s=2)).message

    wait_until(lambda: "has not let go" in told(), "the bridge answers before the deadline has passed for the client")


def test_a_device_that_a_guest_keeps_is_not_moved(qemu: Peer, make_world: Make) -> None:
    world = make_world(qmp_unplug_s=SHORT_S)
    blk(world)
    qemu.lets_go = False
    world.null_volume("other")
    for change in ({"volume_name_ref": "other"}, {"pcie_id": pci(6)}):
        problem = failing(partial(world.update, "VirtioBlk", {"name": BLK, **change}))
        assert problem.code == "FAILED_PRECONDITION"
    assert list(qemu.devices) == ["opi-pf5-blk"]
    assert world.get("VirtioBlk", BLK)["volume_name_ref"] == "vol"


def test_a_move_that_qemu_refuses_is_taken_back(qemu: Peer, world: World) -> None:
    blk(world)
    world.null_volume("other")
    qemu.refusals["device_add opi-pf6-blk"] = "slot 6 is in use"
    problem = failing(lambda: world.update("VirtioBlk", {"name": BLK, "pcie_id": pci(6), "volume_name_ref": "other"}))
    assert problem.code == "FAILED_PRECONDITION"
    assert "slot 6 is in use" in problem.message
    assert list(qemu.devices) == list(qemu.chardevs) == ["opi-pf5-blk"]
    controller = world.target.vhost("blk")
    assert controller is not None
    assert controller["backend_specific"]["block"]["bdev"] == "vol"


def _exists(world: World, noun: str, name: str) -> bool:
    return any(
        item["name"] == name for item in world.page(noun, name.partition("/nvmeC")[0] if "/nvmeC" in name else "")[0]
    )


def _stop(qemu: Peer, world: World) -> None:
    """Ends QEMU, and waits until the bridge has noticed."""
    daemon, lost = cast(Bridge, world.opi), "lost the connection to QEMU"
    before = daemon.log.count(lost)
    qemu.stop()
    wait_until(lambda: daemon.log.count(lost) > before, "the bridge has noticed")


def _when_it_can(call: Callable[[], Any]) -> Any:
    """Calls again while the bridge is not connected to QEMU yet, or the guest still has the device."""
    results: list[Any] = []

    def done() -> bool:
        try:
            results.append(call())
        except CallError as problem:
            if problem.code != "UNAVAILABLE" and "has not let go" not in problem.message:
                raise
        return bool(results)

    wait_until(done, "it can be done")
    return results[0]


def _while_asked(qemu: Peer, command: str, act: Callable[[], None], call: Callable[[], Any]) -> Any:
    """Calls, and acts once QEMU has got the command."""

    def wait() -> None:
        wait_until(lambda: bool(qemu.asked(command)), f"QEMU is asked {command}")
        act()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        return call()
    finally:
        waiting.join()
