"""The SPDK methods in use, one function each: it makes the Call, whose result comes back typed.

Parameter names, units and rules are those of SPDK's JSON-RPC reference. Absent optional values (None, "") are left out,
since a target refuses parameters that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter

from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import (
    Bdev,
    HostController,
    IoStat,
    IoStats,
    Key,
    ListenAddress,
    Notification,
    RemoteController,
    Subsystem,
    Transport,
    VhostController,
)
from opi_spdk_bridge.spdk.release import Release

T = TypeVar("T")

_bdevs = TypeAdapter(list[Bdev])
_subsystems = TypeAdapter(list[Subsystem])
_keys = TypeAdapter(list[Key])
_notifications = TypeAdapter(list[Notification])
_transports = TypeAdapter(list[Transport])
_host_controllers = TypeAdapter(list[HostController])
_remote_controllers = TypeAdapter(list[RemoteController])
_vhost_controllers = TypeAdapter(list[VhostController])


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None and value != ""}


def _only(adapter: TypeAdapter[list[T]]) -> Any:
    return lambda result: adapter.validate_python(result)[0]


def notify_get_notifications(first: int, most: int) -> Call[list[Notification]]:
    """What happened from the number `first` on, oldest first."""
    return Call("notify_get_notifications", {"id": first, "max": most}, _notifications.validate_python)


# Block devices


def bdev_get_bdev(name: str) -> Call[Bdev]:
    """One bdev by name, alias or UUID."""
    return Call("bdev_get_bdevs", {"name": name}, _only(_bdevs))


def bdev_get_bdevs() -> Call[list[Bdev]]:
    """Every bdev: about 900 bytes each, so not for a target with thousands."""
    return Call("bdev_get_bdevs", None, _bdevs.validate_python)


def bdev_get_iostat(release: Release, bdev: str) -> Call[IoStat]:
    """The counters of one bdev."""
    many = bdev_get_iostats(release, [bdev])
    return Call(many.method, many.params, lambda result: many.read(result).bdevs[0])


def bdev_get_iostats(release: Release, bdevs: Sequence[str]) -> Call[IoStats]:
    """The counters of several bdevs (before 26.01 of the first only); refused when one of them does not exist."""
    return Call("bdev_get_iostat", release.iostat_of(bdevs), IoStats.model_validate)


def bdev_malloc_create(name: str, block_size: int, num_blocks: int, uuid: str, md_size: int) -> Call[str]:
    """A RAM disk; sizes in bytes. Metadata is interleaved with the data: malloc takes no other form over NVMe-oF."""
    metadata: dict[str, Any] = {"md_size": md_size, "md_interleave": True} if md_size else {}
    params = {"name": name, "block_size": block_size, "num_blocks": num_blocks, "uuid": uuid, **metadata}
    return Call("bdev_malloc_create", params, str)


def bdev_malloc_delete(name: str) -> Call[bool]:
    """Succeeds at once and hot-removes what stands on the bdev."""
    return Call("bdev_malloc_delete", {"name": name}, bool)


def bdev_null_create(name: str, block_size: int, num_blocks: int, uuid: str) -> Call[str]:
    """A disk that discards writes and reads as nothing in particular."""
    params = {"name": name, "block_size": block_size, "num_blocks": num_blocks, "uuid": uuid}
    return Call("bdev_null_create", params, str)


def bdev_null_resize(name: str, new_size_mib: int) -> Call[bool]:
    """Grows a null bdev; the target counts in MiB and refuses to shrink."""
    return Call("bdev_null_resize", {"name": name, "new_size": new_size_mib}, bool)


def bdev_null_delete(name: str) -> Call[bool]:
    """As bdev_malloc_delete."""
    return Call("bdev_null_delete", {"name": name}, bool)


def bdev_aio_create(name: str, filename: str, block_size: int | None, uuid: str) -> Call[str]:
    """A file or block device of the target's host. Of a file the target cannot tell the block size by itself."""
    return Call("bdev_aio_create", _given(name=name, filename=filename, block_size=block_size, uuid=uuid), str)


def bdev_aio_rescan(name: str) -> Call[bool]:
    """Takes over the file's present size."""
    return Call("bdev_aio_rescan", {"name": name}, bool)


def bdev_aio_delete(name: str) -> Call[bool]:
    """As bdev_malloc_delete; the file stays."""
    return Call("bdev_aio_delete", {"name": name}, bool)


def accel_crypto_key_create(name: str, key: bytes, key2: bytes) -> Call[bool]:
    """An AES-XTS key pair: data key and tweak key, both 16 or both 32 bytes, and not equal."""
    params = {"name": name, "cipher": "AES_XTS", "key": key.hex(), "key2": key2.hex()}
    return Call("accel_crypto_key_create", params, bool)


