"""Where a test of a kind happens: a bridge, its target, the array elsewhere, and short ways to make resources."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opi_spdk_bridge.daemon.resources import kinds_only
from tests.support.bridge import METHODS, CallError, Client
from tests.support.io import Io, io_on
from tests.support.ports import free_ports as free_ports
from tests.support.target import RpcError, Target, wait_until

PSK = "NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"
OTHER_PSK = "NVMeTLSkey-1:01:ZmZlZWRkY2NiYmFhOTk4ODc3NjY1NTQ0MzMyMjExMDBfBm/Y:"
NQN = "nqn.2022-09.io.spdk:opi"
FAR_NQN = "nqn.2022-09.io.spdk:far"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"
MIB = 1024 * 1024

_ENTRIES = {entry.kind.message.DESCRIPTOR.name: entry for entry in kinds_only().values()}

NOUNS = tuple(_ENTRIES)
"""The kinds by the name of their message, in dependency order."""


def parent_noun(noun: str) -> str:
    """The kind in whose names those of this kind are nested; "" at the top."""
    outer = _ENTRIES[noun].names.collections[:-1]
    return next((other for other, entry in _ENTRIES.items() if entry.names.collections == outer), "")


def resource_field(noun: str) -> str:
    """The field of a Create request that holds the resource: NvmeSubsystem → nvme_subsystem."""
    message = METHODS[f"Get{noun}"].output_type
    return str(next(f.name for f in METHODS[f"Create{noun}"].input_type.fields if f.message_type is message))


def singular(noun: str) -> str:
    """NvmeSubsystem → nvmeSubsystem, as records name their kind."""
    return _ENTRIES[noun].singular


def plural(noun: str) -> str:
    """NvmeSubsystem → NvmeSubsystems."""
    several = _ENTRIES[noun].names.plural
    return f"{several[0].upper()}{several[1:]}"


def collection(noun: str) -> str:
    """NvmeSubsystem → nvmeSubsystems."""
    return _ENTRIES[noun].names.collections[-1]


def psk(key: str = PSK) -> str:
    """A TLS key as a JSON request holds it."""
    return base64.b64encode(key.encode()).decode()


def fabrics(port: int, address: str = "127.0.0.1") -> dict[str, Any]:
    """The endpoint of a TCP controller."""
    family = "NVME_ADDRESS_FAMILY_IPV6" if ":" in address else "NVME_ADDRESS_FAMILY_IPV4"
    return {"traddr": address, "trsvcid": str(port), "adrfam": family}


def pci(function: int, port: int = 0, virtual: int = 0) -> dict[str, Any]:
    """A PCI function."""
    return {"port_id": port, "physical_function": function, "virtual_function": virtual}


@dataclass
class World:
    """`foreign` has the names of objects that a test itself put on the target and takes away again."""

    opi: Client
    target: Target
    folder: Path
    far_target: Callable[[], Target]
    ports: list[int] = field(default_factory=lambda: free_ports(8))
    foreign: set[str] = field(default_factory=set)

    @property
    def far(self) -> Target:
        """The array elsewhere; the test is skipped where there is none."""
        return self.far_target()

    # Resources

    def make(self, noun: str, resource_id: str, resource: dict[str, Any], parent: str = "") -> dict[str, Any]:
        """Creates one and returns it."""
        name = resource_field(noun)
        request: dict[str, Any] = {name: resource, f"{name}_id": resource_id}
        if parent:
            request["parent"] = parent
        return self.opi.call(f"Create{noun}", request)

    def get(self, noun: str, name: str) -> dict[str, Any]:
        """Gets one."""
        return self.opi.call(f"Get{noun}", {"name": name})

    def update(self, noun: str, resource: dict[str, Any], *mask: str, allow_missing: bool = False) -> dict[str, Any]:
        """Updates one; no mask where none is given."""
        request: dict[str, Any] = {resource_field(noun): resource}
        if mask:
            request["update_mask"] = ",".join(_camel(path) for path in mask)
        if allow_missing:
            request["allow_missing"] = True
        return self.opi.call(f"Update{noun}", request)

    def delete(self, noun: str, name: str, *, allow_missing: bool = False) -> None:
        """Deletes one."""
        self.opi.call(f"Delete{noun}", {"name": name, "allow_missing": allow_missing})

    def page(self, noun: str, parent: str = "", size: int = 0, token: str = "") -> tuple[list[dict[str, Any]], str]:
        """A page of a list, and the token of the next."""
        request: dict[str, Any] = {"page_size": size, "page_token": token}
        if "parent" in METHODS[f"List{plural(noun)}"].input_type.fields_by_name:
            request["parent"] = parent or "todo"
        answer = self.opi.call(f"List{plural(noun)}", request)
        token = answer.pop("next_page_token", "")
        return next(iter(answer.values()), []), token

    def stats(self, noun: str, name: str) -> dict[str, int]:
        """The counters; those that are 0 are left out."""
        return dict(self.opi.call(f"Stats{noun}", {"name": name}).get("stats", {}))

    def reconnected(self) -> None:
        """Waits until the bridge has its target (again)."""

        def answers() -> bool:
            try:
                self.delete("NullVolume", "nullVolumes/nobody", allow_missing=True)
                self.null_volume("nobody")
                self.delete("NullVolume", "nullVolumes/nobody")
            except CallError as problem:
                if problem.code != "UNAVAILABLE":
                    raise
                return False
            return True

        wait_until(answers, "the bridge has its target")

    def null_volume(self, resource_id: str, blocks_count: int = 2048, **more: Any) -> dict[str, Any]:
        """A null volume of 512-byte blocks."""
        return self.make("NullVolume", resource_id, {"block_size": 512, "blocks_count": blocks_count, **more})

    def malloc_volume(self, resource_id: str, blocks_count: int = 2048, **more: Any) -> dict[str, Any]:
        """A malloc volume of 512-byte blocks."""
        return self.make("MallocVolume", resource_id, {"block_size": 512, "blocks_count": blocks_count, **more})

    def subsystem(self, resource_id: str = "sub", nqn: str = NQN, **spec: Any) -> dict[str, Any]:
        """A subsystem."""
        return self.make("NvmeSubsystem", resource_id, {"spec": {"nqn": nqn, **spec}})

    def controller(
        self, resource_id: str, port: int, parent: str = "nvmeSubsystems/sub", **spec: Any
    ) -> dict[str, Any]:
        """A TCP controller."""
        endpoint = {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(port)}
        return self.make("NvmeController", resource_id, {"spec": {**endpoint, **spec}}, parent)

    def namespace(
        self, resource_id: str, volume: str, parent: str = "nvmeSubsystems/sub", **spec: Any
    ) -> dict[str, Any]:
        """A namespace."""
        return self.make("NvmeNamespace", resource_id, {"spec": {"volume_name_ref": volume, **spec}}, parent)

    def remote_controller(self, resource_id: str = "array", **more: Any) -> dict[str, Any]:
        """A remote controller for several paths."""
        return self.make("NvmeRemoteController", resource_id, {"multipath": "NVME_MULTIPATH_MULTIPATH", **more})

    def path(
        self, resource_id: str, port: int, parent: str = "nvmeRemoteControllers/array", **more: Any
    ) -> dict[str, Any]:
        """A TCP path to the array elsewhere."""
        return self.make("NvmePath", resource_id, path_to(port, **more), parent)

    def file(self, name: str, blocks: int) -> str:
        """A file of that many 512-byte blocks; its path. It grows when it is there and smaller."""
        path = self.folder / name
        with path.open("ab") as opened:
            opened.truncate(blocks * 512)
        return str(path)

    # The array elsewhere

    def array(self, namespaces: int = 1, listeners: int = 1, nqn: str = FAR_NQN) -> None:
        """Offers that many namespaces on the array, at the world's first `listeners` ports; once is enough."""
        far = self.far
        if far.subsystem(nqn) is not None:
            return
        far.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, serial_number="FAR")
        for number in range(1, namespaces + 1):
            bdev = f"Far{len(far.rpc('bdev_get_bdevs'))}"
            far.rpc("bdev_malloc_create", name=bdev, num_blocks=2048, block_size=512)
            nguid = f"FA{len(far.rpc('bdev_get_bdevs')):06X}{number:024X}"
            namespace = {"bdev_name": bdev, "nguid": nguid, "eui64": f"{number:016X}"}
            far.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace=namespace)
        for port in self.ports[:listeners]:
            address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
            far.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)

    # What the target has

    def listeners(self, nqn: str = NQN) -> list[tuple[str, str, bool]]:
        """(address, port, secure) of each listener of a subsystem, as the target would save it."""
        config = self.target.rpc("framework_get_config", name="nvmf")
        found = [
            (call["params"]["listen_address"], bool(call["params"].get("secure_channel")))
            for call in config
            if call["method"] == "nvmf_subsystem_add_listener" and call["params"]["nqn"] == nqn
        ]
        return sorted((address["traddr"], address.get("trsvcid", ""), secure) for address, secure in found)

    def quiet(self) -> None:
        """From here on counts what an emulated target is asked."""
        if self.target.emulated:
            self.target.rpc("emulator_call_counts", reset=True)

    def asked(self) -> list[str]:
        """What an emulated target was asked to change since `quiet`: looks are left out."""
        if not self.target.emulated:
            return []
        calls = self.target.rpc("emulator_call_counts")["calls"]
        return sorted(method for method in calls if "_get" not in method)

    def undisturbed(self, act: Callable[[], None]) -> list[str]:
        """What an emulated target was asked to change by `act`, which is repeated while the bridge has other work, too.

        So it has after a test: limits of what was deleted are to be lifted when a sweep finds that their bdev is gone.
        """
        asked: list[str] = []
        for _ in range(5):
            self.quiet()
            act()
            asked = self.asked()
            if not asked:
                break
        return asked

    def io(self, bdev: str) -> AbstractContextManager[Io]:
        """A way to do I/O on a bdev of the target; not on one that a vhost device has, unless it is emulated."""
        return io_on(self.target, self.far_target, bdev)

    # Afterwards

    def everything(self) -> Iterator[tuple[str, str]]:
        """(noun, name) of every resource of the bridge, what stands on others first."""
        for noun in reversed(NOUNS):
            parent = parent_noun(noun)
            for owner in [item["name"] for item in self.all(parent)] if parent else [""]:
                for item in self.all(noun, owner):
                    yield noun, item["name"]

    def all(self, noun: str, parent: str = "") -> list[dict[str, Any]]:
        """The whole list."""
        found, token = self.page(noun, parent, 1000)
        while token:
            more, token = self.page(noun, parent, 1000, token)
            found += more
        return found

    def clear(self) -> None:
        """Deletes every resource."""
        for noun, name in list(self.everything()):
            self.delete(noun, name, allow_missing=True)

    def leftovers(self) -> dict[str, list[str]]:
        """What is on the target and was not put there by the test itself."""
        left = self.target.inventory()
        return {
            sort: rest for sort, names in left.items() if (rest := [name for name in names if name not in self.foreign])
        }


