"""The target is brought back to what was asked: after its death, the bridge's, and whatever somebody did to it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.http.web import Web
from tests.kinds.cases import KEY
from tests.kinds.world import FAR_NQN, HOST_NQN, NQN, PSK, World, failing, free_ports, pci
from tests.support.array import TEST_PSK_BASE64
from tests.support.bridge import Bridge
from tests.support.patience import HOUR_S, PATIENCE_S
from tests.support.target import DISCOVERY_NQN, Emulator, Target, wait_until


def inject_fault(target: Target, **fault: Any) -> None:
    """See `emulator_inject_fault`."""
    target.rpc("emulator_inject_fault", **fault)


OPEN_NQN = f"{NQN}:open"
_READS = ("get", "version", "wait_init", "notify", "iostat")


@dataclass
class Here:
    """A bridge on a target of the test's own."""

    world: World
    opi: Bridge
    spdk: Emulator

    def calls(self, *, reset: bool = True) -> dict[str, int]:
        """How often the target was asked what since the last time."""
        return dict(self.spdk.rpc("emulator_call_counts", reset=reset)["calls"])

    def changes(self) -> dict[str, int]:
        """The same, of what changes something."""
        return {name: n for name, n in self.calls().items() if not any(read in name for read in _READS)}

    def sweep(self, times: int = 2) -> None:
        """Waits for so many more sweeps: the last of them has begun after this was called."""
        done = self._sweeps()
        wait_until(lambda: self._sweeps() >= done + times, f"{times} more sweeps")

    def _sweeps(self) -> float:
        assert isinstance(self.opi, Web)
        metrics = self.opi.http.get("/metrics").text
        return float(re.search(r"^opi_bridge_reconciler_sweeps_total (\S+)", metrics, re.MULTILINE)[1])  # type: ignore[index]

    def restart_target(self) -> None:
        """The target dies and comes back empty."""
        self.spdk.kill()
        self.spdk.start()


@pytest.fixture
def start(tmp_path: Path, spdk: Emulator, request: pytest.FixtureRequest) -> Iterator[Callable[..., Here]]:
    """Starts a bridge with the given flags."""
    stack: list[Web] = []

    def started(**flags: Any) -> Here:
        asked = {"sweep_interval_s": 0.3, "notifications_s": 0.1, "log_level": "debug", **flags}
        daemon = Web(tmp_path, spdk=spdk.socket, state=f"sqlite:{tmp_path}/state.sqlite", **asked)
        daemon.start()
        stack.append(daemon)
        far: Callable[[], Target] = lambda: request.getfixturevalue("far")  # noqa: E731
        return Here(World(daemon, spdk, tmp_path, far), daemon, spdk)

    yield started
    for daemon in stack:
        if daemon.running:
            daemon.kill()


