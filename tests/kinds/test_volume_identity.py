"""A volume is its identity: another bdev that comes to have its name is not it, and is left alone."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kinds.world import FAR_NQN, NQN, World, failing, pci
from tests.support.target import wait_until

UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"
STRANGERS_UUID = "99999999-0f4b-4f0a-8d5a-0a8b8f3a7c11"
KEY = base64.b64encode(bytes(range(32))).decode()
ARRAY = "nvmeRemoteControllers/array"


@dataclass(frozen=True)
class User:
    """A kind that stands on a volume: what makes one, its name, and the bdev that it has on the target."""

    noun: str
    name: str
    make: Callable[[World, str], Any]
    uses: Callable[[World], str | None]


def _namespace(world: World, volume: str) -> None:
    world.subsystem()
    world.namespace("user", volume)


def _namespaces_bdev(world: World) -> str | None:
    found = world.target.subsystem(NQN)
    return found["namespaces"][0]["bdev_name"] if found is not None and found["namespaces"] else None


def _blk(world: World, volume: str) -> None:
    world.make("VirtioBlk", "user", {"volume_name_ref": volume, "pcie_id": pci(1)})


def _blks_bdev(world: World) -> str | None:
    found = world.target.vhost("user")
    return found["backend_specific"]["block"]["bdev"] if found is not None else None


def _lun(world: World, volume: str) -> None:
    world.make("VirtioScsiController", "dev", {"pcie_id": pci(7)})
    world.make("VirtioScsiLun", "user", {"target_name_ref": "dev", "volume_name_ref": volume})


def _luns_bdev(world: World) -> str | None:
    found = world.target.vhost("dev")
    targets = found["backend_specific"]["scsi"] if found is not None else []
    return next((lun.get("bdev_name") for target in targets for lun in target["luns"]), None)


def _encrypted(world: World, volume: str) -> None:
    world.make(
        "EncryptedVolume", "user", {"volume_name_ref": volume, "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    )


def _encrypteds_bdev(world: World) -> str | None:
    found = world.target.bdev("user")
    return found["driver_specific"]["crypto"]["base_bdev_name"] if found is not None else None


def _qos(world: World, volume: str) -> None:
    world.make("QosVolume", "user", {"volume_name_ref": volume, "limits": {"max": {"rw_iops_kiops": 20}}})


def _limited_bdev(world: World) -> str | None:
    return next(
        (b["name"] for b in world.target.rpc("bdev_get_bdevs") if b["assigned_rate_limits"]["rw_ios_per_sec"]), None
    )


USERS = (
    User("NvmeNamespace", "nvmeSubsystems/sub/nvmeNamespaces/user", _namespace, _namespaces_bdev),
    User("VirtioBlk", "virtioBlks/user", _blk, _blks_bdev),
    User("VirtioScsiLun", "virtioScsiLuns/user", _lun, _luns_bdev),
    User("EncryptedVolume", "encryptedVolumes/user", _encrypted, _encrypteds_bdev),
    User("QosVolume", "qosVolumes/user", _qos, _limited_bdev),
)


@pytest.fixture(params=USERS, ids=lambda user: user.noun)
def user(request: pytest.FixtureRequest) -> User:
    """Each kind that stands on a volume."""
    found: User = request.param
    return found


def _theirs(world: World, uuid: str = UUID) -> None:
    world.target.rpc("bdev_malloc_create", name="theirs", num_blocks=2048, block_size=512, uuid=uuid)
    world.foreign.add("theirs")


def _told(world: World, user: User, said: str = "is another volume now") -> Callable[[], bool]:
    """Whether the bridge has said so of the user since now."""
    log: Callable[[], str] = lambda: world.opi.log  # type: ignore[attr-defined]  # noqa: E731  (a bridge, which has a log)
    before = len(log())
    return lambda: any(user.name in line and said in line for line in log()[before:].splitlines())


def _forget_strangers(world: World) -> None:
    for name in list(world.foreign):
        world.target.rpc("bdev_malloc_delete", name=name)
        world.foreign.discard(name)


def test_a_stranger_under_the_volumes_name_is_not_used(world: World, user: User) -> None:
    _theirs(world)
    user.make(world, UUID)
    assert user.uses(world) == "theirs"
    told = _told(world, user)
    world.target.rpc("bdev_malloc_delete", name="theirs")
    _theirs(world, STRANGERS_UUID)
    wait_until(told, "the bridge says that the volume is another")
    assert user.uses(world) is None
    world.target.rpc("bdev_malloc_delete", name="theirs")
    _theirs(world)
    wait_until(lambda: user.uses(world) == "theirs", "the volume is back, and in use")
    world.clear()
    _forget_strangers(world)


def test_only_a_reference_by_name_means_the_name(world: World, user: User) -> None:
    _theirs(world)
    user.make(world, "theirs")
    world.target.rpc("bdev_malloc_delete", name="theirs")
    wait_until(lambda: user.uses(world) is None, "the volume is gone")
    _theirs(world, STRANGERS_UUID)
    wait_until(lambda: user.uses(world) == "theirs", "the bdev of that name is in use")
    world.clear()
    _forget_strangers(world)


def _encrypted_by_name(world: World) -> None:
    """A volume whose UUID the target makes of that of the bdev underneath, which is asked for by its name here."""
    _theirs(world)
    ciphered = {"volume_name_ref": "theirs", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    world.make("EncryptedVolume", "moved", ciphered)


def _followed_to_another_identity(world: World, user: User) -> None:
    assert user.uses(world) == "moved"
    was, told = world.target.bdev("moved"), _told(world, user, "has come back with another identity")
    world.target.rpc("bdev_malloc_delete", name="theirs")
    wait_until(lambda: user.uses(world) is None, "the volume is gone")
    _theirs(world, STRANGERS_UUID)
    wait_until(told, "the bridge says that the user follows")
    wait_until(lambda: user.uses(world) == "moved", "the volume is back, and in use")
    world.opi.kill()  # type: ignore[attr-defined]
    world.opi.start()  # type: ignore[attr-defined]
    world.get(user.noun, user.name)
    wait_until(lambda: user.uses(world) == "moved", "the new identity was kept")
    now = world.target.bdev("moved")
    assert was is not None
    assert now is not None
    assert now["uuid"] != was["uuid"]
    world.delete(user.noun, user.name)
    world.clear()
    _forget_strangers(world)


def test_a_volume_that_the_target_gives_another_identity_is_followed(world: World, user: User) -> None:
    _encrypted_by_name(world)
    user.make(world, "moved")
    _followed_to_another_identity(world, user)


def test_an_identity_is_followed_through_what_stands_between(world: World) -> None:
    _encrypted_by_name(world)
    world.make("QosVolume", "between", {"volume_name_ref": "moved", "limits": {"max": {"rw_iops_kiops": 20}}})
    user = USERS[0]
    user.make(world, "between")
    _followed_to_another_identity(world, user)


def test_a_stranger_in_the_place_of_a_managed_volume_is_not_used(world: World, user: User) -> None:
    world.malloc_volume("vol")
    user.make(world, "mallocVolumes/vol")
    told = _told(world, user)
    world.target.rpc("bdev_malloc_delete", name="vol")
    world.target.rpc("bdev_malloc_create", name="vol", num_blocks=2048, block_size=512, uuid=STRANGERS_UUID)
    wait_until(told, "the bridge says that the volume is another")
    assert user.uses(world) is None
    world.target.rpc("bdev_malloc_delete", name="vol")
    wait_until(lambda: user.uses(world) == "vol", "the volume is back, and in use")


def test_a_namespace_that_is_taken_off_is_offline_and_keeps_its_identity(world: World) -> None:
    user = USERS[0]
    _theirs(world)
    user.make(world, UUID)
    before = world.get(user.noun, user.name)
    told = _told(world, user)
    world.target.rpc("bdev_malloc_delete", name="theirs")
    _theirs(world, STRANGERS_UUID)
    wait_until(told, "the bridge says so")
    after = world.get(user.noun, user.name)
    assert after["spec"] == before["spec"]
    assert after["status"]["oper_state"] == "OPER_STATE_OFFLINE"
    world.clear()
    _forget_strangers(world)


def test_a_namespace_whose_number_the_array_gives_to_another_volume_is_not_used(world: World, user: User) -> None:
    world.array()
    world.remote_controller()
    world.path("p0", world.ports[0])
    user.make(world, f"{ARRAY}/nvmeRemoteNamespaces/1")
    assert user.uses(world) == "arrayn1"
    told = _told(world, user)
    far = world.far
    held = far.rpc("nvmf_get_subsystems", nqn=FAR_NQN)[0]["namespaces"][0]
    far.rpc("nvmf_subsystem_remove_ns", nqn=FAR_NQN, nsid=1)
    wait_until(lambda: world.target.bdev("arrayn1") is None, "the array has taken the namespace away")
    far.rpc("bdev_malloc_create", name="Other", num_blocks=2048, block_size=512)
    far.rpc("nvmf_subsystem_add_ns", nqn=FAR_NQN, namespace={"bdev_name": "Other", "nsid": 1})
    wait_until(told, "the bridge says that the volume is another")
    assert user.uses(world) is None
    far.rpc("nvmf_subsystem_remove_ns", nqn=FAR_NQN, nsid=1)
    wait_until(lambda: world.target.bdev("arrayn1") is None, "the array has taken the namespace away")
    same = {key: held[key] for key in ("bdev_name", "nsid", "nguid", "uuid")}
    far.rpc("nvmf_subsystem_add_ns", nqn=FAR_NQN, namespace=same)
    wait_until(lambda: user.uses(world) == "arrayn1", "the volume is back, and in use")


# A name of a remote controller's


def test_a_remote_namespace_is_a_volume_of_that_controller_or_nothing(world: World, user: User) -> None:
    world.remote_controller()
    _foreign_named(world, "arrayn1")
    problem = failing(lambda: user.make(world, f"{ARRAY}/nvmeRemoteNamespaces/1"))
    assert problem.code == "NOT_FOUND"
    assert f"{ARRAY}/nvmeRemoteNamespaces/1" in problem.message
    world.clear()
    _forget_strangers(world)


def _foreign_named(world: World, name: str) -> None:
    world.target.rpc("bdev_malloc_create", name=name, num_blocks=2048, block_size=512)
    world.foreign.add(name)


@pytest.mark.parametrize("noun", ["MallocVolume", "NullVolume", "AioVolume", "EncryptedVolume", "QosVolume"])
def test_names_that_a_controllers_namespaces_can_get_are_its_own(world: World, noun: str) -> None:
    world.malloc_volume("base")
    resources: dict[str, Any] = {
        "AioVolume": {"filename": world.file("file", 2048), "block_size": 512},
        "EncryptedVolume": {"volume_name_ref": "base", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"},
        "QosVolume": {"volume_name_ref": "base", "limits": {"max": {"rw_iops_kiops": 20}}},
    }
    resource = resources.get(noun, {"block_size": 512, "blocks_count": 2048})
    world.remote_controller()
    problem = failing(lambda: world.make(noun, "arrayn12", resource))
    assert problem.code == "ALREADY_EXISTS"
    assert ARRAY in problem.message
    for other in ("arrayn0", "arrayn", "arrayn1x", "n1"):  # names that no namespace of it can get
        made = world.make(noun, other, resource)["name"]
        world.delete(noun, made)
    world.delete("NvmeRemoteController", ARRAY)
    made = world.make(noun, "arrayn12", resource)["name"]
    problem = failing(world.remote_controller)
    assert problem.code == "ALREADY_EXISTS"
    assert made in problem.message


def test_a_path_of_which_no_volume_comes_says_whose_name_it_is(world: World) -> None:
    world.array()
    world.remote_controller()
    _foreign_named(world, "arrayn1")
    problem = failing(lambda: world.path("p0", world.ports[0]))
    assert problem.code == "ALREADY_EXISTS"
    assert "arrayn1" in problem.message
    assert "Malloc disk" in problem.message
    assert world.target.remote_controller("array") is None
    _forget_strangers(world)
    world.path("p0", world.ports[0])


def test_a_path_of_which_no_volume_comes_says_whose_uuid_it_is(world: World) -> None:
    world.array()
    world.remote_controller()
    nguid = world.far.rpc("nvmf_get_subsystems", nqn=FAR_NQN)[0]["namespaces"][0]["nguid"].lower()
    uuid = f"{nguid[:8]}-{nguid[8:12]}-{nguid[12:16]}-{nguid[16:20]}-{nguid[20:]}"
    _theirs(world, uuid)
    problem = failing(lambda: world.path("p0", world.ports[0]))
    assert problem.code == "ALREADY_EXISTS"
    assert uuid in problem.message
    assert "theirs" in problem.message
    assert world.target.remote_controller("array") is None
    _forget_strangers(world)


def test_a_remote_namespace_is_found_by_its_own_uuid_too(world: World) -> None:
    world.array(namespaces=3)
    world.remote_controller()
    world.path("p0", world.ports[0])
    shown = world.opi.call("GetNvmeRemoteNamespace", {"name": f"{ARRAY}/nvmeRemoteNamespaces/2"})
    own = world.far.rpc("nvmf_get_subsystems", nqn=FAR_NQN)[0]["namespaces"][1]["uuid"]
    assert shown["uuid"] == own
    found = world.target.bdev("arrayn2")
    assert found is not None
    assert found["uuid"] != own
    world.subsystem()
    for number, reference in enumerate((own, own.upper())):
        made = world.namespace(f"n{number}", reference)["name"]
        assert _namespaces_bdev(world) == "arrayn2"
        world.delete("NvmeNamespace", made)


# Identities that two may claim


@pytest.mark.parametrize(
    ("field", "one", "other"),
    [
        ("nguid", "0123456789ABCDEF0123456789ABCDEF", "01234567-89ab-cdef-0123-456789abcdef"),
        ("uuid", UUID, UUID.upper()),
        ("eui64", "81985529216486895", "81985529216486895"),
    ],
)
def test_no_two_namespaces_have_one_identity(world: World, field: str, one: str, other: str) -> None:
    for number in range(2):
        world.subsystem(f"s{number}", f"{NQN}{number}")
        world.null_volume(f"v{number}")
    holder = world.namespace("n0", "v0", "nvmeSubsystems/s0", **{field: one})["name"]
    for parent in ("s0", "s1"):
        problem = failing(lambda: world.namespace("n1", "v1", f"nvmeSubsystems/{parent}", **{field: other}))  # noqa: B023
        assert (problem.code, problem.field) == ("ALREADY_EXISTS", f"nvme_namespace.spec.{field}")
        assert holder in problem.message
    world.delete("NvmeNamespace", holder)
    world.namespace("n1", "v1", "nvmeSubsystems/s1", **{field: other})


def test_no_two_subsystems_have_one_serial_number(world: World) -> None:
    holder = world.subsystem("s0", f"{NQN}0", serial_number="SN 1")["name"]
    problem = failing(lambda: world.subsystem("s1", f"{NQN}1", serial_number="SN 1"))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "nvme_subsystem.spec.serial_number")
    assert holder in problem.message


def test_a_volumes_name_is_no_others_uuid(world: World) -> None:
    """On the target names and UUIDs of bdevs are of one sort: one is the other's alias."""
    holder = world.null_volume("v0", uuid=UUID)["name"]
    problem = failing(lambda: world.null_volume(UUID))
    assert problem.code == "ALREADY_EXISTS"
    assert holder in problem.message
    world.delete("NullVolume", holder)
    holder = world.null_volume(UUID)["name"]
    problem = failing(lambda: world.malloc_volume("v0", uuid=UUID))
    assert (problem.code, problem.field) == ("ALREADY_EXISTS", "malloc_volume.uuid")
    assert holder in problem.message