def accel_crypto_key_named(name: str) -> Call[str]:
    """The name of a key that exists; what comes back with it, its material, is dropped here."""
    return Call("accel_crypto_keys_get", {"key_name": name}, lambda result: str(result[0]["name"]))


def accel_crypto_key_destroy(name: str) -> Call[bool]:
    """Succeeds even while something holds the key, which then is freed memory: see `bdev_crypto_delete`."""
    return Call("accel_crypto_key_destroy", {"key_name": name}, bool)


def bdev_crypto_create(name: str, base: str, key_name: str) -> Call[str]:
    """Makes an entry by the vbdev's name, and of it the vbdev, now or whenever a bdev named `base` appears.

    Refused with EEXIST while there is an entry of that name, whether or not it has its vbdev.
    """
    return Call("bdev_crypto_create", {"name": name, "base_bdev_name": base, "key_name": key_name}, str)


def bdev_crypto_delete(name: str) -> Call[bool]:
    """As bdev_malloc_delete; the base stays. Only success removes the entry, which holds the key.

    A vbdev goes with its base, its entry stays: this then answers ENODEV, and the vbdev comes back with the base.
    """
    return Call("bdev_crypto_delete", {"name": name}, bool)


def bdev_set_qos_limit(name: str, limits: Mapping[str, int]) -> Call[bool]:
    """Limits by the target's names; bandwidths in MiB/s, 0 lifts. EAGAIN, for good, on a bdev that nothing has open."""
    return Call("bdev_set_qos_limit", {"name": name, **limits}, bool)


# NVMe controllers elsewhere


def bdev_nvme_attach_controller(params: Mapping[str, Any]) -> Call[list[str]]:
    """Connects a path; the first of a name makes the controller. Returns the names of the bdevs."""
    return Call("bdev_nvme_attach_controller", _given(**params), list)


def bdev_nvme_detach_controller(params: Mapping[str, Any]) -> Call[bool]:
    """Drops the path with that full address; the last one takes the controller and its bdevs with it."""
    return Call("bdev_nvme_detach_controller", _given(**params), bool)


def bdev_nvme_get_controller(name: str) -> Call[RemoteController]:
    """One NVMe bdev controller with its paths."""
    return Call("bdev_nvme_get_controllers", {"name": name}, _only(_remote_controllers))


def bdev_nvme_reset_controller(name: str) -> Call[bool]:
    """Resets the controller on all its paths."""
    return Call("bdev_nvme_reset_controller", {"name": name}, bool)


def bdev_nvme_get_path_iostat(bdev: str) -> Call[dict[str, Any]]:
    """Counters of each path of an NVMe bdev; refused unless the target was told to keep them (io_path_stat)."""
    return Call("bdev_nvme_get_path_iostat", {"name": bdev}, dict)


# vhost


def vhost_create_blk_controller(ctrlr: str, bdev: str) -> Call[bool]:
    """A virtio-blk device behind the socket `ctrlr` in the target's vhost folder."""
    return Call("vhost_create_blk_controller", {"ctrlr": ctrlr, "dev_name": bdev}, bool)


def vhost_create_scsi_controller(ctrlr: str) -> Call[bool]:
    """A virtio-scsi device behind such a socket, without targets."""
    return Call("vhost_create_scsi_controller", {"ctrlr": ctrlr}, bool)


def vhost_scsi_controller_add_target(ctrlr: str, number: int, bdev: str) -> Call[int]:
    """Puts a bdev as LUN 0 under the SCSI target `number` (0 to 7)."""
    params = {"ctrlr": ctrlr, "scsi_target_num": number, "bdev_name": bdev}
    return Call("vhost_scsi_controller_add_target", params, int)


def vhost_scsi_controller_remove_target(ctrlr: str, number: int) -> Call[bool]:
    """Takes the SCSI target away; its bdev stays."""
    return Call("vhost_scsi_controller_remove_target", {"ctrlr": ctrlr, "scsi_target_num": number}, bool)


def vhost_get_controller(name: str) -> Call[VhostController]:
    """One vhost controller."""
    return Call("vhost_get_controllers", {"name": name}, _only(_vhost_controllers))


def vhost_get_controllers() -> Call[list[VhostController]]:
    """Every vhost controller: about 300 bytes each, at most 1,024."""
    return Call("vhost_get_controllers", None, _vhost_controllers.validate_python)


def vhost_delete_controller(ctrlr: str) -> Call[bool]:
    """Refused while a guest is connected."""
    return Call("vhost_delete_controller", {"ctrlr": ctrlr}, bool)


# The NVMe-oF target


