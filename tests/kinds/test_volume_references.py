"""volume_name_ref: every form in which a volume can be written, and that what it names is in use afterwards."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kinds.world import NQN, World, failing, pci

FOREIGN_UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"
KEY = base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Form:
    """A way to write a volume: what makes it, the text, the bdev that it means, and the resource in use by it."""

    title: str
    make: Callable[[World], Any]
    text: Callable[[World], str]
    bdev: str
    held: tuple[str, str] | None = None


def _null(world: World) -> None:
    world.null_volume("vol")


def _aio(world: World) -> None:
    world.make("AioVolume", "vol", {"filename": world.file("vol", 2048), "block_size": 512})


def _encrypted(world: World) -> None:
    world.malloc_volume("base")
    encrypted = {"volume_name_ref": "base", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    world.make("EncryptedVolume", "vol", encrypted)


def _limited(world: World) -> None:
    world.null_volume("vol")
    limits = {"volume_name_ref": "vol", "limits": {"max": {"rw_iops_kiops": 20}}}
    world.make("QosVolume", "limited", limits)


def _foreign(world: World) -> None:
    world.target.rpc("bdev_null_create", name="theirs", num_blocks=2048, block_size=512, uuid=FOREIGN_UUID)
    world.foreign.update(("theirs",))


def _remote(world: World) -> None:
    world.array(namespaces=2)
    world.remote_controller()
    world.path("p0", world.ports[0])


def _uuid(world: World) -> str:
    return str(world.get("NullVolume", "nullVolumes/vol")["uuid"])


NULL, QOS = ("NullVolume", "nullVolumes/vol"), ("QosVolume", "qosVolumes/limited")
REMOTE = "nvmeRemoteControllers/array/nvmeRemoteNamespaces/2"
PATH = ("NvmePath", "nvmeRemoteControllers/array/nvmePaths/p0")
FORMS = (
    Form("canonical name", _null, lambda _: "nullVolumes/vol", "vol", NULL),
    Form("legacy name", _null, lambda _: "volumes/vol", "vol", NULL),
    Form("bare ID", _null, lambda _: "vol", "vol", NULL),
    Form("UUID", _null, _uuid, "vol", NULL),
    Form("UUID in capitals", _null, lambda world: _uuid(world).upper(), "vol", NULL),
    Form("malloc volume", lambda world: world.malloc_volume("vol"), lambda _: "mallocVolumes/vol", "vol",
         ("MallocVolume", "mallocVolumes/vol")),
    Form("AIO volume", _aio, lambda _: "aioVolumes/vol", "vol", ("AioVolume", "aioVolumes/vol")),
    Form("encrypted volume", _encrypted, lambda _: "encryptedVolumes/vol", "vol",
         ("EncryptedVolume", "encryptedVolumes/vol")),
    Form("QoS volume", _limited, lambda _: "qosVolumes/limited", "vol", QOS),
    Form("QoS volume, legacy name", _limited, lambda _: "volumes/limited", "vol", QOS),
    Form("QoS volume, bare ID", _limited, lambda _: "limited", "vol", QOS),
    Form("volume under a QoS volume", _limited, lambda _: "vol", "vol", NULL),
    Form("somebody else's bdev", _foreign, lambda _: "theirs", "theirs"),
    Form("somebody else's bdev by its alias", _foreign, lambda _: FOREIGN_UUID, "theirs"),
    Form("remote namespace", _remote, lambda _: REMOTE, "arrayn2", PATH),
    Form("remote bdev", _remote, lambda _: "arrayn2", "arrayn2", PATH),
    Form("remote bdev by its UUID", _remote, lambda world: str(world.get("NvmeRemoteNamespace", REMOTE)["uuid"]),
         "arrayn2", PATH),
)  # fmt: skip


@pytest.fixture(params=FORMS, ids=lambda form: form.title)
def form(request: pytest.FixtureRequest, world: World) -> Form:
    """Each form in turn, with the volume made."""
    found: Form = request.param
    found.make(world)
    return found


def _stands_on_it(world: World, form: Form, user: str) -> None:
    if form.held is not None:
        problem = failing(lambda: world.delete(*form.held))  # type: ignore[misc]
        assert problem.code == "FAILED_PRECONDITION"
        assert user in problem.message


def test_a_namespace_is_on_the_volume(form: Form, world: World) -> None:
    world.subsystem()
    text = form.text(world)
    made = world.namespace("n0", text)
    assert made["spec"]["volume_name_ref"] == text
    found = world.target.subsystem(NQN)
    assert found is not None
    assert [ns["bdev_name"] for ns in found["namespaces"]] == [form.bdev]
    _stands_on_it(world, form, made["name"])
    world.delete("NvmeNamespace", made["name"])
    _forget_foreign(world)


def test_a_virtio_device_is_on_the_volume(form: Form, world: World) -> None:
    made = world.make("VirtioBlk", "blk", {"volume_name_ref": form.text(world), "pcie_id": pci(1)})
    found = world.target.vhost("blk")
    assert found is not None
    assert found["backend_specific"]["block"]["bdev"] == form.bdev
    _stands_on_it(world, form, made["name"])
    world.delete("VirtioBlk", made["name"])
    _forget_foreign(world)


def _forget_foreign(world: World) -> None:
    for name in world.foreign:
        world.target.rpc("bdev_null_delete", name=name)


@pytest.mark.parametrize(
    "text",
    [
        "nothing", "nullVolumes/nothing", "mallocVolumes/vol", "volumes/nothing", "nullVolumes/vol/more",
        "nvmeRemoteControllers/array/nvmeRemoteNamespaces/9", "nvmeSubsystems/sub",
        "00000000-0000-4000-8000-000000000000",
    ],
)  # fmt: skip
def test_a_reference_to_nothing_names_field_and_reference(world: World, text: str) -> None:
    _null(world)
    world.subsystem()
    problem = failing(lambda: world.namespace("n0", text))
    assert (problem.code, problem.field) == ("NOT_FOUND", "nvme_namespace.spec.volume_name_ref")
    assert text in problem.message
