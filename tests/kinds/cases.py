"""The table of kinds, and what its rows do on the bridge and see on the target: a new kind needs one `Case`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds.case import Case, Resource
from tests.kinds.world import FAR_NQN, HOST_NQN, NQN, PSK, World, fabrics, path_to, pci

SUBSYSTEM = "nvmeSubsystems/sub"
ARRAY = "nvmeRemoteControllers/array"
KEY = base64.b64encode(bytes(range(32))).decode()


# What is on the target


def _bdev(world: World, number: int) -> Any:
    found = world.target.bdev(f"x{number}")
    return found and (found["block_size"], found["num_blocks"])


def _key(world: World, _number: int) -> Any:
    return len([key for key in world.target.rpc("keyring_get_keys") if not key.get("removed")]) or None


def _path(world: World, number: int) -> Any:
    """A path has no name there: it is that of number n which is none of the others'."""
    found = world.target.remote_controller("array") or {"ctrlrs": []}
    others = {str(world.ports[other]) for other in range(5) if other != number}
    return next((path["trid"]["trsvcid"] for path in found["ctrlrs"] if path["trid"]["trsvcid"] not in others), None)


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
    targets = {target["scsi_dev_num"]: target["luns"] for target in found["backend_specific"]["scsi"]}
    return next((lun["bdev_name"] for lun in targets.get(number, ())), None)


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


# What somebody else does to number 0


def _delete_bdev(world: World) -> None:
    assert world.target.delete_bdev("x0")


def _remove_keys(world: World) -> None:
    for key in world.target.rpc("keyring_get_keys"):
        world.target.rpc("keyring_file_remove_key", name=key["name"])


def _detach_path(world: World) -> None:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(world.ports[0])}
    world.target.rpc("bdev_nvme_detach_controller", name="array", subnqn=FAR_NQN, **address)


def _lower_limits(world: World) -> None:
    world.target.rpc("bdev_set_qos_limit", name="v0", rw_ios_per_sec=5000)


def _delete_subsystem(world: World) -> None:
    world.target.rpc("nvmf_delete_subsystem", nqn=f"{NQN}0")


def _remove_listener(world: World) -> None:
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(world.ports[0])}
    world.target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address)


def _remove_namespace(world: World) -> None:
    world.target.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)


def _delete_device(world: World) -> None:
    world.target.rpc("vhost_delete_controller", ctrlr="x0")


def _remove_scsi_target(world: World) -> None:
    world.target.rpc("vhost_scsi_controller_remove_target", ctrlr="dev", scsi_target_num=0)


# Whose I/O is counted


def _namespace_below(subsystem: str) -> Callable[[World], str]:
    def below(world: World) -> str:
        world.null_volume("io")
        world.namespace("io", "io", subsystem)
        return "io"

    return below


def _lun_below(world: World) -> str:
    world.null_volume("io")
    world.make("VirtioScsiLun", "io", {"target_name_ref": "x0", "volume_name_ref": "io"})
    return "io"


def _namespace_of_the_array(world: World) -> str:
    """The controller is made anew: its key is not one that the array has."""
    world.delete("NvmeRemoteController", "nvmeRemoteControllers/x0")
    world.array()
    world.remote_controller("x0")
    world.path("io", world.ports[0], "nvmeRemoteControllers/x0")
    return "x0n1"


