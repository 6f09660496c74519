"""Every change of every kind, with an error at every JSON-RPC call that it makes, and cut off at every call.

A definite failure leaves target and store as they were. An unknown outcome is driven to its end: by whoever repeats the
request, or else by the reconciler.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kinds.case import Case, put
from tests.kinds.cases import CASES
from tests.kinds.daemon import KeptBridge
from tests.kinds.world import HOST_NQN, OTHER_PSK, PSK, World, free_ports, path_to, pci
from tests.support.bridge import CallError
from tests.support.late import let_go_later
from tests.support.patience import PATIENCE_S
from tests.support.target import Emulator, emulator, real_target, wait_until

CHOSEN = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|opi-[0-9a-f]{32}|\b[0-9A-F]{32}\b|\b[0-9A-F]{20}\b|\b[0-9A-F]{16}\b"
)
"""Identities that the bridge chooses anew each time."""

_VOLATILE = ("cntlid", "delay_us", "state", "supported_io_types", "aliases", "zoned", "created", "thread_id")


@dataclass(frozen=True)
class Change:
    """One request: what comes before it, the request itself, and how its resource is read."""

    title: str
    noun: str
    name: str
    prepare: Callable[[World], Any]
    run: Callable[[World], Any]

    def read(self, world: World) -> dict[str, Any] | None:
        """The resource, None where there is none."""
        try:
            return world.get(self.noun, self.name)
        except CallError as problem:
            if problem.code != "NOT_FOUND":
                raise
            return None


def _changes_of(case: Case) -> Iterator[Change]:
    def prepared(world: World) -> None:
        case.prepare(world)
        case.create(world)

    def update(world: World) -> Any:
        assert case.change is not None
        return world.update(case.noun, put({"name": case.name()}, *case.change(world)))

    plain = Change(f"create {case.noun}", case.noun, case.name(), case.prepare, case.create)
    yield plain
    if case.change is not None and case.changed is not None:
        yield replace(plain, title=f"update {case.noun}", prepare=prepared, run=update)
    delete = partial(_delete, case.noun, case.name())
    yield replace(plain, title=f"delete {case.noun}", prepare=prepared, run=delete)


def _delete(noun: str, name: str, world: World) -> None:
    world.delete(noun, name, allow_missing=True)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _with_key(world: World) -> None:
    world.subsystem("sub", hostnqn=HOST_NQN, psk=_base64(PSK))
    world.controller("c0", world.ports[0])


def _with_host(world: World) -> None:
    world.subsystem("sub", hostnqn=HOST_NQN)
    world.controller("c0", world.ports[0])


def _with_remote_key(world: World) -> None:
    world.remote_controller("array", tcp={"psk": _base64(PSK)})


def _with_limited_blk(world: World) -> None:
    _volumes(world)
    world.make("VirtioBlk", "blk", _blk(max_limit={"rw_iops_kiops": 20}))


def _with_qos(world: World) -> None:
    world.subsystem()
    _volumes(world)
    for volume in ("v0", "v1"):
        world.namespace(volume, volume)
    world.make("QosVolume", "qos", {"volume_name_ref": "v0", "limits": {"max": {"rw_iops_kiops": 20}}})


def _with_two_devices(world: World) -> None:
    _volumes(world)
    for number in (1, 2):
        world.make("VirtioScsiController", f"dev{number}", {"pcie_id": pci(number)})
    world.make("VirtioScsiLun", "lun", {"target_name_ref": "dev1", "volume_name_ref": "v0"})


def _with_only_path(world: World) -> None:
    world.array(listeners=2)
    world.make("NvmeRemoteController", "array", {"multipath": "NVME_MULTIPATH_DISABLE"})
    world.path("p0", world.ports[0])


def _with_encrypted(world: World) -> None:
    _volumes(world)
    key = base64.b64encode(bytes(range(32))).decode()
    world.make("EncryptedVolume", "enc", {"volume_name_ref": "v0", "key": key, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"})


def _volumes(world: World) -> None:
    for number in range(2):
        world.null_volume(f"v{number}")


def _blk(**more: Any) -> dict[str, Any]:
    return {"volume_name_ref": "v0", "pcie_id": pci(1), **more}


SUB, ARRAY, BLK = "nvmeSubsystems/sub", "nvmeRemoteControllers/array", "virtioBlks/blk"
PCIE = {"spec": {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(3)}}
OTHERS = (
    Change("create NvmeSubsystem with a key", "NvmeSubsystem", SUB, lambda _world: None, lambda world: world.subsystem(
        "sub", hostnqn=HOST_NQN, psk=_base64(PSK)
    )),
    Change("delete NvmeSubsystem with a key", "NvmeSubsystem", SUB, lambda world: world.subsystem(
        "sub", hostnqn=HOST_NQN, psk=_base64(PSK)
    ) and None, partial(_delete, "NvmeSubsystem", SUB)),
    Change("change the key of a subsystem", "NvmeSubsystem", SUB, _with_key, lambda world: world.update(
        "NvmeSubsystem", {"name": SUB, "spec": {"psk": _base64(OTHER_PSK)}}, "spec.psk"
    )),
    Change("give a subsystem a key", "NvmeSubsystem", SUB, _with_host, lambda world: world.update(
        "NvmeSubsystem", {"name": SUB, "spec": {"psk": _base64(PSK)}}, "spec.psk"
    )),
    Change("take a subsystem's key away", "NvmeSubsystem", SUB, _with_key, lambda world: world.update(
        "NvmeSubsystem", {"name": SUB}, "spec.psk"
    )),
    Change("open a subsystem to any host", "NvmeSubsystem", SUB, _with_host, lambda world: world.update(
        "NvmeSubsystem", {"name": SUB}, "spec.hostnqn"
    )),
    Change("change the key of a remote controller", "NvmeRemoteController", ARRAY, _with_remote_key, lambda world:
        world.update("NvmeRemoteController", {"name": ARRAY, "tcp": {"psk": _base64(OTHER_PSK)}}, "tcp.psk")
    ),
    Change("create NvmeController over PCIe", "NvmeController", f"{SUB}/nvmeControllers/c0", lambda world:
        world.subsystem() and None, lambda world: world.make("NvmeController", "c0", PCIE, SUB)
    ),
    Change("delete NvmeController over PCIe", "NvmeController", f"{SUB}/nvmeControllers/c0", lambda world:
        world.subsystem() and world.make("NvmeController", "c0", PCIE, SUB) and None,
        partial(_delete, "NvmeController", f"{SUB}/nvmeControllers/c0"),
    ),
    Change("create VirtioBlk with limits", "VirtioBlk", BLK, _volumes, lambda world: world.make(
        "VirtioBlk", "blk", _blk(max_limit={"rw_iops_kiops": 20})
    )),
    Change("change the limits of a VirtioBlk", "VirtioBlk", BLK, _with_limited_blk, lambda world: world.update(
        "VirtioBlk", {"name": BLK, "max_limit": {"rw_iops_kiops": 30}}, "max_limit"
    )),
    Change("lift the limits of a VirtioBlk", "VirtioBlk", BLK, _with_limited_blk, lambda world: world.update(
        "VirtioBlk", {"name": BLK}, "max_limit"
    )),
    Change("move the limits of a QosVolume", "QosVolume", "qosVolumes/qos", _with_qos, lambda world: world.update(
        "QosVolume", {"name": "qosVolumes/qos", "volume_name_ref": "v1"}, "volume_name_ref"
    )),
    Change("move a LUN", "VirtioScsiLun", "virtioScsiLuns/lun", _with_two_devices, lambda world: world.update(
        "VirtioScsiLun", {"name": "virtioScsiLuns/lun", "target_name_ref": "dev2"}, "target_name_ref"
    )),
    Change("move the only path", "NvmePath", f"{ARRAY}/nvmePaths/p0", _with_only_path, lambda world: world.update(
        "NvmePath", {"name": f"{ARRAY}/nvmePaths/p0", **path_to(world.ports[1])}
    )),
    Change("change the key of an EncryptedVolume", "EncryptedVolume", "encryptedVolumes/enc", _with_encrypted,
        lambda world: world.update(
            "EncryptedVolume",
            {"name": "encryptedVolumes/enc", "key": base64.b64encode(bytes(range(32, 64))).decode()}, "key"
        )
    ),
    Change("shrink a NullVolume", "NullVolume", "nullVolumes/v0", _volumes, lambda world: world.update(
        "NullVolume", {"name": "nullVolumes/v0", "blocks_count": 1024}
    )),
)  # fmt: skip
CHANGES = [change for case in CASES for change in _changes_of(case)] + list(OTHERS)


_every_change = pytest.mark.parametrize("change", CHANGES, ids=[change.title for change in CHANGES])


def _titled(*titles: str) -> pytest.MarkDecorator:
    """Runs a test for those changes alone."""
    chosen = {change.title: change for change in CHANGES if change.title in titles}
    assert len(chosen) == len(titles)
    return pytest.mark.parametrize("change", list(chosen.values()), ids=list(chosen))


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, KeptBridge, Path]]:
    """An emulator to disturb, a bridge on it that does not wait long, and the folder that they share."""
    if real_target("SPDK"):
        pytest.skip("needs a target that can be disturbed: an emulated one")
    folder = tmp_path_factory.mktemp("fragile")
    with emulator(folder) as own, KeptBridge(folder, spdk=own.socket, connect_grace_s=0.2) as daemon:
        own.rpc("nvmf_create_transport", trtype="TCP")
        yield own, daemon, folder / "shared"


@pytest.fixture
def scene(
    fragile: tuple[Emulator, KeptBridge, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Scene]:
    """The world, empty before and after."""
    own, daemon, shared = fragile
    world = World(daemon, own, tmp_path, lambda: request.getfixturevalue("far"), free_ports(8))
    here = Scene(world, own, shared)
    yield here
    own.rpc("emulator_clear_faults")
    try:
        here.clear()
    except BaseException:
        daemon.kill()
        own.clean()
        shutil.rmtree(shared)
        daemon.forget()
        daemon.start()
        raise


@dataclass
class Scene:
    """A world, and what can be done to it."""

    world: World
    spdk: Emulator
    shared: Path

    def clear(self) -> None:
        """Takes everything away again."""
        self.world.clear()
        assert self.world.leftovers() == {}
        assert self._files() == []
        if any(True for _ in self.world.everything()):
            raise AssertionError("the bridge has resources that cannot be deleted")

    def sight(self) -> str:
        """All that is on the target, but for identities that are chosen anew each time, and in the shared folder."""
        rpc = self.spdk.rpc
        seen = {
            "bdevs": rpc("bdev_get_bdevs"),
            "subsystems": [{**each, "listeners": self._listeners(each["nqn"])} for each in rpc("nvmf_get_subsystems")],
            "vhost": rpc("vhost_get_controllers"),
            "remote": rpc("bdev_nvme_get_controllers"),
            "keys": rpc("keyring_get_keys"),
            "crypto_keys": [key["name"] for key in rpc("accel_crypto_keys_get")],
            "config": [  # transports stay: the bridge makes them when they are missing and leaves them
                each for each in rpc("framework_get_config", name="nvmf") if each["method"] != "nvmf_create_transport"
            ],
            "files": self._files(),
        }
        text = json.dumps(_sorted(seen), indent=1, sort_keys=True)
        return CHOSEN.sub("(chosen)", text)

    def view(self, change: Change) -> str:
        """`sight`, and what Get answers."""
        return f"{self.sight()}\nGet: {CHOSEN.sub('(chosen)', repr(change.read(self.world)))}"

    def _listeners(self, nqn: str) -> Any:
        return [] if "discovery" in nqn else self.spdk.rpc("nvmf_subsystem_get_listeners", nqn=nqn)

    def _files(self) -> list[str]:
        return sorted(str(path.relative_to(self.shared)) for folder in ("keys", "vfio-user")
                      for path in (self.shared / folder).glob("*"))  # fmt: skip

    def calls(self) -> list[tuple[str, int]]:
        """(method, number) of each call since the last time this was asked."""
        counts = self.spdk.rpc("emulator_call_counts", reset=True)["calls"]
        return [(method, number) for method, count in counts.items() for number in range(count)]

    def steps(self, change: Change) -> tuple[list[tuple[str, int]], str]:
        """The calls that the change makes, and what target and resource look like afterwards."""
        change.prepare(self.world)
        self.calls()
        change.run(self.world)
        calls = self.calls()
        after = self.view(change)
        self.clear()
        return calls, after

    def inject(self, method: str, number: int, **fault: Any) -> None:
        """Has one call fail."""
        self.spdk.rpc("emulator_inject_fault", method=method, skip=number, count=1, **fault)

    def patiently(self, call: Callable[[], Any]) -> Any:
        """The call's answer; repeated, as clients do, while the target is not there or another change is at work."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except CallError as problem:
                if problem.code not in ("UNAVAILABLE", "ABORTED") or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in value.items() if name not in _VOLATILE}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def _changing(calls: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(method, number) for method, number in calls if "_get_" not in method and "_send_cmd" not in method]