def nvmf_create_transport(trtype: str) -> Call[bool]:
    """TCP, RDMA or VFIOUSER, with the target's defaults."""
    return Call("nvmf_create_transport", {"trtype": trtype}, bool)


def nvmf_get_transports() -> Call[list[Transport]]:
    """The transports that exist."""
    return Call("nvmf_get_transports", None, _transports.validate_python)


def nvmf_get_subsystem(nqn: str) -> Call[Subsystem]:
    """One subsystem."""
    return Call("nvmf_get_subsystems", {"nqn": nqn}, _only(_subsystems))


def nvmf_get_subsystems() -> Call[list[Subsystem]]:
    """Every subsystem, the discovery one included."""
    return Call("nvmf_get_subsystems", None, _subsystems.validate_python)


def nvmf_create_subsystem(
    nqn: str, serial_number: str, model_number: str, max_namespaces: int | None, allow_any_host: bool
) -> Call[bool]:
    """`serial_number` at most 20, `model_number` at most 40 printable ASCII characters."""
    params = _given(
        nqn=nqn,
        serial_number=serial_number,
        model_number=model_number,
        max_namespaces=max_namespaces,
        allow_any_host=allow_any_host,
    )
    return Call("nvmf_create_subsystem", params, bool)


def nvmf_delete_subsystem(nqn: str) -> Call[bool]:
    """Takes its namespaces and listeners with it."""
    return Call("nvmf_delete_subsystem", {"nqn": nqn}, bool)


def nvmf_subsystem_allow_any_host(nqn: str, allow: bool) -> Call[bool]:
    """Whether hosts that are not listed may connect."""
    return Call("nvmf_subsystem_allow_any_host", {"nqn": nqn, "allow_any_host": allow}, bool)


def nvmf_subsystem_get_controllers(nqn: str) -> Call[list[HostController]]:
    """The hosts' connections to a subsystem, which is paused for a moment."""
    return Call("nvmf_subsystem_get_controllers", {"nqn": nqn}, _host_controllers.validate_python)


def nvmf_subsystem_add_host(nqn: str, host: str, psk: str | None) -> Call[bool]:
    """`psk` is a key's name in the keyring; before 24.05 the path of its file.

    It goes to the transports that exist by then, and never to one that is made later. A host that is listed is refused,
    up to 24.05 taken for granted.
    """
    return Call("nvmf_subsystem_add_host", _given(nqn=nqn, host=host, psk=psk), bool)


def nvmf_subsystem_remove_host(nqn: str, host: str) -> Call[bool]:
    """Drops the host's connections."""
    return Call("nvmf_subsystem_remove_host", {"nqn": nqn, "host": host}, bool)


def nvmf_subsystem_add_listener(nqn: str, address: ListenAddress, secure_channel: bool) -> Call[bool]:
    """`secure_channel` requires TLS; refused while any host may connect."""
    secure = {"secure_channel": True} if secure_channel else {}
    return Call("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": _address(address), **secure}, bool)


def nvmf_subsystem_remove_listener(nqn: str, address: ListenAddress) -> Call[bool]:
    """Drops the connections that came through it."""
    return Call("nvmf_subsystem_remove_listener", {"nqn": nqn, "listen_address": _address(address)}, bool)


def _address(address: ListenAddress) -> dict[str, Any]:
    return _given(trtype=address.trtype, adrfam=address.adrfam, traddr=address.traddr, trsvcid=address.trsvcid)


def nvmf_subsystem_add_ns(nqn: str, bdev_name: str, nsid: int | None, nguid: str, eui64: str, uuid: str) -> Call[int]:
    """Exports a bdev; without `nsid` the target takes the first free one. Returns the NSID."""
    namespace = _given(bdev_name=bdev_name, nsid=nsid, nguid=nguid, eui64=eui64, uuid=uuid)
    return Call("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": namespace}, int)


def nvmf_subsystem_remove_ns(nqn: str, nsid: int) -> Call[bool]:
    """Takes the namespace from its hosts; the bdev stays."""
    return Call("nvmf_subsystem_remove_ns", {"nqn": nqn, "nsid": nsid}, bool)


# The keyring


def keyring_file_add_key(name: str, path: str) -> Call[bool]:
    """The file must be absolute, 0600 or tighter and owned by the target's user, and stay there."""
    return Call("keyring_file_add_key", {"name": name, "path": path}, bool)


def keyring_file_remove_key(name: str) -> Call[bool]:
    """A key in use stays until its last user goes."""
    return Call("keyring_file_remove_key", {"name": name}, bool)


def keyring_get_keys() -> Call[list[Key]]:
    """Every key's name and path, never its material."""
    return Call("keyring_get_keys", None, _keys.validate_python)
