"""The SPDK methods in use, one function each: it makes the Call, whose result comes back typed.

Parameter names, units and rules are those of SPDK's JSON-RPC reference. Absent optional values (None, "") are left out,
since a target refuses parameters that it does not know.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

from opi_spdk_bridge.spdk.client import Call
from opi_spdk_bridge.spdk.model import Bdev, IoStat, Key, ListenAddress, Subsystem, Transport
from opi_spdk_bridge.spdk.release import Release

T = TypeVar("T")
_bdevs = TypeAdapter(list[Bdev])
_subsystems = TypeAdapter(list[Subsystem])
_keys = TypeAdapter(list[Key])
_transports = TypeAdapter(list[Transport])
_iostats = TypeAdapter(list[IoStat])


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None and value != ""}


def _only(adapter: TypeAdapter[list[T]]) -> Any:
    return lambda result: adapter.validate_python(result)[0]


# Block devices


def bdev_get_bdev(name: str) -> Call[Bdev]:
    """One bdev by name, alias or UUID."""
    return Call("bdev_get_bdevs", {"name": name}, _only(_bdevs))


def bdev_get_bdevs() -> Call[list[Bdev]]:
    """Every bdev: about 900 bytes each, so not for a target with thousands."""
    return Call("bdev_get_bdevs", None, _bdevs.validate_python)


def bdev_get_iostat(release: Release, bdev: str) -> Call[IoStat]:
    """The counters of one bdev."""
    return Call("bdev_get_iostat", release.iostat_of(bdev), lambda result: _iostats.validate_python(result["bdevs"])[0])


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


def nvmf_subsystem_add_host(nqn: str, host: str, psk: str | None) -> Call[bool]:
    """`psk` is a key's name in the keyring; before 24.01 the path of its file."""
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