@_every_change
def test_a_definite_failure_leaves_everything_as_it_was(change: Change, scene: Scene) -> None:
    steps, after = scene.steps(change)
    assert _changing(steps)
    for method, number in steps:
        change.prepare(scene.world)
        before = scene.view(change)
        scene.inject(method, number, action="error")
        problem = _attempt(change, scene)
        if problem is not None:
            assert problem.code not in ("INTERNAL", "UNKNOWN"), f"{method}: {problem}"
            _same(before, scene.view(change), f"{method} failed")
        scene.spdk.rpc("emulator_clear_faults")
        change.run(scene.world)
        _same(after, scene.view(change), f"{method} failed, then the request was repeated")
        scene.clear()


@_every_change
def test_a_lost_connection_is_made_up_for_by_the_reconciler(change: Change, scene: Scene) -> None:
    steps, after = scene.steps(change)
    for method, number in _changing(steps):
        for when in ("before", "after"):
            change.prepare(scene.world)
            scene.inject(method, number, action="drop", when=when)
            _unknown(change, scene)
            _settles(change, scene, after, f"the connection dropped {when} {method}")
            scene.clear()


@_every_change
def test_a_lost_connection_is_made_up_for_by_a_repeat(change: Change, scene: Scene) -> None:
    steps, after = scene.steps(change)
    for method, number in _changing(steps):
        for when in ("before", "after"):
            change.prepare(scene.world)
            scene.inject(method, number, action="drop", when=when)
            scene.patiently(lambda: change.run(scene.world))
            _same(after, scene.view(change), f"the connection dropped {when} {method}")
            scene.clear()