def path_to(port: int, address: str = "127.0.0.1", nqn: str = FAR_NQN, **more: Any) -> dict[str, Any]:
    """A TCP path."""
    family = "NVME_ADDRESS_FAMILY_IPV6" if ":" in address else "NVME_ADDRESS_FAMILY_IPV4"
    return {
        "trtype": "NVME_TRANSPORT_TYPE_TCP",
        "traddr": address,
        "fabrics": {"trsvcid": port, "subnqn": nqn, "adrfam": family, **more},
    }


@contextmanager
def connected(world: World, port: int, key: str = "", host: str = HOST_NQN) -> Iterator[None]:
    """While the array is connected to the subsystem as a host; raises RpcError where it does not get in."""
    far, file = world.far, world.folder / "host.psk"
    file.write_text(key)
    file.chmod(0o600)
    if key:
        far.rpc("keyring_file_add_key", name="host", path=str(file))
    address = {"traddr": "127.0.0.1", "trsvcid": str(port), "trtype": "TCP", "adrfam": "IPv4", "subnqn": NQN}
    try:
        more = {"psk": "host"} if key else {}
        far.rpc("bdev_nvme_attach_controller", name="host", hostnqn=host, **address, **more)
        try:
            yield
        finally:
            far.rpc("bdev_nvme_detach_controller", name="host")
    finally:
        if key:
            far.rpc("keyring_file_remove_key", name="host")


def gets_in(world: World, port: int, key: str = "", host: str = HOST_NQN) -> bool:
    """Whether the array, as a host, can connect to the subsystem."""
    try:
        with connected(world, port, key, host):
            return True
    except RpcError:
        return False


def failing(call: Callable[[], Any]) -> CallError:
    """The error that a call ends in; the test fails when it ends in none."""
    try:
        answer = call()
    except CallError as problem:
        return problem
    raise AssertionError(f"answered {answer} instead of failing")


def _camel(path: str) -> str:
    """A field path as protobuf's JSON form of masks has it."""
    first, *rest = path.split("_")
    return first + "".join(part.capitalize() if not part[:1].isdigit() else part for part in rest)
