"""A far target set up as the storage array that clients expect: subsystem cnode1, plain and with TLS."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ports import free_ports
from tests.support.target import Target

HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"
CNODE1 = "nqn.2016-06.io.spdk:cnode1"
# The well-known key of the OPI projects' own tests, in the interchange format: no secret.
TEST_PSK = b"NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"
TEST_PSK_BASE64 = base64.b64encode(TEST_PSK).decode()


@dataclass(frozen=True)
class Array:
    """Where the array listens, and the UUID of the volume under NSID 4, by which initiators know it too."""

    port: int
    tls_port: int
    volume_uuid: str

    def path(self, *, tls: bool = False) -> dict[str, Any]:
        """An NvmePath to it."""
        fabrics = {
            "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
            "trsvcid": self.tls_port if tls else self.port,
            "subnqn": CNODE1,
            "hostnqn": HOST_NQN,
        }
        return {"trtype": "NVME_TRANSPORT_TYPE_TCP", "traddr": "127.0.0.1", "fabrics": fabrics}


def ensure_tcp(target: Target) -> None:
    """Makes the TCP transport unless it is there."""
    if not any(transport["trtype"] == "TCP" for transport in target.rpc("nvmf_get_transports")):
        target.rpc("nvmf_create_transport", trtype="TCP")


def set_up_array(far: Target, folder: Path) -> Array:
    """Two volumes of 64 MiB under NSIDs 3 and 4 of cnode1, for one host, on two addresses; the second demands TLS."""
    ensure_tcp(far)
    port, tls_port = free_ports(2)
    key_file = folder / "array.psk"
    key_file.write_bytes(TEST_PSK)
    key_file.chmod(0o600)
    far.rpc("keyring_file_add_key", name="array-psk", path=str(key_file))
    for name in ("Malloc2", "Malloc3"):
        far.rpc("bdev_malloc_create", name=name, block_size=512, num_blocks=131072)
    far.rpc("nvmf_create_subsystem", nqn=CNODE1, serial_number="ARRAY1", model_number="Array")
    for trsvcid, secure in ((port, False), (tls_port, True)):
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(trsvcid)}
        far.rpc("nvmf_subsystem_add_listener", nqn=CNODE1, listen_address=address, secure_channel=secure)
    far.rpc("nvmf_subsystem_add_host", nqn=CNODE1, host=HOST_NQN, psk="array-psk")
    other_identity = {"bdev_name": "Malloc2", "nsid": 3, "nguid": "ABCDEF0123456789ABCDEF0123456789"}
    for namespace in (other_identity, {"bdev_name": "Malloc3", "nsid": 4}):
        far.rpc("nvmf_subsystem_add_ns", nqn=CNODE1, namespace=namespace)
    volume = far.bdev("Malloc3")
    assert volume is not None
    return Array(port, tls_port, str(volume["uuid"]))