@_titled("change the key of a subsystem", "create VirtioBlk with limits", "move a LUN")
def test_a_late_answer_is_made_up_for_by_a_repeat(change: Change, scene: Scene) -> None:
    steps, after = scene.steps(change)
    for method, number in _changing(steps):
        timeout_s, asked = 0.15, False
        while not asked:  # the deadline grows until the target had the call when it passed
            change.prepare(scene.world)
            scene.calls()
            scene.inject(method, number, action="hold", when="after")
            problem = _unknown(change, scene, timeout_s)
            assert problem is not None
            assert problem.code == "DEADLINE_EXCEEDED"
            timeout_s, asked = 2 * timeout_s, (method, number) in scene.calls()
            with let_go_later(scene.spdk):
                scene.patiently(lambda: change.run(scene.world))
            _same(after, scene.view(change), f"{method} answered too late")
            scene.clear()


@_titled("create NvmeSubsystem with a key", "change the key of an EncryptedVolume", "move a LUN")
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_death_of_the_target_is_made_up_for(change: Change, scene: Scene, when: str) -> None:
    steps, after = scene.steps(change)
    method, number = _changing(steps)[0 if when == "before" else -1]
    change.prepare(scene.world)
    scene.inject(method, number, action="die", when=when)
    _unknown(change, scene)
    scene.spdk.kill()
    scene.spdk.start()
    scene.spdk.rpc("nvmf_create_transport", trtype="TCP")
    scene.patiently(lambda: change.run(scene.world))
    _settles(change, scene, after, f"the target died {when} {method}")


