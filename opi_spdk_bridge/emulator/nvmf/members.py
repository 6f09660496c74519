"""What a subsystem consists of: its options, hosts, namespaces, listeners and controllers."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from ..bdev.device import Descriptor
from ..fabric.trid import TransportId
from ..keyring import Key
from .transport import Transport

CNTLID_MIN, CNTLID_MAX = 1, 0xFFEF
ANA_STATES = ("optimized", "non_optimized", "inaccessible")


@dataclass
class SubsystemOptions:
    """What nvmf_create_subsystem sets; `max_namespaces` is also the highest NSID and ANA group."""

    serial_number: str = "0" * 20
    model_number: str = "SPDK bdev Controller"
    admin_label: str = ""
    max_namespaces: int = 32
    allow_any_host: bool = False
    ana_reporting: bool = False
    min_cntlid: int = CNTLID_MIN
    max_cntlid: int = CNTLID_MAX
    dmrsl: int = 2097152
    wzsl: int = 12
    passthrough: bool = False
    enable_nssr: bool = False


@dataclass
class Host:
    nqn: str
    dhchap_key: Key | None = None
    dhchap_ctrlr_key: Key | None = None
    psk_key: Key | None = None
    psk: bytes | None = None

    def held_keys(self) -> tuple[Key | None, ...]:
        return self.dhchap_key, self.dhchap_ctrlr_key, self.psk_key

    def describe(self) -> dict[str, str]:
        info = {"nqn": self.nqn}
        if self.dhchap_key:
            info["dhchap_key"] = self.dhchap_key.name
        if self.dhchap_ctrlr_key:
            info["dhchap_ctrlr_key"] = self.dhchap_ctrlr_key.name
        return info


@dataclass(frozen=True)
class NamespaceOptions:
    """What nvmf_subsystem_add_ns sets; None: taken from the bdev, NSID and ANA group 0: the first free NSID."""

    nsid: int = 0
    nguid: bytes | None = None
    eui64: bytes | None = None
    uuid: str | None = None
    anagrpid: int = 0
    no_auto_visible: bool = False
    ptpl_file: str | None = None


@dataclass(eq=False)
class Namespace:
    nsid: int
    descriptor: Descriptor
    nguid: bytes
    eui64: bytes | None
    uuid: str
    anagrpid: int
    always_visible: bool
    ptpl_file: str | None
    hosts: list[str] = field(default_factory=list)

    @property
    def bdev_name(self) -> str:
        return self.descriptor.bdev.name

    def visible_to(self, host: str) -> bool:
        return self.always_visible or host in self.hosts

    def describe(self, *, ana_reporting: bool) -> dict[str, Any]:
        return {
            "nsid": self.nsid,
            "bdev_name": self.bdev_name,
            "name": self.bdev_name,
            "nguid": self.nguid.hex().upper(),
            **({"eui64": self.eui64.hex().upper()} if self.eui64 and any(self.eui64) else {}),
            "uuid": self.uuid,
            **({"anagrpid": self.anagrpid} if ana_reporting else {}),
        }


@dataclass(eq=False)
class SubsystemListener:
    """`ana_states` holds the groups whose state differs from `ana_state`."""

    trid: TransportId
    transport: Transport
    secure: bool
    sock_impl: str | None
    ana_state: str = ANA_STATES[0]
    ana_states: dict[int, str] = field(default_factory=dict)

    def state_of(self, anagrpid: int) -> str:
        return self.ana_states.get(anagrpid, self.ana_state)


class Controller(Protocol):
    """A host's association with a subsystem (association.py)."""

    cntlid: int
    hostnqn: str
    hostid: str
    listen_trid: TransportId
    peer_trid: TransportId
    io_qpairs: int

    def namespaces_changed(self) -> None: ...
    def disconnect(self) -> None: ...