def populate(world: World) -> None:
    """Something of every kind, with references between them that need an order."""
    world.array()
    for number in range(4):
        world.null_volume(f"v{number}")
    world.malloc_volume("m0")
    world.make("AioVolume", "a0", {"filename": world.file("disk", 2048), "block_size": 512})
    world.make("EncryptedVolume", "e0", {"volume_name_ref": "m0", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"})
    tls = {"psk": TEST_PSK_BASE64, "hdgst": True}
    world.make("NvmeRemoteController", "tls", {"multipath": "NVME_MULTIPATH_MULTIPATH", "tcp": tls})
    world.remote_controller()
    world.path("p0", world.ports[0])
    world.subsystem(hostnqn=HOST_NQN, psk=TEST_PSK_BASE64)
    world.subsystem("open", OPEN_NQN)
    world.controller("c0", world.ports[6])
    pcie = {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(3)}
    world.make("NvmeController", "c1", {"spec": pcie}, "nvmeSubsystems/open")
    world.controller("c2", world.ports[7], "nvmeSubsystems/open")
    world.namespace("n7", "v0", host_nsid=7)
    world.namespace("n2", "e0", host_nsid=2)
    world.namespace("any", "a0")
    world.namespace("far", "arrayn1", "nvmeSubsystems/open")
    world.make("QosVolume", "q0", {"volume_name_ref": "v0", "limits": {"max": {"rw_iops_kiops": 20}}})
    world.make("VirtioBlk", "blk", {"volume_name_ref": "v1", "pcie_id": pci(1)})
    world.make("VirtioScsiTarget", "tgt", {"max_luns": 4})
    world.make("VirtioScsiController", "ctl", {"pcie_id": pci(2)})
    world.make("VirtioScsiLun", "l0", {"target_name_ref": "tgt", "volume_name_ref": "v2"})
    world.make("VirtioScsiLun", "l1", {"target_name_ref": "ctl", "volume_name_ref": "v3"})


def picture(target: Target) -> dict[str, Any]:
    """All of the target that clients or hosts could see, identities included."""
    subsystems = [s for s in target.rpc("nvmf_get_subsystems") if s["subtype"] != "Discovery"]
    return {
        "bdevs": {
            b["name"]: (b["uuid"], b["block_size"], b["num_blocks"], b["claimed"], b["assigned_rate_limits"])
            for b in target.rpc("bdev_get_bdevs")
        },
        "subsystems": {
            s["nqn"]: {
                "serial": s["serial_number"],
                "hosts": [host["nqn"] for host in s["hosts"]],
                "any": s["allow_any_host"],
                "listeners": sorted((a["trtype"], a["traddr"], a.get("trsvcid", "")) for a in s["listen_addresses"]),
                "namespaces": {ns["nsid"]: (ns["bdev_name"], ns.get("uuid"), ns["nguid"]) for ns in s["namespaces"]},
            }
            for s in subsystems
        },
        "discovery": sorted((a["traddr"], a["trsvcid"]) for a in target.discovery_listeners()),
        "vhost": {v["ctrlr"]: v["backend_specific"] for v in target.rpc("vhost_get_controllers")},
        "paths": {
            c["name"]: [p["trid"]["trsvcid"] for p in c["ctrlrs"]] for c in target.rpc("bdev_nvme_get_controllers")
        },
        "keys": sorted(k["name"] for k in target.rpc("keyring_get_keys") if not k.get("removed")),
        "crypto_keys": sorted((k["name"], k["key"]) for k in target.rpc("accel_crypto_keys_get")),
    }


def assert_becomes(target: Target, wanted: dict[str, Any], seconds: float = PATIENCE_S) -> None:
    """Waits until the target looks like that; shows the first difference when it does not."""
    limit = time.monotonic() + seconds
    while (seen := picture(target)) != wanted and time.monotonic() < limit:
        time.sleep(0.02)
    for part, state in wanted.items():
        assert seen[part] == state, part


def events(log: str, part: str) -> list[str]:
    """The lines of the log that contain a text."""
    return [line for line in log.splitlines() if part in line]


# The target dies


def test_a_target_that_died_gets_everything_back(start: Callable[..., Here]) -> None:
    here = start()
    populate(here.world)
    before = picture(here.spdk)
    here.restart_target()
    assert_becomes(here.spdk, before)
    assert before["subsystems"][NQN]["namespaces"].keys() >= {2, 7}
    assert not events(here.opi.log, "cannot be brought to what was asked")
    assert not events(here.opi.log, "was not as asked"), "what a restart took is no drift"


def test_a_target_that_dies_again_and_again_gets_everything_back(start: Callable[..., Here]) -> None:
    here = start()
    populate(here.world)
    before = picture(here.spdk)
    for pause_s in (0.0, 0.05, 0.3):
        here.restart_target()
        time.sleep(pause_s)
    assert_becomes(here.spdk, before)


def test_a_target_that_dies_during_a_restore_gets_everything_back(start: Callable[..., Here]) -> None:
    here = start()
    populate(here.world)
    before = picture(here.spdk)
    with here.opi.suspended():
        here.restart_target()
        inject_fault(here.spdk, action="die", method="nvmf_subsystem_add_ns", when="after", count=1)
    wait_until(lambda: not here.spdk.running, "the target has died")
    here.restart_target()
    assert_becomes(here.spdk, before)


def test_a_target_that_has_come_back_is_not_ready_before_it_was_compared(start: Callable[..., Here]) -> None:
    here = start(sweep_interval_s=HOUR_S)
    assert isinstance(here.opi, Web)
    http = here.opi.http
    wait_until(lambda: http.get("/readyz").status_code == 200, "ready")
    seen = len(here.opi.log)
    with here.opi.suspended():
        here.restart_target()
        inject_fault(here.spdk, action="hold", method="nvmf_get_subsystems", count=1)
    wait_until(lambda: "connected to SPDK" in here.opi.log[seen:], "it is connected again")
    checks = http.get("/readyz").json()["checks"]
    assert [check["name"] for check in checks if not check["ok"]] == ["first sweep done"]
    here.spdk.rpc("emulator_clear_faults")
    wait_until(lambda: http.get("/readyz").status_code == 200, "ready again")


def test_data_that_a_malloc_volume_lost_is_said_loudly(start: Callable[..., Here]) -> None:
    here = start()
    here.world.malloc_volume("m0")
    here.world.null_volume("v0")
    here.restart_target()
    wait_until(lambda: events(here.opi.log, "DATA LOST"), "the loss is logged")
    lines = events(here.opi.log, "DATA LOST")
    assert len(lines) == 1
    assert "mallocVolumes/m0" in lines[0]
    assert '"error"' in lines[0] or "error" in lines[0].lower()


def test_malloc_data_that_is_still_there_is_not_said_lost(start: Callable[..., Here]) -> None:
    here = start()
    here.world.malloc_volume("m0")
    here.opi.kill()
    here.opi.start()
    wait_until(lambda: events(here.opi.log, "swept 1 resources"), "the target was compared")
    assert not events(here.opi.log, "DATA LOST")


# The bridge dies


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_of_the_bridge_changes_nothing_on_the_target(start: Callable[..., Here], end: str) -> None:
    here = start()
    populate(here.world)
    before = picture(here.spdk)
    answers = [here.world.get(noun, name) for noun, name in here.world.everything()]
    getattr(here.opi, end)()
    here.calls()
    here.opi.start()
    wait_until(lambda: here.opi.log.count("swept") >= 2, "the target was compared with the state")
    assert here.changes() == {}
    assert picture(here.spdk) == before
    assert [here.world.get(noun, name) for noun, name in here.world.everything()] == answers


def test_a_bridge_that_starts_without_its_target_answers_reads_at_once(start: Callable[..., Here]) -> None:
    here = start(connect_grace_s=HOUR_S)
    populate(here.world)
    before = picture(here.spdk)
    names = sorted(name for _, name in here.world.everything())
    here.opi.kill()
    here.spdk.kill()
    here.opi.start()
    assert sorted(name for _, name in here.world.everything()) == names
    started = time.monotonic()
    for _ in range(100):
        assert here.world.get("NvmeNamespace", "nvmeSubsystems/sub/nvmeNamespaces/n7")["spec"]["host_nsid"] == 7
    assert time.monotonic() - started < PATIENCE_S, "none of a hundred waits, be it for the status alone"
    here.opi.kill()
    here = start(connect_grace_s=0.5)
    problem = failing(lambda: here.world.null_volume("new"))
    assert problem.code == "UNAVAILABLE"
    assert here.spdk.socket in problem.message
    here.spdk.start()
    assert_becomes(here.spdk, before)
    here.world.null_volume("new")


def test_what_was_half_done_when_the_bridge_died_is_wholly_there_or_wholly_absent(start: Callable[..., Here]) -> None:
    here = start()
    here.world.null_volume("v0")
    inject_fault(here.spdk, action="hold", method="nvmf_create_subsystem", when="after", count=1)
    client = here.opi
    future = _send(client, "NvmeSubsystem", "sub", {"spec": {"nqn": NQN, "hostnqn": HOST_NQN, "psk": TEST_PSK_BASE64}})
    wait_until(lambda: here.calls(reset=False).get("nvmf_create_subsystem"), "the target was asked")
    here.opi.kill()
    future.cancel()
    here.spdk.rpc("emulator_clear_faults")
    here.opi.start()
    wait_until(lambda: here.opi.log.count("swept") >= 2, "the target was compared with the state")
    listed = [item["name"] for item in here.world.all("NvmeSubsystem")]
    assert listed in ([], ["nvmeSubsystems/sub"])
    wait_until(lambda: (here.spdk.subsystem(NQN) is not None) == bool(listed), "target and store agree")
    keys = len(picture(here.spdk)["keys"])
    assert keys == len(list((here.world.folder / "shared" / "keys").iterdir())) == len(listed)
    again = here.world.subsystem(hostnqn=HOST_NQN, psk=TEST_PSK_BASE64)
    assert again["name"] == "nvmeSubsystems/sub"
    assert len(picture(here.spdk)["keys"]) == 1


def _send(opi: Bridge, noun: str, resource_id: str, resource: dict[str, Any]) -> Any:
    """A create request whose answer is not waited for."""
    from google.protobuf import json_format, message_factory

    from tests.kinds.world import resource_field
    from tests.support.bridge import METHODS

    descriptor, field = METHODS[f"Create{noun}"], resource_field(noun)
    message = message_factory.GetMessageClass(descriptor.input_type)()
    json_format.ParseDict({field: resource, f"{field}_id": resource_id}, message)
    call: Any = opi.channel.unary_unary(
        f"/{descriptor.containing_service.full_name}/Create{noun}",
        request_serializer=lambda item: item.SerializeToString(),
    )
    return call.future(message, timeout=PATIENCE_S)


# Somebody changes the target by hand


def _remove(method: str, **params: Any) -> Callable[[Here], None]:
    return lambda here: here.spdk.rpc(method, **params)


def _listener(here: Here) -> None:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(here.world.ports[6])}
    here.spdk.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address)


