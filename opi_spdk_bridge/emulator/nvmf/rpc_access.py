"""The methods that say who may reach a subsystem, and where: hosts, listeners, referrals."""

from dataclasses import dataclass, replace
from errno import EINVAL
from typing import Any, Literal

from ..fabric.nqn import DISCOVERY_NQN, LENGTH_MAX
from ..fabric.trid import IP_TRANSPORTS, ListenAddress, TransportId, parse_listen_address
from ..keyring import Key, Keyring
from ..reactor import POLL_GROUP, Work
from ..registry import INTERNAL_ERROR, INVALID_PARAMS, NVMF_FAILURE, MethodTable, RpcError, errno_error
from ..schema import I32, U32, U64
from .members import Controller, Host, SubsystemListener
from .rpc_subsystem import NamedSubsystem
from .subsystem import Subsystem
from .target import NAME, NvmfTarget, Referral

methods = MethodTable[NvmfTarget](NVMF_FAILURE)

AnaState = Literal["optimized", "non_optimized", "inaccessible"]


@dataclass(frozen=True)
class AddHost:
    nqn: str
    host: str
    tgt_name: str | None = None
    psk: str | None = None
    dhchap_key: str | None = None
    dhchap_ctrlr_key: str | None = None


@dataclass(frozen=True)
class RemoveHost:
    nqn: str
    host: str
    tgt_name: str | None = None
    timeout_ms: U64 = 0


@dataclass(frozen=True)
class SetKeys:
    nqn: str
    host: str
    tgt_name: str | None = None
    dhchap_key: str | None = None
    dhchap_ctrlr_key: str | None = None


@dataclass(frozen=True)
class AllowAnyHost:
    nqn: str
    allow_any_host: bool
    tgt_name: str | None = None


@dataclass(frozen=True)
class AddListener:
    nqn: str
    listen_address: ListenAddress
    tgt_name: str | None = None
    secure_channel: bool = False
    ana_state: AnaState = "optimized"
    sock_impl: str | None = None
    numa_id: I32 = -1


@dataclass(frozen=True)
class RemoveListener:
    nqn: str
    listen_address: ListenAddress
    tgt_name: str | None = None


@dataclass(frozen=True)
class SetAnaState:
    nqn: str
    listen_address: ListenAddress
    ana_state: AnaState
    tgt_name: str | None = None
    anagrpid: U32 = 0


@dataclass(frozen=True)
class AddReferral:
    address: ListenAddress
    tgt_name: str | None = None
    secure_channel: bool = False
    subnqn: str | None = None


@dataclass(frozen=True)
class RemoveReferral:
    address: ListenAddress
    tgt_name: str | None = None
    subnqn: str | None = None


@dataclass(frozen=True)
class GetReferrals:
    tgt_name: str | None = None


def _internal_error() -> RpcError:
    return RpcError(INTERNAL_ERROR, "Internal error")


def _get_keys(keyring: Keyring, *names: str | None) -> list[Key | None]:
    """The named keys, held until they are put back. Raises RpcError when one is missing, without holding any."""
    held: list[Key | None] = []
    for name in names:
        key = None if name is None else keyring.get(name)
        if name is not None and key is None:
            for other in held:
                keyring.put(other)
            raise RpcError(INVALID_PARAMS, NVMF_FAILURE.message)
        held.append(key)
    return held


# Hosts


@methods.rpc("nvmf_subsystem_add_host", AddHost, relaxed=True)
def subsystem_add_host(nvmf: NvmfTarget, params: AddHost) -> None:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    key, ctrlr_key = _get_keys(nvmf.keyring, params.dhchap_key, params.dhchap_ctrlr_key)
    try:
        nvmf.add_host(subsystem, Host(params.host, key, ctrlr_key), params.psk)
    except OSError:
        raise _internal_error() from None


@methods.rpc("nvmf_subsystem_remove_host", RemoveHost)
def subsystem_remove_host(nvmf: NvmfTarget, params: RemoveHost) -> Work[None]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    try:
        subsystem.remove_host(params.host, nvmf.keyring)
    except OSError:
        raise _internal_error() from None
    return subsystem.disconnect_host(params.host)


@methods.rpc("nvmf_subsystem_set_keys", SetKeys)
def subsystem_set_keys(nvmf: NvmfTarget, params: SetKeys) -> None:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    key, ctrlr_key = _get_keys(nvmf.keyring, params.dhchap_key, params.dhchap_ctrlr_key)
    host = subsystem.find_host(params.host)
    if host is None or (key is None and ctrlr_key is not None):
        nvmf.keyring.put(key)
        nvmf.keyring.put(ctrlr_key)
        raise errno_error(EINVAL)
    nvmf.keyring.put(host.dhchap_key)
    nvmf.keyring.put(host.dhchap_ctrlr_key)
    host.dhchap_key, host.dhchap_ctrlr_key = key, ctrlr_key


@methods.rpc("nvmf_subsystem_allow_any_host", AllowAnyHost)
def subsystem_allow_any_host(nvmf: NvmfTarget, params: AllowAnyHost) -> None:
    nvmf.find(params.nqn, params.tgt_name).options.allow_any_host = params.allow_any_host


# Listeners


@methods.rpc("nvmf_subsystem_add_listener", AddListener, relaxed=True)
def subsystem_add_listener(nvmf: NvmfTarget, params: AddListener) -> Work[None]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    trid = parse_listen_address(params.listen_address)
    if subsystem.options.allow_any_host and params.secure_channel:
        raise RpcError(INTERNAL_ERROR, "Cannot establish secure channel, when 'allow_any_host' is set")
    return subsystem.change(lambda: _add_listener(nvmf, subsystem, trid, params))


