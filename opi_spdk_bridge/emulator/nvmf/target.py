"""The NVMe-oF target of one emulated process (struct spdk_nvmf_tgt)."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EEXIST, EINVAL
from typing import Any

from ..bdev.layer import BdevLayer
from ..fabric.nqn import DISCOVERY_NQN, is_valid_nqn
from ..fabric.trid import TransportId
from ..keyring import PSK_LENGTH_MAX, Key, Keyring, parse_psk
from ..reactor import Reactor, Signal, Work
from ..registry import INTERNAL_ERROR, INVALID_PARAMS, RpcError, errno_error
from .association import QpairCounts, TcpPort
from .members import Host, SubsystemOptions
from .subsystem import Subsystem
from .transport import Transport, TransportOptions

NAME = "nvmf_tgt"
MAX_SUBSYSTEMS_DEFAULT = 1024


@dataclass(frozen=True)
class Referral:
    trid: TransportId
    secure_channel: bool

    def describe(self) -> dict[str, Any]:
        return {
            "address": self.trid.describe(),
            "secure_channel": self.secure_channel,
            "subnqn": self.trid.subnqn,
        }


@dataclass
class TargetOptions:
    """What the start-up methods set. `max_subsystems` 0: not set."""

    max_subsystems: int = 0
    crdt: tuple[int, int, int] = (0, 0, 0)
    settings: dict[str, Any] = field(default_factory=dict)


class NvmfTarget:
    def __init__(self, bdevs: BdevLayer, keyring: Keyring, reactor: Reactor) -> None:
        self.options = TargetOptions()
        self.transports: list[Transport] = []
        self.referrals: list[Referral] = []
        self.counts = QpairCounts()
        self._bdevs = bdevs
        self.keyring = keyring
        self.reactor = reactor
        self._subsystems: dict[str, Subsystem] = {}
        discovery = SubsystemOptions(max_namespaces=0, allow_any_host=True)
        self._subsystems[DISCOVERY_NQN] = Subsystem(DISCOVERY_NQN, discovery, bdevs, reactor, discovery=True)

    def __iter__(self) -> Iterator[Subsystem]:
        return (self._subsystems[nqn] for nqn in sorted(self._subsystems))

    def check_name(self, name: str | None) -> None:
        """Raises RpcError when `name` is not this target's; None stands for the only one."""
        if name not in (None, NAME):
            raise RpcError(INVALID_PARAMS, f"NVMf target '{name}' not found")

    def find(self, nqn: str, name: str | None = None) -> Subsystem:
        """Raises RpcError when there is no such subsystem, or target."""
        self.check_name(name)
        if nqn not in self._subsystems:
            raise RpcError(INVALID_PARAMS, f"Subsystem with NQN '{nqn}' not found")
        return self._subsystems[nqn]

    def create_subsystem(self, nqn: str, options: SubsystemOptions) -> Subsystem:
        """Raises OSError: the NQN is taken or not one, or there are as many subsystems as can be."""
        if nqn in self._subsystems or not is_valid_nqn(nqn):
            raise errno_error(EINVAL)
        if len(self._subsystems) >= (self.options.max_subsystems or MAX_SUBSYSTEMS_DEFAULT):
            raise errno_error(EINVAL)
        self._subsystems[nqn] = Subsystem(nqn, options, self._bdevs, self.reactor)
        return self._subsystems[nqn]

    def forget_subsystem(self, subsystem: Subsystem) -> None:
        subsystem.destroy(self.keyring)
        del self._subsystems[subsystem.nqn]

    def delete_subsystem(self, subsystem: Subsystem) -> Work[None]:
        """Deletes a subsystem once it has stopped. Until then the target still shows it, but refuses to change it.

        Raises RpcError the second time.
        """
        return Work(self._delete(subsystem, subsystem.stop_for_destroy()))

    async def _delete(self, subsystem: Subsystem, stopped: Signal) -> None:
        await stopped
        self.forget_subsystem(subsystem)

    def find_transport(self, trtype: str) -> Transport | None:
        return next((transport for transport in self.transports if transport.trtype == trtype), None)

    def add_transport(self, trtype: str, options: TransportOptions, extra: dict[str, Any]) -> None:
        """Of one type there can be several: they were asked for together."""
        self.transports.append(Transport(trtype, options, extra, self._listen_tcp))

    def _listen_tcp(self, listener: socket.socket, trid: TransportId, secure: bool) -> TcpPort:
        return TcpPort(listener, trid, secure=secure, find_subsystem=self._subsystems.get, counts=self.counts)

    def add_host(self, subsystem: Subsystem, host: Host, psk_name: str | None) -> None:
        """Allows a host, and takes over its keys. With a TCP transport its PSK is read and checked now.

        Raises OSError EINVAL: not an NQN, allowed already, a controller key alone, or a PSK that is not one.
        """
        try:
            if host.dhchap_ctrlr_key is not None and host.dhchap_key is None:
                raise errno_error(EINVAL)
            if psk_name is not None and self.find_transport("TCP"):
                host.psk_key = self.keyring.get(psk_name)
                host.psk = self._read_psk(host.psk_key)
            subsystem.add_host(host)
        except OSError:
            for key in host.held_keys():
                self.keyring.put(key)
            raise

    def _read_psk(self, key: Key | None) -> bytes:
        try:
            return parse_psk(key.read(PSK_LENGTH_MAX) if key else b"")
        except (OSError, ValueError):
            raise errno_error(EINVAL) from None

    def add_referral(self, referral: Referral) -> None:
        """An equal address is left as it is. Raises RpcError for something that is not an NQN."""
        if not is_valid_nqn(referral.trid.subnqn):
            raise RpcError(INTERNAL_ERROR, "Internal error")
        if self._find_referral(referral.trid) is None:
            self.referrals.insert(0, referral)

    def remove_referral(self, trid: TransportId) -> None:
        """Raises RpcError when there is none."""
        referral = self._find_referral(trid)
        if referral is None:
            raise RpcError(INTERNAL_ERROR, "Unable to remove a referral.")
        self.referrals.remove(referral)

    def _find_referral(self, trid: TransportId) -> Referral | None:
        wanted = trid.canonical()
        return next((referral for referral in self.referrals if referral.trid.canonical() == wanted), None)

    def set_max_subsystems(self, count: int) -> None:
        """Raises OSError EEXIST the second time."""
        if self.options.max_subsystems:
            raise errno_error(EEXIST)
        self.options.max_subsystems = count

    def close(self) -> None:
        for transport in self.transports:
            transport.close()