def _attempt(change: Change, scene: Scene, timeout_s: float = PATIENCE_S) -> CallError | None:
    """Makes the request with that deadline; its error, None where the disturbance did not matter to it."""
    ask, scene.world.opi.call = scene.world.opi.call, partial(scene.world.opi.call, timeout_s=timeout_s)  # type: ignore[method-assign]
    try:
        change.run(scene.world)
    except CallError as problem:
        return problem
    finally:
        scene.world.opi.call = ask  # type: ignore[method-assign]
    return None


def _unknown(change: Change, scene: Scene, timeout_s: float = PATIENCE_S) -> CallError | None:
    """As `_attempt`, and the error is one of those that say that the outcome is not known."""
    problem = _attempt(change, scene, timeout_s)
    assert problem is None or problem.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), problem
    return problem


def _settles(change: Change, scene: Scene, after: str, what: str) -> None:
    """The change comes to its end by itself, on the target and in the answers."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: scene.view(change) == after, "")
    _same(after, scene.view(change), what)


def _same(wanted: str, found: str, what: str) -> None:
    """Fails saying `what` and how the target differs."""
    if wanted != found:
        lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), "wanted", "found", lineterm="", n=1)
        raise AssertionError(f"{what}:\n" + "\n".join(lines)[:3000])