def _encrypted(volume: str) -> Resource:
    return {"volume_name_ref": volume, "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}


def _path_shown(world: World) -> Resource:
    world.array()
    return path_to(world.ports[0])


def _controller_shown(world: World) -> Resource:
    return {"spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(world.ports[6]), "max_nsq": 5}}


_BLOCKS = {"block_size": 512, "blocks_count": 2048}
_GEOMETRY = (("block_size", 100), ("block_size", -512), ("blocks_count", -1), ("uuid", "no-uuid"))
_UUID = "5c1f5a0e-0f4b-4f0a-8d5a-0a8b8f3a7c11"

CASES = (
    Case(
        noun="NullVolume",
        prepare=_nothing,
        wanted=lambda _world, number: {"block_size": 512, "blocks_count": 2048 + number},
        seen=_bdev,
        damage=_delete_bdev,
        different=lambda _world: ("blocks_count", 4096),
        change=lambda _world: ("blocks_count", 8192),
        changed=lambda _world: (512, 8192),
        user=_namespace_on_it,
        required=("block_size", "blocks_count"),
        bad=_GEOMETRY,
        shown_as=("same-null", lambda _world: _BLOCKS),
    ),
    Case(
        noun="MallocVolume",
        prepare=_nothing,
        wanted=lambda _world, number: {"block_size": 512, "blocks_count": 2048 + number},
        seen=_bdev,
        damage=_delete_bdev,
        different=lambda _world: ("blocks_count", 4096),
        change=None,
        changed=None,
        immutable=(("block_size", 4096), ("blocks_count", 4096), ("metadata_size", 8), ("uuid", _UUID)),
        user=_encryption_over_it,
        required=("block_size", "blocks_count"),
        bad=(*_GEOMETRY, ("metadata_size", 5)),
        shown_as=("same-malloc", lambda _world: _BLOCKS),
        tests={
            "Update": "test_volumes.test_a_malloc_volume_keeps_its_data_whatever_is_asked",
        },
    ),
    Case(
        noun="AioVolume",
        prepare=_nothing,
        wanted=lambda world, number: {"filename": world.file(f"f{number}", 2048), "block_size": 512},
        seen=_bdev,
        damage=_delete_bdev,
        different=lambda world: ("filename", world.file("f1", 2048)),
        change=lambda world: ("filename", world.file("bigger", 4096)),
        changed=lambda _world: (512, 4096),
        user=_namespace_on_it,
        required=("filename",),
        bad=(("block_size", 1000), ("blocks_count", -1), ("uuid", "no-uuid"), ("filename", "relative")),
        measured=("blocks_count",),
        shown_as=("same-aio", lambda world: {**_BLOCKS, "filename": world.file("aio", 2048)}),
        tests={
            "Get": "test_aio_volume.test_get_tells_the_size_that_the_target_has_now",
        },
    ),
    Case(
        noun="NvmeRemoteController",
        prepare=_nothing,
        wanted=lambda _world, number: {
            "multipath": "NVME_MULTIPATH_MULTIPATH",
            "tcp": {"hdgst": True, **({} if number else {"psk": base64.b64encode(PSK.encode()).decode()})},
        },
        seen=_key,
        damage=_remove_keys,
        different=lambda _world: ("multipath", "NVME_MULTIPATH_FAILOVER"),
        change=lambda _world: ("io_queues_count", 3),
        changed=None,
        required=("multipath",),
        bad=(("io_queues_count", -1), ("queue_size", -1), ("tcp.psk", base64.b64encode(b"no key").decode())),
        secrets=(PSK, base64.b64encode(PSK.encode()).decode()),
        counted=_namespace_of_the_array,
        shown_as=("same", lambda _world: {"multipath": "NVME_MULTIPATH_MULTIPATH"}),
        tests={
            "Create": "test_nvme_remote_controller.test_with_its_key_it_gets_into_an_array_that_demands_tls",
            "Delete": "test_nvme_remote_controller.test_it_is_not_deleted_under_its_paths",
            "Update": "test_nvme_remote_controller.test_with_its_key_it_gets_into_an_array_that_demands_tls",
        },
    ),
    Case(
        noun="NvmePath",
        parent=ARRAY,
        prepare=_with_array,
        wanted=lambda world, number: path_to(world.ports[number]),
        seen=_path,
        damage=_detach_path,
        different=lambda world: ("fabrics.trsvcid", world.ports[5]),
        change=lambda world: ("fabrics.trsvcid", world.ports[5]),
        changed=lambda world: str(world.ports[5]),
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
        counted=lambda _world: "arrayn1",
        shown_as=("path", _path_shown),
        tests={
            "Update": "test_nvme_path.test_a_path_moves_under_a_volume_in_use",
        },
    ),
    Case(
        noun="EncryptedVolume",
        prepare=_with_bases,
        wanted=lambda _world, number: _encrypted(f"v{number}"),
        seen=_base,
        damage=_delete_bdev,
        different=lambda _world: ("volume_name_ref", "v5"),
        change=lambda _world: ("volume_name_ref", "v5"),
        changed=lambda _world: "v5",
        user=_namespace_on_it,
        required=("volume_name_ref", "key", "cipher"),
        bad=(("key", base64.b64encode(bytes(16)).decode()), ("cipher", "ENCRYPTION_TYPE_AES_CBC_128")),
        secrets=(KEY, bytes(range(16)).hex(), bytes(range(16, 32)).hex()),
        shown_as=("same-crypto", lambda _world: _encrypted("same-malloc")),
    ),
    Case(
        noun="QosVolume",
        prepare=_with_namespaced_volumes,
        wanted=lambda _world, number: {"volume_name_ref": f"v{number}", "limits": {"max": {"rw_iops_kiops": 20}}},
        seen=_limits,
        damage=_lower_limits,
        different=lambda _world: ("limits.max.rw_iops_kiops", 30),
        change=lambda _world: ("limits.max.rw_iops_kiops", 40),
        changed=lambda _world: {"rw_ios_per_sec": 40000},
        required=("volume_name_ref", "limits"),
        bad=(
            ("limits.max.rw_iops_kiops", -1),
            ("limits.max.rd_iops_kiops", 1),
            ("limits.max.wr_iops_kiops", 1),
            ("limits.min", {"rw_iops_kiops": 1}),
        ),
        counted=lambda _world: "v0",
        shown_as=(
            "same-qos",
            lambda _world: {"volume_name_ref": "same-null", "limits": {"max": {"rw_iops_kiops": 10}}},
        ),
    ),
    Case(
        noun="NvmeSubsystem",
        prepare=_nothing,
        wanted=lambda _world, number: {"spec": {"nqn": f"{NQN}{number}"}},
        seen=_subsystem,
        damage=_delete_subsystem,
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
        counted=_namespace_below("nvmeSubsystems/x0"),
        counts_own=False,
        shown_as=("same", lambda _world: {"spec": {"nqn": f"{NQN}:same"}}),
        tests={
            "Get": "test_nvme_subsystem.test_the_firmware_revision_is_the_targets_version",
        },
    ),
    Case(
        noun="NvmeController",
        parent=SUBSYSTEM,
        prepare=_with_subsystem,
        wanted=lambda world, number: {
            "spec": {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(world.ports[number])}
        },
        seen=_listener,
        damage=_remove_listener,
        different=lambda world: ("spec.fabrics_id", fabrics(world.ports[6])),
        change=lambda _world: ("spec.max_nsq", 7),
        changed=None,
        immutable=(
            ("spec.fabrics_id.trsvcid", "9"),
            ("spec.fabrics_id.traddr", "127.0.0.2"),
            ("spec.trtype", "NVME_TRANSPORT_TYPE_RDMA"),
        ),
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
        counted=_namespace_below(SUBSYSTEM),
        counts_own=False,
        shown_as=("tcp", _controller_shown),
        tests={
            "Get": "test_nvme_controller.test_active_is_whether_the_target_listens",
            "Update": "test_nvme_controller.test_what_the_target_cannot_honour_is_kept_and_can_be_updated",
        },
    ),
    Case(
        noun="NvmeNamespace",
        parent=SUBSYSTEM,
        prepare=_with_subsystem_and_volumes,
        wanted=lambda _world, number: {"spec": {"volume_name_ref": f"v{number}", "host_nsid": number + 1}},
        seen=_namespace,
        damage=_remove_namespace,
        different=lambda _world: ("spec.volume_name_ref", "v5"),
        change=lambda _world: ("spec.volume_name_ref", "v5"),
        changed=lambda _world: "v5",
        immutable=(
            ("spec.host_nsid", 9),
            ("spec.nguid", "0123456789ABCDEF0123456789ABCDEF"),
            ("spec.uuid", _UUID),
            ("spec.eui64", 5),
        ),
        required=("spec", "spec.volume_name_ref"),
        bad=(("spec.host_nsid", -1), ("spec.nguid", "x"), ("spec.nguid", "0" * 32), ("spec.uuid", "x")),
        counted=lambda _world: "v0",
        shown_as=("ns", lambda _world: {"spec": {"volume_name_ref": "same-crypto"}}),
        tests={
            "Get": "test_nvme_namespace.test_a_volume_that_was_removed_shows_offline",
        },
    ),
    Case(
        noun="VirtioBlk",
        prepare=_with_volumes,
        wanted=lambda _world, number: {"volume_name_ref": f"v{number}", "pcie_id": pci(number)},
        seen=_blk,
        damage=_delete_device,
        different=lambda _world: ("volume_name_ref", "v5"),
        change=lambda _world: ("volume_name_ref", "v5"),
        changed=lambda _world: "v5",
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
            ("max_limit.rd_iops_kiops", 1),
        ),
        counted=lambda _world: "v0",
        longest_id=30,  # a vhost socket's path has an end
        guest_only=True,
        shown_as=("same-blk", lambda _world: {"pcie_id": pci(1), "volume_name_ref": "same-aio"}),
    ),
    Case(
        noun="VirtioScsiTarget",
        prepare=_nothing,
        wanted=lambda _world, _number: {"max_luns": 8},
        seen=_scsi,
        damage=_delete_device,
        different=lambda _world: ("max_luns", 4),
        change=lambda _world: ("max_luns", 2),
        changed=None,
        user=_lun_of_it,
        required=(),
        bad=(("max_luns", 9), ("max_luns", -1)),
        counted=_lun_below,
        counts_own=False,
        longest_id=30,  # a vhost socket's path has an end
        guest_only=True,
        shown_as=("same-target", lambda _world: {"max_luns": 2}),
        tests={
            "Update": "test_virtio_scsi.test_max_luns_can_be_raised_and_is_lowered_only_over_free_numbers",
        },
    ),
    Case(
        noun="VirtioScsiController",
        prepare=_nothing,
        wanted=lambda _world, number: {"pcie_id": pci(number)},
        seen=_scsi,
        damage=_delete_device,
        different=lambda _world: ("pcie_id.physical_function", 6),
        change=lambda _world: ("pcie_id.physical_function", 5),
        changed=None,
        user=_lun_of_it,
        required=("pcie_id", "pcie_id.port_id", "pcie_id.physical_function", "pcie_id.virtual_function"),
        bad=(
            ("pcie_id.physical_function", -1),
            ("min_limit", {"rw_iops_kiops": 1}),
            ("max_limit", {"rw_iops_kiops": 1}),
        ),
        counted=_lun_below,
        counts_own=False,
        longest_id=30,  # a vhost socket's path has an end
        guest_only=True,
        shown_as=("same-scsi", lambda _world: {"pcie_id": pci(1, 3, 2)}),
        tests={
            "Update": "test_virtio_scsi.test_a_controller_takes_a_pci_function_any_a_target_none",
        },
    ),
    Case(
        noun="VirtioScsiLun",
        prepare=_with_device,
        wanted=lambda _world, number: {"target_name_ref": "dev", "volume_name_ref": f"v{number}"},
        seen=_lun,
        damage=_remove_scsi_target,
        different=lambda _world: ("volume_name_ref", "v5"),
        change=lambda _world: ("volume_name_ref", "v5"),
        changed=lambda _world: "v5",
        required=("target_name_ref", "volume_name_ref"),
        counted=lambda _world: "v0",
        longest_id=30,  # a vhost socket's path has an end
        guest_only=True,
        shown_as=(
            "same-lun",
            lambda _world: {"target_name_ref": "virtioScsiControllers/same-scsi", "volume_name_ref": "same-null"},
        ),
        tests={
            "Update": "test_virtio_scsi.test_a_lun_moves_to_another_device",
        },
    ),
)


def only(concerned: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """Runs a test for those kinds alone."""
    chosen = [case for case in CASES if concerned(case)]
    return pytest.mark.parametrize("case", chosen, ids=[case.noun for case in chosen])