def _add_listener(nvmf: NvmfTarget, subsystem: Subsystem, trid: TransportId, params: AddListener) -> None:
    transport = nvmf.find_transport(trid.trtype)
    if transport is None:
        raise errno_error(EINVAL)
    subsystem.add_listener(
        SubsystemListener(trid, transport, params.secure_channel, params.sock_impl, params.ana_state)
    )


@methods.rpc("nvmf_subsystem_remove_listener", RemoveListener)
def subsystem_remove_listener(nvmf: NvmfTarget, params: RemoveListener) -> Work[None]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    trid = parse_listen_address(params.listen_address)
    if nvmf.find_transport(trid.trtype) is None:
        raise RpcError(INVALID_PARAMS, NVMF_FAILURE.message)
    return subsystem.change(lambda: subsystem.remove_listener(trid))


@methods.rpc("nvmf_subsystem_listener_set_ana_state", SetAnaState)
def subsystem_listener_set_ana_state(nvmf: NvmfTarget, params: SetAnaState) -> Work[None]:
    trid = parse_listen_address(params.listen_address)
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.change(lambda: _set_ana_state(nvmf, subsystem, trid, params))


async def _set_ana_state(nvmf: NvmfTarget, subsystem: Subsystem, trid: TransportId, params: SetAnaState) -> None:
    try:
        subsystem.set_ana_state(trid, params.ana_state, params.anagrpid)
    except OSError as error:
        raise RpcError(INTERNAL_ERROR, f"error setting ANA state: -{error.errno}") from None
    await nvmf.reactor.visit()


@methods.rpc("nvmf_subsystem_get_listeners", NamedSubsystem)
def subsystem_get_listeners(nvmf: NvmfTarget, params: NamedSubsystem) -> Work[list[dict[str, Any]]]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.look(lambda: [_describe_listener(subsystem, listener) for listener in subsystem.listeners])


def _describe_listener(subsystem: Subsystem, listener: SubsystemListener) -> dict[str, Any]:
    info: dict[str, Any] = {"address": listener.trid.describe()}
    if subsystem.options.ana_reporting:
        groups = range(1, subsystem.options.max_namespaces + 1)
        info["ana_states"] = [{"ana_group": group, "ana_state": listener.state_of(group)} for group in groups]
    return info


# Controllers


@methods.rpc("nvmf_subsystem_get_controllers", NamedSubsystem)
def subsystem_get_controllers(nvmf: NvmfTarget, params: NamedSubsystem) -> Work[list[dict[str, Any]]]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.look(
        lambda: [
            {
                "cntlid": controller.cntlid,
                "cntrltype": "io",
                "hostnqn": controller.hostnqn,
                "hostid": controller.hostid,
                "num_io_qpairs": controller.io_qpairs + 1,
            }
            for controller in subsystem.controllers
        ]
    )


@methods.rpc("nvmf_subsystem_get_qpairs", NamedSubsystem)
def subsystem_get_qpairs(nvmf: NvmfTarget, params: NamedSubsystem) -> Work[list[dict[str, Any]]]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.look(
        lambda: [
            _describe_qpair(controller, qid)
            for controller in subsystem.controllers
            for qid in range(controller.io_qpairs + 1)
        ]
    )


def _describe_qpair(controller: Controller, qid: int) -> dict[str, Any]:
    return {
        "cntlid": controller.cntlid,
        "qid": qid,
        "state": "enabled",
        "thread": POLL_GROUP,
        "hostnqn": controller.hostnqn,
        "listen_address": controller.listen_trid.describe(),
        "peer_address": controller.peer_trid.describe(),
    }


# Referrals


def _referral_trid(address: ListenAddress, subnqn: str | None) -> TransportId:
    trid = parse_listen_address(address)
    if len(subnqn or "") > LENGTH_MAX:
        raise RpcError(INVALID_PARAMS, "Invalid subsystem NQN")
    return replace(trid, subnqn=subnqn or DISCOVERY_NQN)


def _check_target(name: str | None, message: str) -> None:
    if name not in (None, NAME):
        raise RpcError(INTERNAL_ERROR, message)


@methods.rpc("nvmf_discovery_add_referral", AddReferral, relaxed=True)
def discovery_add_referral(nvmf: NvmfTarget, params: AddReferral) -> None:
    _check_target(params.tgt_name, "Unable to find a target.")
    trid = _referral_trid(params.address, params.subnqn)
    if trid.trtype in IP_TRANSPORTS and not trid.trsvcid:
        raise RpcError(INTERNAL_ERROR, "Service ID is required.")
    nvmf.add_referral(Referral(trid, params.secure_channel))


@methods.rpc("nvmf_discovery_remove_referral", RemoveReferral)
def discovery_remove_referral(nvmf: NvmfTarget, params: RemoveReferral) -> None:
    _check_target(params.tgt_name, "Unable to find a target.")
    nvmf.remove_referral(_referral_trid(params.address, params.subnqn))


@methods.rpc("nvmf_discovery_get_referrals", GetReferrals)
def discovery_get_referrals(nvmf: NvmfTarget, params: GetReferrals) -> list[dict[str, Any]]:
    _check_target(params.tgt_name, "Unable to find a target")
    return [referral.describe() for referral in nvmf.referrals]