def _discovery(here: Here) -> None:
    (address,) = here.spdk.discovery_listeners()
    here.spdk.rpc("nvmf_subsystem_remove_listener", nqn=DISCOVERY_NQN, listen_address=address)


def _renumber(here: Here) -> None:
    """The namespace under NSID 7 is moved to NSID 9, its identity kept."""
    subsystem = here.spdk.subsystem(NQN)
    assert subsystem is not None
    nguid = next(ns["nguid"] for ns in subsystem["namespaces"] if ns["nsid"] == 7)
    here.spdk.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7)
    here.spdk.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "v0", "nsid": 9, "nguid": nguid})


def _tls_key(here: Here) -> None:
    for key in here.spdk.rpc("keyring_get_keys"):
        here.spdk.rpc("keyring_file_remove_key", name=key["name"])


def _path(here: Here) -> None:
    here.spdk.rpc(
        "bdev_nvme_detach_controller", name="array", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
        trsvcid=str(here.world.ports[0]), subnqn=FAR_NQN,
    )  # fmt: skip


DRIFT = {
    "subsystem": (_remove("nvmf_delete_subsystem", nqn=NQN), "nvmeSubsystems/sub was not as asked (it is gone)"),
    "discovery": (_discovery, "nvmeControllers/c2 was not as asked (hosts cannot discover at TCP 127.0.0.1 "),
    "listener": (_listener, "nvmeControllers/c0 was not as asked (it is gone)"),
    "host": (
        _remove("nvmf_subsystem_remove_host", nqn=NQN, host=HOST_NQN),
        f"nvmeSubsystems/sub was not as asked (the TCP transport has not got the key of host {HOST_NQN};"
        f" host {HOST_NQN} may not connect)",
    ),
    "another host": (
        _remove("nvmf_subsystem_add_host", nqn=OPEN_NQN, host=f"{NQN}:stranger"),
        f"nvmeSubsystems/open was not as asked (host {NQN}:stranger may connect)",
    ),
    "any host": (
        _remove("nvmf_subsystem_allow_any_host", nqn=OPEN_NQN, allow_any_host=False),
        "nvmeSubsystems/open was not as asked (only listed hosts may connect)",
    ),
    "namespace": (_remove("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7), "nvmeNamespaces/n7 was not as asked"),
    "NSID": (_renumber, "nvmeNamespaces/n7 was not as asked (NSID 9 of"),
    "bdev": (_remove("bdev_null_delete", name="v0"), "nullVolumes/v0 was not as asked (it is gone)"),
    "crypto bdev": (_remove("bdev_crypto_delete", name="e0"), "encryptedVolumes/e0 was not as asked (it is gone)"),
    "volume under crypto": (_remove("bdev_malloc_delete", name="m0"), "mallocVolumes/m0: DATA LOST"),
    "vhost": (_remove("vhost_delete_controller", ctrlr="blk"), "virtioBlks/blk was not as asked (it is gone)"),
    "SCSI device": (_remove("vhost_delete_controller", ctrlr="ctl"), "virtioScsiControllers/ctl was not as asked"),
    "LUN": (
        _remove("vhost_scsi_controller_remove_target", ctrlr="tgt", scsi_target_num=0),
        "virtioScsiLuns/l0 was not as asked (it is gone)",
    ),
    "limits": (
        _remove("bdev_set_qos_limit", name="v0", rw_ios_per_sec=5000),
        "qosVolumes/q0 was not as asked (bdev v0 has other limits)",
    ),
    "TLS keys": (_tls_key, "nvmeRemoteControllers/tls was not as asked"),
    "path": (_path, "nvmePaths/p0 was not as asked (it is gone)"),
}


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory, shared_emulators: dict[str, Emulator]) -> Iterator[Here]:
    """One populated bridge for all of them: each leaves it as it was."""
    folder = tmp_path_factory.mktemp("drift")
    spdk, far = Emulator(folder), shared_emulators["far-of-drift"]
    spdk.start()
    far.rpc("nvmf_create_transport", trtype="TCP")
    daemon = Bridge(
        folder, spdk=spdk.socket, state=f"sqlite:{folder}/state.sqlite", sweep_interval_s=0.3, notifications_s=0.1
    )
    daemon.start()
    here = Here(World(daemon, spdk, folder, lambda: far), daemon, spdk)
    populate(here.world)
    yield here
    daemon.kill()
    spdk.kill()


@pytest.mark.parametrize("sort", DRIFT)
def test_drift_is_repaired_and_logged_with_what_differed(drifting: Here, sort: str) -> None:
    damage, said = DRIFT[sort]
    before, seen = picture(drifting.spdk), len(drifting.opi.log)
    damage(drifting)
    assert_becomes(drifting.spdk, before)
    wait_until(lambda: said in drifting.opi.log[seen:], f"the log says {said!r}")


def test_what_the_target_tells_of_itself_is_repaired_long_before_the_next_sweep(start: Callable[..., Here]) -> None:
    here = start(sweep_interval_s=HOUR_S, notifications_s=0.1)
    here.world.null_volume("v0")
    here.world.subsystem()
    here.world.namespace("n0", "v0", host_nsid=3)
    before = picture(here.spdk)
    here.calls()
    asked = "notify_get_notifications"  # the first of a connection say nothing
    wait_until(lambda: here.calls(reset=False).get(asked, 0) >= 3, "notifications have been read")
    here.spdk.rpc("bdev_null_delete", name="v0")
    assert_becomes(here.spdk, before)


# What is somebody else's


def test_what_the_bridge_did_not_make_is_left_alone(start: Callable[..., Here]) -> None:
    here = start()
    rpc, port = here.spdk.rpc, free_ports(1)[0]
    rpc("nvmf_create_transport", trtype="TCP")
    rpc("bdev_null_create", name="theirs", block_size=512, num_blocks=64)
    rpc("bdev_null_create", name="exported", block_size=512, num_blocks=64)
    rpc("nvmf_create_subsystem", nqn=f"{NQN}:theirs", serial_number="THEIRS", allow_any_host=True)
    rpc("nvmf_subsystem_add_ns", nqn=f"{NQN}:theirs", namespace={"bdev_name": "exported"})
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    rpc("nvmf_subsystem_add_listener", nqn=f"{NQN}:theirs", listen_address=address)
    rpc("vhost_create_scsi_controller", ctrlr="theirdisk")
    foreign = picture(here.spdk)
    assert failing(lambda: here.world.null_volume("theirs")).code == "ALREADY_EXISTS"
    assert failing(lambda: here.world.subsystem(nqn=f"{NQN}:theirs")).code == "ALREADY_EXISTS"
    blk = {"volume_name_ref": "theirs", "pcie_id": pci(1)}
    assert failing(lambda: here.world.make("VirtioBlk", "theirdisk", blk)).code == "ALREADY_EXISTS"
    here.world.null_volume("ours")
    here.sweep()
    here.world.delete("NullVolume", "nullVolumes/ours")
    assert picture(here.spdk) == foreign


def test_what_somebody_put_in_the_place_of_ours_is_left_alone_and_said(start: Callable[..., Here]) -> None:
    here = start()
    here.world.null_volume("v0")
    here.opi.kill()
    here.spdk.rpc("bdev_null_delete", name="v0")
    here.spdk.rpc("bdev_null_create", name="v0", block_size=4096, num_blocks=10)
    theirs = here.spdk.bdev("v0")
    here.opi.start()
    wait_until(lambda: events(here.opi.log, "another's object stands in its place"), "it is said")
    here.world.delete("NullVolume", "nullVolumes/v0")
    assert here.spdk.bdev("v0") == theirs


# Answers get lost


@pytest.mark.parametrize(
    ("noun", "method"),
    [
        ("NullVolume", "bdev_null_create"),
        ("NvmeSubsystem", "nvmf_create_subsystem"),
        ("NvmeController", "nvmf_subsystem_add_listener"),
        ("NvmeNamespace", "nvmf_subsystem_add_ns"),
        ("EncryptedVolume", "bdev_crypto_create"),
        ("VirtioBlk", "vhost_create_blk_controller"),
    ],
)
def test_a_create_whose_answer_was_lost_is_repeated_as_if_nothing_had_happened(
    start: Callable[..., Here], noun: str, method: str
) -> None:
    here = start(connect_grace_s=PATIENCE_S)
    world = here.world
    world.malloc_volume("v0")
    if noun in ("NvmeController", "NvmeNamespace"):
        world.subsystem()
    requests: dict[str, Callable[[], dict[str, Any]]] = {
        "NullVolume": lambda: world.null_volume("x"),
        "NvmeSubsystem": lambda: world.subsystem(hostnqn=HOST_NQN, psk=TEST_PSK_BASE64),
        "NvmeController": lambda: world.controller("x", world.ports[0]),
        "NvmeNamespace": lambda: world.namespace("x", "v0"),
        "EncryptedVolume": lambda: world.make(
            "EncryptedVolume", "x", {"volume_name_ref": "v0", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
        ),
        "VirtioBlk": lambda: world.make("VirtioBlk", "x", {"volume_name_ref": "v0", "pcie_id": pci(1)}),
    }
    inject_fault(here.spdk, action="drop", method=method, when="after", count=1)
    assert failing(requests[noun]).code == "UNAVAILABLE"
    first = requests[noun]()
    made = picture(here.spdk)
    assert requests[noun]() == first
    wait_until(lambda: here.opi.log.count("connected to") >= 2, "the connection is back")
    here.sweep()
    assert picture(here.spdk) == made
    assert len(made["keys"]) == (noun == "NvmeSubsystem")
    assert len(made["crypto_keys"]) == (noun == "EncryptedVolume")
    assert sum(len(s["namespaces"]) for s in made["subsystems"].values()) == (noun == "NvmeNamespace")


def test_a_create_whose_answer_was_lost_ends_by_itself_where_nobody_repeats_it(start: Callable[..., Here]) -> None:
    here = start()
    inject_fault(here.spdk, action="drop", method="bdev_null_create", when="before", count=1)
    assert failing(lambda: here.world.null_volume("x")).code == "UNAVAILABLE"
    wait_until(lambda: here.world.all("NullVolume"), "it is finished")
    assert here.spdk.bdev("x") is not None


# What cannot be repaired, and what is slow


def test_what_cannot_be_repaired_is_tried_less_and_less_often_and_comes_back_in_the_end(
    start: Callable[..., Here],
) -> None:
    here = start()
    path = here.world.file("disk", 2048)
    here.world.make("AioVolume", "a0", {"filename": path, "block_size": 512})
    here.world.null_volume("v0")
    Path(path).unlink()
    here.restart_target()
    wait_until(lambda: here.spdk.bdev("v0"), "the other volume is back")
    here.calls()
    started = time.monotonic()
    wait_until(lambda: here.calls(reset=False).get("bdev_aio_create", 0) >= 5, "it is tried again and again")
    assert time.monotonic() - started > 0.2 + 0.4 + 0.8 + 1.6, "half of 0.4 s and of twice as much each time"
    assert events(here.opi.log, "aioVolumes/a0 cannot be brought to what was asked, trying again later")
    here.world.file("disk", 2048)
    wait_until(lambda: here.spdk.bdev("a0"), "it is back once it can be")


def test_a_slow_path_does_not_hold_up_the_rest(start: Callable[..., Here]) -> None:
    here = start()
    world = here.world
    world.array()
    world.remote_controller()
    world.path("p0", world.ports[0])
    world.null_volume("v0")
    world.subsystem()
    world.namespace("n0", "v0")
    before = picture(here.spdk)
    here.opi.kill()
    here.spdk.kill()
    here.spdk.start()
    inject_fault(here.spdk, action="hold", method="bdev_nvme_attach_controller", when="before")
    seen = len(here.opi.log)
    here.opi.start()
    wait_until(lambda: picture(here.spdk)["subsystems"] == before["subsystems"], "the namespace is back")
    world.null_volume("new")
    assert here.spdk.remote_controller("array") is None
    given_up = events(here.opi.log[seen:], "nvmePaths/p0 cannot be brought to what was asked")
    assert not given_up, "neither the rest nor a request has waited for the path"
    here.spdk.rpc("emulator_clear_faults")
    assert_becomes(here.spdk, {**before, "bdevs": {**before["bdevs"], "new": picture(here.spdk)["bdevs"]["new"]}})


# Limits that had to wait


def _limit(here: Here, bdev: str) -> int:
    found = here.spdk.bdev(bdev)
    assert found is not None
    return int(found["assigned_rate_limits"]["rw_ios_per_sec"])


def test_limits_that_had_to_wait_are_applied_by_what_opens_the_volume(start: Callable[..., Here]) -> None:
    here = start(sweep_interval_s=HOUR_S)
    here.world.null_volume("v0")
    qos = here.world.make("QosVolume", "q0", {"volume_name_ref": "v0", "limits": {"max": {"rw_iops_kiops": 10}}})
    changed = {**qos, "limits": {"max": {"rw_iops_kiops": 30}}}
    here.world.update("QosVolume", changed)
    assert _limit(here, "v0") == 10_000, "the target refuses another change while nothing has the volume open"
    here.world.subsystem()
    here.world.namespace("n0", "v0")
    assert _limit(here, "v0") == 30_000


def test_limits_of_a_volume_under_an_encrypted_one_are_applied_by_a_sweep(start: Callable[..., Here]) -> None:
    here = start()
    here.world.malloc_volume("m0")
    key = {"volume_name_ref": "m0", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    here.world.make("EncryptedVolume", "e0", key)
    qos = here.world.make("QosVolume", "q0", {"volume_name_ref": "m0", "limits": {"max": {"rw_iops_kiops": 10}}})
    here.world.update("QosVolume", {**qos, "limits": {"max": {"rw_iops_kiops": 30}}})
    assert _limit(here, "m0") == 10_000
    here.world.subsystem()
    here.world.namespace("n0", "e0")
    wait_until(lambda: _limit(here, "m0") == 30_000, "the limits are applied")


def test_limits_of_a_deleted_qos_volume_are_lifted_when_the_target_lets_them(start: Callable[..., Here]) -> None:
    here = start()
    here.world.null_volume("v0")
    qos = here.world.make("QosVolume", "q0", {"volume_name_ref": "v0", "limits": {"max": {"rw_iops_kiops": 10}}})
    here.world.delete("QosVolume", qos["name"])
    assert here.world.all("QosVolume") == []
    here.opi.kill()
    here.opi.start()
    here.world.subsystem()
    here.world.namespace("n0", "v0")
    wait_until(lambda: _limit(here, "v0") == 0, "the limits are lifted")


def test_limits_of_a_device_that_had_to_wait_are_applied(start: Callable[..., Here]) -> None:
    here = start()
    here.world.null_volume("v0")
    blk = {"volume_name_ref": "v0", "pcie_id": pci(1), "max_limit": {"rw_iops_kiops": 10}}
    made = here.world.make("VirtioBlk", "blk", blk)
    wait_until(lambda: _limit(here, "v0") == 10_000, "the first limits are set")
    here.world.update("VirtioBlk", {**made, "max_limit": {"rw_iops_kiops": 30}})
    assert _limit(here, "v0") == 10_000
    here.restart_target()
    wait_until(lambda: here.spdk.bdev("v0") is not None and _limit(here, "v0") == 30_000, "the new limits are set")


# What an idle bridge costs


def test_an_idle_sweep_asks_little_in_small_answers(start: Callable[..., Here]) -> None:
    here = start(sweep_interval_s=0.5, notifications_s=0.2)
    world = here.world
    for number in range(100):
        world.null_volume(f"v{number:03}")
    for number in range(5):
        world.subsystem(f"s{number}", f"{NQN}{number}")
        for place in range(20):
            world.namespace(f"n{place}", f"v{20 * number + place:03}", f"nvmeSubsystems/s{number}")
    here.sweep(3)
    here.calls()
    started = time.monotonic()
    wait_until(lambda: here.calls(reset=False).get("nvmf_get_subsystems", 0) >= 5 * 4, "four sweeps")
    counts = here.spdk.rpc("emulator_call_counts", reset=True)
    took_s = time.monotonic() - started
    calls = {name: n for name, n in counts["calls"].items() if name != "notify_get_notifications"}
    sweeps = calls["nvmf_get_subsystems"] / 5
    assert calls.keys() == {"nvmf_get_subsystems"}, "volumes are announced: they need no look"
    assert sweeps <= 1 + took_s / 0.5
    assert counts["calls"]["notify_get_notifications"] <= 1 + took_s / 0.2 + 3 * (sweeps + 1)
    assert counts["longest_answer_bytes"] < 20_000


def test_no_secret_and_no_traceback_is_in_the_log_of_all_this(drifting: Here) -> None:
    drifting.world.get("NvmeSubsystem", "nvmeSubsystems/sub")
    log = drifting.opi.log
    assert "Traceback" not in log
    assert "<traceback" not in log
    assert PSK not in log
    assert KEY not in log
    assert bytes(range(16)).hex() not in log
    assert json.dumps(PSK)[1:-1] not in log
