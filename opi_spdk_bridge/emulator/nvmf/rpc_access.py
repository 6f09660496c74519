"""The methods that say who may reach a subsystem, and where: hosts, listeners, referrals."""

from dataclasses import dataclass, replace
from errno import EINVAL
from typing import TYPE_CHECKING, Any, Literal

from ..keyring import Key, Keyring
from ..reactor import Work
from ..registry import INTERNAL_ERROR, INVALID_PARAMS, NVMF_FAILURE, MethodTable, RpcError, errno_error
from ..schema import I32, U32, U64
from .members import Controller, Host, SubsystemListener
from .nqn import DISCOVERY_NQN, LENGTH_MAX
from .rpc_subsystem import NamedSubsystem
from .subsystem import Subsystem
from .target import NAME, Referral
from .trid import IP_TRANSPORTS, ListenAddress, TransportId, parse_listen_address

if TYPE_CHECKING:
    from ..target import Target

methods = MethodTable(NVMF_FAILURE)

THREAD = "nvmf_tgt_poll_group_000"

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
def subsystem_add_host(target: "Target", params: AddHost) -> None:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    key, ctrlr_key = _get_keys(target.keyring, params.dhchap_key, params.dhchap_ctrlr_key)
    try:
        target.nvmf.add_host(subsystem, Host(params.host, key, ctrlr_key), params.psk)
    except OSError:
        raise _internal_error() from None


@methods.rpc("nvmf_subsystem_remove_host", RemoveHost)
def subsystem_remove_host(target: "Target", params: RemoveHost) -> Work[None]:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    try:
        subsystem.remove_host(params.host, target.keyring)
    except OSError:
        raise _internal_error() from None
    return subsystem.disconnect_host(params.host)


@methods.rpc("nvmf_subsystem_set_keys", SetKeys)
def subsystem_set_keys(target: "Target", params: SetKeys) -> None:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    key, ctrlr_key = _get_keys(target.keyring, params.dhchap_key, params.dhchap_ctrlr_key)
    host = subsystem.find_host(params.host)
    if host is None or (key is None and ctrlr_key is not None):
        target.keyring.put(key)
        target.keyring.put(ctrlr_key)
        raise errno_error(EINVAL)
    target.keyring.put(host.dhchap_key)
    target.keyring.put(host.dhchap_ctrlr_key)
    host.dhchap_key, host.dhchap_ctrlr_key = key, ctrlr_key


@methods.rpc("nvmf_subsystem_allow_any_host", AllowAnyHost)
def subsystem_allow_any_host(target: "Target", params: AllowAnyHost) -> None:
    target.nvmf.find(params.nqn, params.tgt_name).options.allow_any_host = params.allow_any_host


# Listeners


@methods.rpc("nvmf_subsystem_add_listener", AddListener, relaxed=True)
def subsystem_add_listener(target: "Target", params: AddListener) -> Work[None]:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    trid = parse_listen_address(params.listen_address)
    if subsystem.options.allow_any_host and params.secure_channel:
        raise RpcError(INTERNAL_ERROR, "Cannot establish secure channel, when 'allow_any_host' is set")
    return subsystem.change(lambda: _add_listener(target, subsystem, trid, params))


def _add_listener(target: "Target", subsystem: Subsystem, trid: TransportId, params: AddListener) -> None:
    transport = target.nvmf.find_transport(trid.trtype)
    if transport is None:
        raise errno_error(EINVAL)
    subsystem.add_listener(
        SubsystemListener(trid, transport, params.secure_channel, params.sock_impl, params.ana_state)
    )


@methods.rpc("nvmf_subsystem_remove_listener", RemoveListener)
def subsystem_remove_listener(target: "Target", params: RemoveListener) -> Work[None]:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    trid = parse_listen_address(params.listen_address)
    if target.nvmf.find_transport(trid.trtype) is None:
        raise RpcError(INVALID_PARAMS, NVMF_FAILURE.message)
    return subsystem.change(lambda: subsystem.remove_listener(trid))


@methods.rpc("nvmf_subsystem_listener_set_ana_state", SetAnaState)
def subsystem_listener_set_ana_state(target: "Target", params: SetAnaState) -> Work[None]:
    trid = parse_listen_address(params.listen_address)
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    return subsystem.change(lambda: _set_ana_state(target, subsystem, trid, params))


async def _set_ana_state(target: "Target", subsystem: Subsystem, trid: TransportId, params: SetAnaState) -> None:
    try:
        subsystem.set_ana_state(trid, params.ana_state, params.anagrpid)
    except OSError as error:
        raise RpcError(INTERNAL_ERROR, f"error setting ANA state: -{error.errno}") from None
    await target.reactor.visit()


@methods.rpc("nvmf_subsystem_get_listeners", NamedSubsystem)
def subsystem_get_listeners(target: "Target", params: NamedSubsystem) -> Work[list[dict[str, Any]]]:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
    return subsystem.look(lambda: [_describe_listener(subsystem, listener) for listener in subsystem.listeners])


def _describe_listener(subsystem: Subsystem, listener: SubsystemListener) -> dict[str, Any]:
    info: dict[str, Any] = {"address": listener.trid.describe()}
    if subsystem.options.ana_reporting:
        groups = range(1, subsystem.options.max_namespaces + 1)
        info["ana_states"] = [{"ana_group": group, "ana_state": listener.state_of(group)} for group in groups]
    return info


# Controllers


@methods.rpc("nvmf_subsystem_get_controllers", NamedSubsystem)
def subsystem_get_controllers(target: "Target", params: NamedSubsystem) -> Work[list[dict[str, Any]]]:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
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
def subsystem_get_qpairs(target: "Target", params: NamedSubsystem) -> Work[list[dict[str, Any]]]:
    subsystem = target.nvmf.find(params.nqn, params.tgt_name)
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
        "thread": THREAD,
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
def discovery_add_referral(target: "Target", params: AddReferral) -> None:
    _check_target(params.tgt_name, "Unable to find a target.")
    trid = _referral_trid(params.address, params.subnqn)
    if trid.trtype in IP_TRANSPORTS and not trid.trsvcid:
        raise RpcError(INTERNAL_ERROR, "Service ID is required.")
    target.nvmf.add_referral(Referral(trid, params.secure_channel))


@methods.rpc("nvmf_discovery_remove_referral", RemoveReferral)
def discovery_remove_referral(target: "Target", params: RemoveReferral) -> None:
    _check_target(params.tgt_name, "Unable to find a target.")
    target.nvmf.remove_referral(_referral_trid(params.address, params.subnqn))


@methods.rpc("nvmf_discovery_get_referrals", GetReferrals)
def discovery_get_referrals(target: "Target", params: GetReferrals) -> list[dict[str, Any]]:
    _check_target(params.tgt_name, "Unable to find a target")
    return [referral.describe() for referral in target.nvmf.referrals]
