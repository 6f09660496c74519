"""What the contract suite needs to know of each kind: a row of a table, and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kinds.world import HOST_NQN, NQN, PSK, World, collection, fabrics, path_to, pci, resource_field

Resource = dict[str, Any]

SUBSYSTEM = "nvmeSubsystems/sub"
ARRAY = "nvmeRemoteControllers/array"
KEY = base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Case:
    """One kind. Resources are numbered: number n has the ID x{n}, and all of them can exist side by side.

    prepare     makes what they stand on
    wanted      the resource that a Create request n asks for
    seen        what there is of it on the target: None before and after
    different   (path, value): makes another request of request 0
    change      (path, value): what an update changes, None for kinds of which nothing can be changed
    changed     what `seen` is after that update; None where the target is not concerned
    immutable   (path, value) that an update must refuse
    user        makes something that stands on number 0 and returns its name; None where nothing can
    required    paths without which a request is refused
    bad         (path, value) that a request is refused for, naming the path
    secrets     texts that may appear nowhere
    stats       the bdev whose I/O the counters of number 0 count
    """

    noun: str
    prepare: Callable[[World], None]
    wanted: Callable[[World, int], Resource]
    seen: Callable[[World, int], Any]
    different: Callable[[World], tuple[str, Any]]
    change: Callable[[World], tuple[str, Any]] | None
    changed: Callable[[World], Any] | None
    immutable: tuple[tuple[str, Any], ...]
    user: Callable[[World], str] | None
    required: tuple[str, ...]
    bad: tuple[tuple[str, Any], ...]
    secrets: tuple[str, ...] = ()
    stats: Callable[[World], str] = lambda _world: "x0"
    parent: str = ""

    @property
    def field(self) -> str:
        """The field of requests that holds the resource."""
        return resource_field(self.noun)

    def name(self, number: int = 0) -> str:
        """The canonical name of number n."""
        return self.named(f"x{number}")

    def named(self, resource_id: str) -> str:
        """The canonical name with that ID."""
        own = f"{collection(self.noun)}/{resource_id}"
        return f"{self.parent}/{own}" if self.parent else own

    def create(self, world: World, number: int = 0) -> Resource:
        """Creates number n."""
        return world.make(self.noun, f"x{number}", self.wanted(world, number), self.parent)


def put(resource: Resource, path: str, value: Any) -> Resource:
    """A copy with the field at a path set, or left out for None."""
    first, _, rest = path.partition(".")
    copy = dict(resource)
    if rest:
        copy[first] = put(copy.get(first, {}), rest, value)
    elif value is None:
        copy.pop(first, None)
    else:
        copy[first] = value
    return copy


def at(resource: Resource, path: str) -> Any:
    """The field at a path; None where it is left out. Numbers of 64 bits come as texts: everything is one."""
    value: Any = resource
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if value is None or isinstance(value, dict | bool) else str(value)


# What is on the target


def _bdev(world: World, number: int) -> Any:
    found = world.target.bdev(f"x{number}")
    return found and (found["block_size"], found["num_blocks"])


def _key(world: World, _number: int) -> Any:
    return len([key for key in world.target.rpc("keyring_get_keys") if not key.get("removed")]) or None


def _path(world: World, number: int) -> Any:
    found = world.target.remote_controller("array") or {"ctrlrs": []}
    return next(
        (p["trid"]["trsvcid"] for p in found["ctrlrs"] if p["trid"]["trsvcid"] == str(world.ports[number])), None
    )


def _base(world: World, number: int) -> Any:
    found = world.target.bdev(f"x{number}")
    return found and found["driver_specific"]["crypto"]["base_bdev_name"]


def _limits(world: World, number: int) -> Any:
    found = world.target.bdev(f"v{number}")
    limits = {name: value for name, value in (found or {}).get("assigned_rate_limits", {}).items() if value}
    return limits or None


def _subsystem(world: World, number: int) -> Any:
    found = world.target.subsystem(f"{NQN}{number}")
    return found and [host["nqn"] for host in found["hosts"]]


def _listener(world: World, number: int) -> Any:
    found = world.target.subsystem(NQN) or {"listen_addresses": []}
    ports = [address["trsvcid"] for address in found["listen_addresses"]]
    return str(world.ports[number]) if str(world.ports[number]) in ports else None


def _namespace(world: World, number: int) -> Any:
    found = world.target.subsystem(NQN) or {"namespaces": []}
    return next((ns["bdev_name"] for ns in found["namespaces"] if ns["nsid"] == number + 1), None)


def _blk(world: World, number: int) -> Any:
    found = world.target.vhost(f"x{number}")
    return found and found["backend_specific"]["block"]["bdev"]


def _scsi(world: World, number: int) -> Any:
    found = world.target.vhost(f"x{number}")
    return found and found["backend_specific"]["scsi"]


def _lun(world: World, number: int) -> Any:
    found = world.target.vhost("dev") or {"backend_specific": {"scsi": []}}
    bdevs = [target["luns"][0]["bdev_name"] for target in found["backend_specific"]["scsi"] if target["luns"]]
    return next((bdev for bdev in bdevs if bdev == f"v{number}"), None)


# What they stand on


def _nothing(_world: World) -> None:
    pass


def _with_subsystem(world: World) -> None:
    world.subsystem()


def _with_volumes(world: World) -> None:
    for number in range(6):
        world.null_volume(f"v{number}")


def _with_namespaced_volumes(world: World) -> None:
    world.subsystem()
    _with_volumes(world)
    for number in range(6):
        world.namespace(f"n{number}", f"v{number}")


def _with_bases(world: World) -> None:
    for number in range(6):
        world.malloc_volume(f"v{number}")


def _with_array(world: World) -> None:
    world.array(listeners=6)
    world.remote_controller()


def _with_subsystem_and_volumes(world: World) -> None:
    world.subsystem()
    _with_volumes(world)


def _with_device(world: World) -> None:
    world.make("VirtioScsiController", "dev", {"pcie_id": pci(7)})
    _with_volumes(world)


# What stands on them


def _namespace_on_it(world: World) -> str:
    world.subsystem("user", f"{NQN}:user")
    return str(world.namespace("user", "x0", "nvmeSubsystems/user")["name"])


def _controller_of_it(world: World) -> str:
    return str(world.controller("user", world.ports[7], "nvmeSubsystems/x0")["name"])


def _encryption_over_it(world: World) -> str:
    made = world.make("EncryptedVolume", "user", _encrypted("x0"))
    return str(made["name"])


def _lun_of_it(world: World) -> str:
    world.null_volume("user")
    return str(world.make("VirtioScsiLun", "user", {"target_name_ref": "x0", "volume_name_ref": "user"})["name"])


def _encrypted(volume: str) -> Resource:
    return {"volume_name_ref": volume, "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}


_GEOMETRY = (("block_size", 100), ("block_size", -512), ("blocks_count", -1), ("uuid", "no-uuid"))
_UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"

CASES = (
    Case(
        noun="NullVolume",
        prepare=_nothing,
        wanted=lambda _world, number: {"block_size": 512, "blocks_count": 2048 + number},
        seen=_bdev,
        different=lambda _world: ("blocks_count", 4096),
        change=lambda _world: ("blocks_count", 8192),
        changed=lambda _world: (512, 8192),
        immutable=(),
        user=_namespace_on_it,
        required=("block_size", "blocks_count"),
        bad=_GEOMETRY,
    ),
    Case(
        noun="MallocVolume",
        prepare=_nothing,
        wanted=lambda _world, number: {"block_size": 512, "blocks_count": 2048 + number},
        seen=_bdev,
        different=lambda _world: ("blocks_count", 4096),
        change=None,
        changed=None,
        immutable=(("block_size", 4096), ("blocks_count", 4096), ("metadata_size", 8), ("uuid", _UUID)),
        user=_encryption_over_it,
        required=("block_size", "blocks_count"),
        bad=(*_GEOMETRY, ("metadata_size", 5)),
    ),
    Case(
        noun="AioVolume",
        prepare=_nothing,
        wanted=lambda world, number: {"filename": world.file(f"f{number}", 2048), "block_size": 512},
        seen=_bdev,
        different=lambda world: ("filename", world.file("f1", 2048)),
        change=lambda world: ("filename", world.file("bigger", 4096)),
        changed=lambda _world: (512, 4096),
        immutable=(),
        user=_namespace_on_it,
        required=("filename",),
        bad=(("block_size", 1000), ("blocks_count", -1), ("uuid", "no-uuid"), ("filename", "relative")),
    ),
    Case(
        noun="NvmeRemoteController",
        prepare=_nothing,
        wanted=lambda _world, number: {
            "multipath": "NVME_MULTIPATH_MULTIPATH",
            "tcp": {"hdgst": True, **({} if number else {"psk": base64.b64encode(PSK.encode()).decode()})},
        },
        seen=_key,
        different=lambda _world: ("multipath", "NVME_MULTIPATH_FAILOVER"),
        change=lambda _world: ("io_queues_count", 3),
        changed=None,
        immutable=(),
        user=None,
        required=("multipath",),
        bad=(("io_queues_count", -1), ("queue_size", -1), ("tcp.psk", base64.b64encode(b"no key").decode())),
        secrets=(PSK, base64.b64encode(PSK.encode()).decode()),
    ),
    Case(
        noun="NvmePath",
        parent=ARRAY,
        prepare=_with_array,
        wanted=lambda world, number: path_to(world.ports[number]),
        seen=_path,
        different=lambda world: ("fabrics.trsvcid", world.ports[5]),
        change=lambda world: ("fabrics.trsvcid", world.ports[5]),
        changed=None,
        immutable=(),
        user=None,
        required=("trtype", "traddr", "fabrics", "fabrics.trsvcid", "fabrics.subnqn", "fabrics.adrfam"),
        bad=(
            ("trtype", "NVME_TRANSPORT_TYPE_FC"),
            ("traddr", "no address"),
            ("traddr", "::1"),
            ("fabrics.trsvcid", 65536),
            ("fabrics.subnqn", "x" * 224),
            ("fabrics.hostnqn", "x" * 224),
            ("fabrics.source_traddr", "no address"),
            ("fabrics.source_trsvcid", 65536),
        ),
        stats=lambda _world: "arrayn1",
    ),
    Case(
        noun="EncryptedVolume",
        prepare=_with_bases,
        wanted=lambda _world, number: _encrypted(f"v{number}"),
        seen=_base,
        different=lambda _world: ("volume_name_ref", "v5"),
        change=lambda _world: ("volume_name_ref", "v5"),
        changed=lambda _world: "v5",
        immutable=(),
        user=_namespace_on_it,
        required=("volume_name_ref", "key", "cipher"),
        bad=(("key", base64.b64encode(bytes(16)).decode()), ("cipher", "ENCRYPTION_TYPE_AES_CBC_128")),
        secrets=(KEY, bytes(range(16)).hex(), bytes(range(16, 32)).hex()),
    ),
    Case(
        noun="QosVolume",
        prepare=_with_namespaced_volumes,
        wanted=lambda _world, number: {"volume_name_ref": f"v{number}", "limits": {"max": {"rw_iops_kiops": 20}}},
        seen=_limits,
        different=lambda _world: ("limits.max.rw_iops_kiops", 30),
        change=lambda _world: ("limits.max.rw_iops_kiops", 40),
        changed=lambda _world: {"rw_ios_per_sec": 40000},
        immutable=(),
        user=None,
        required=("volume_name_ref", "limits"),
        bad=(
            ("limits.max.rw_iops_kiops", -1),
            ("limits.max.rd_iops_kiops", 1),
            ("limits.max.wr_iops_kiops", 1),
            ("limits.min.rw_iops_kiops", 1),
        ),
        stats=lambda _world: "v0",
    ),
    Case(
        noun="NvmeSubsystem",
        prepare=_nothing,
        wanted=lambda _world, number: {"spec": {"nqn": f"{NQN}{number}"}},
        seen=_subsystem,
        different=lambda _world: ("spec.model_number", "other"),
        change=lambda _world: ("spec.hostnqn", HOST_NQN),
        changed=lambda _world: [HOST_NQN],
        immutable=(
            ("spec.nqn", f"{NQN}:other"),
            ("spec.serial_number", "other"),
            ("spec.model_number", "other"),
            ("spec.max_namespaces", 5),
        ),
        user=_controller_of_it,
        required=("spec", "spec.nqn"),
        bad=(
            ("spec.nqn", "no nqn"),
            ("spec.serial_number", "x" * 21),
            ("spec.model_number", "x" * 41),
            ("spec.serial_number", "é"),
            ("spec.max_namespaces", -1),
            ("spec.hostnqn", "no nqn"),
        ),
    ),
    Case(
        noun="NvmeController",
        parent=SUBSYSTEM,
        prepare=_with_subsystem,
        wanted=lambda world, number: {
            "spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(world.ports[number])}
        },
        seen=_listener,
        different=lambda world: ("spec.fabrics_id", fabrics(world.ports[6])),
        change=lambda _world: ("spec.max_nsq", 7),
        changed=None,
        immutable=(
            ("spec.fabrics_id.trsvcid", "9"),
            ("spec.fabrics_id.traddr", "127.0.0.2"),
            ("spec.trtype", "NVME_TRANSPORT_TYPE_RDMA"),
        ),
        user=None,
        required=("spec", "spec.trtype", "spec.fabrics_id"),
        bad=(
            ("spec.trtype", "NVME_TRANSPORT_TYPE_FC"),
            ("spec.fabrics_id.traddr", "no address"),
            ("spec.fabrics_id.trsvcid", "0"),
            ("spec.fabrics_id.trsvcid", "65536"),
            ("spec.fabrics_id.trsvcid", "x"),
            ("spec.fabrics_id.adrfam", "NVME_ADDRESS_FAMILY_IB"),
            ("spec.min_limit", {"rw_iops_kiops": 1}),
            ("spec.max_limit", {"rw_iops_kiops": 1}),
        ),
    ),
    Case(
        noun="NvmeNamespace",
        parent=SUBSYSTEM,
        prepare=_with_subsystem_and_volumes,
        wanted=lambda _world, number: {"spec": {"volume_name_ref": f"v{number}", "host_nsid": number + 1}},
        seen=_namespace,
        different=lambda _world: ("spec.volume_name_ref", "v5"),
        change=lambda _world: ("spec.volume_name_ref", "v5"),
        changed=lambda _world: "v5",
        immutable=(
            ("spec.host_nsid", 9),
            ("spec.nguid", "0123456789ABCDEF0123456789ABCDEF"),
            ("spec.uuid", _UUID),
            ("spec.eui64", 5),
        ),
        user=None,
        required=("spec", "spec.volume_name_ref"),
        bad=(("spec.host_nsid", -1), ("spec.nguid", "x"), ("spec.nguid", "0" * 32), ("spec.uuid", "x")),
        stats=lambda _world: "v0",
    ),
    Case(
        noun="VirtioBlk",
        prepare=_with_volumes,
        wanted=lambda _world, number: {"volume_name_ref": f"v{number}", "pcie_id": pci(number)},
        seen=_blk,
        different=lambda _world: ("volume_name_ref", "v5"),
        change=lambda _world: ("volume_name_ref", "v5"),
        changed=lambda _world: "v5",
        immutable=(),
        user=None,
        required=(
            "volume_name_ref",
            "pcie_id",
            "pcie_id.port_id",
            "pcie_id.physical_function",
            "pcie_id.virtual_function",
        ),
        bad=(
            ("pcie_id.port_id", 1),
            ("pcie_id.virtual_function", 1),
            ("pcie_id.physical_function", -1),
            ("min_limit", {"rw_iops_kiops": 1}),
            ("max_limit", {"rd_iops_kiops": 1}),
        ),
        stats=lambda _world: "v0",
    ),
    Case(
        noun="VirtioScsiTarget",
        prepare=_nothing,
        wanted=lambda _world, _number: {"max_luns": 8},
        seen=_scsi,
        different=lambda _world: ("max_luns", 4),
        change=lambda _world: ("max_luns", 2),
        changed=None,
        immutable=(),
        user=_lun_of_it,
        required=(),
        bad=(("max_luns", 9), ("max_luns", -1)),
    ),
    Case(
        noun="VirtioScsiController",
        prepare=_nothing,
        wanted=lambda _world, number: {"pcie_id": pci(number)},
        seen=_scsi,
        different=lambda _world: ("pcie_id.physical_function", 6),
        change=lambda _world: ("pcie_id.physical_function", 5),
        changed=None,
        immutable=(),
        user=_lun_of_it,
        required=("pcie_id", "pcie_id.port_id", "pcie_id.physical_function", "pcie_id.virtual_function"),
        bad=(
            ("pcie_id.physical_function", -1),
            ("min_limit", {"rw_iops_kiops": 1}),
            ("max_limit", {"rw_iops_kiops": 1}),
        ),
    ),
    Case(
        noun="VirtioScsiLun",
        prepare=_with_device,
        wanted=lambda _world, number: {"target_name_ref": "dev", "volume_name_ref": f"v{number}"},
        seen=_lun,
        different=lambda _world: ("volume_name_ref", "v5"),
        change=lambda _world: ("volume_name_ref", "v5"),
        changed=None,
        immutable=(),
        user=None,
        required=("target_name_ref", "volume_name_ref"),
        bad=(),
        stats=lambda _world: "v0",
    ),
)


def only(concerned: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """Runs a test for those kinds alone."""
    chosen = [case for case in CASES if concerned(case)]
    return pytest.mark.parametrize("case", chosen, ids=[case.noun for case in chosen])
