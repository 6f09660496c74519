"""The methods that make, show and delete subsystems and their namespaces."""

import binascii
from dataclasses import dataclass
from typing import Any

from ..reactor import Signal, Work
from ..registry import INTERNAL_ERROR, INVALID_PARAMS, NVMF_FAILURE, MethodTable, RpcError
from ..schema import U8, U16, U32, Uuid
from .members import CNTLID_MAX, CNTLID_MIN, NamespaceOptions, SubsystemOptions
from .subsystem import Subsystem
from .target import NAME, NvmfTarget

methods = MethodTable[NvmfTarget](NVMF_FAILURE)

SERIAL_LENGTH_MAX = 20
MODEL_LENGTH_MAX = 40
ADMIN_LABEL_LENGTHS = (4, 256)
MAX_NAMESPACES_DEFAULT = 32


@dataclass(frozen=True)
class CreateSubsystem:
    nqn: str
    tgt_name: str | None = None
    serial_number: str | None = None
    model_number: str | None = None
    admin_label: str | None = None
    max_namespaces: U32 = MAX_NAMESPACES_DEFAULT
    allow_any_host: bool = False
    ana_reporting: bool = False
    min_cntlid: U16 = CNTLID_MIN
    max_cntlid: U16 = CNTLID_MAX
    dmrsl: U32 = SubsystemOptions.dmrsl
    wzsl: U8 = SubsystemOptions.wzsl
    passthrough: bool = False
    enable_nssr: bool = False


@dataclass(frozen=True)
class NamedSubsystem:
    nqn: str
    tgt_name: str | None = None


@dataclass(frozen=True)
class GetSubsystems:
    nqn: str | None = None
    tgt_name: str | None = None


@dataclass(frozen=True)
class NamespaceParams:
    bdev_name: str
    nsid: U32 = 0
    nguid: str | None = None
    eui64: str | None = None
    uuid: Uuid = None
    ptpl_file: str | None = None
    anagrpid: U32 = 0
    no_auto_visible: bool = False
    hide_metadata: bool = False


@dataclass(frozen=True)
class AddNamespace:
    nqn: str
    namespace: NamespaceParams
    tgt_name: str | None = None


@dataclass(frozen=True)
class RemoveNamespace:
    nqn: str
    nsid: U32
    tgt_name: str | None = None


@dataclass(frozen=True)
class SetAnaGroup:
    nqn: str
    nsid: U32
    anagrpid: U32
    tgt_name: str | None = None


@dataclass(frozen=True)
class NamespaceHost:
    nqn: str
    nsid: U32
    host: str
    tgt_name: str | None = None


def _is_printable(text: str) -> bool:
    return all(" " <= character <= "~" for character in text)


def _options(params: CreateSubsystem) -> SubsystemOptions:
    defaults = SubsystemOptions()
    serial, model = params.serial_number, params.model_number
    for text, length in ((serial, SERIAL_LENGTH_MAX), (model, MODEL_LENGTH_MAX)):
        if text is not None and (len(text) > length or not _is_printable(text)):
            raise RpcError(INVALID_PARAMS, NVMF_FAILURE.message)
    label = params.admin_label or ""
    shortest, longest = ADMIN_LABEL_LENGTHS
    if label and (not shortest <= len(label) <= longest or not _is_printable(label)):
        raise RpcError(INVALID_PARAMS, "Invalid admin_label")
    return SubsystemOptions(
        serial_number=defaults.serial_number if serial is None else serial,
        model_number=defaults.model_number if model is None else model,
        admin_label=label,
        max_namespaces=params.max_namespaces or MAX_NAMESPACES_DEFAULT,
        allow_any_host=params.allow_any_host,
        ana_reporting=params.ana_reporting,
        min_cntlid=params.min_cntlid,
        max_cntlid=params.max_cntlid,
        dmrsl=params.dmrsl,
        wzsl=params.wzsl,
        passthrough=params.passthrough,
        enable_nssr=params.enable_nssr,
    )


@methods.rpc("nvmf_create_subsystem", CreateSubsystem)
def create_subsystem(nvmf: NvmfTarget, params: CreateSubsystem) -> Work[None]:
    if params.tgt_name not in (None, NAME):
        raise RpcError(INTERNAL_ERROR, f"Unable to find target {params.tgt_name}")
    options = _options(params)
    try:
        subsystem = nvmf.create_subsystem(params.nqn, options)
    except OSError:
        raise RpcError(INTERNAL_ERROR, f"Unable to create subsystem {params.nqn}") from None
    if not CNTLID_MIN <= params.min_cntlid <= params.max_cntlid <= CNTLID_MAX:
        nvmf.forget_subsystem(subsystem)
        raise RpcError(INVALID_PARAMS, f"Invalid cntlid range [{params.min_cntlid}-{params.max_cntlid}]")
    return Work(_started(subsystem.start()))


async def _started(started: Signal) -> None:
    await started


@methods.rpc("nvmf_delete_subsystem", NamedSubsystem)
def delete_subsystem(nvmf: NvmfTarget, params: NamedSubsystem) -> Work[None]:
    return nvmf.delete_subsystem(nvmf.find(params.nqn, params.tgt_name))


@methods.rpc("nvmf_get_subsystems", GetSubsystems)
def get_subsystems(nvmf: NvmfTarget, params: GetSubsystems) -> list[dict[str, Any]]:
    if params.nqn is not None:
        return [nvmf.find(params.nqn, params.tgt_name).describe()]
    nvmf.check_name(params.tgt_name)
    return [subsystem.describe() for subsystem in nvmf]


@methods.rpc("nvmf_subsystem_add_ns", AddNamespace, relaxed=True)
def subsystem_add_ns(nvmf: NvmfTarget, params: AddNamespace) -> Work[int]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.change(lambda: _add_ns(subsystem, params.namespace), params.namespace.nsid)


def _add_ns(subsystem: Subsystem, params: NamespaceParams) -> int:
    options = NamespaceOptions(
        nsid=params.nsid,
        nguid=_hex_bytes("nguid", params.nguid, 16),
        eui64=_hex_bytes("eui64", params.eui64, 8),
        uuid=params.uuid,
        anagrpid=params.anagrpid,
        no_auto_visible=params.no_auto_visible,
        ptpl_file=params.ptpl_file,
    )
    return subsystem.add_namespace(params.bdev_name, options)


def _hex_bytes(name: str, text: str | None, size: int) -> bytes | None:
    if text is None:
        return None
    try:
        decoded = binascii.unhexlify(text)
    except ValueError:
        decoded = b""
    if len(decoded) != size:
        raise RpcError(INVALID_PARAMS, f"Invalid {name}")
    return decoded


@methods.rpc("nvmf_subsystem_remove_ns", RemoveNamespace)
def subsystem_remove_ns(nvmf: NvmfTarget, params: RemoveNamespace) -> Work[None]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.change(lambda: subsystem.remove_namespace(params.nsid), params.nsid)


@methods.rpc("nvmf_subsystem_set_ns_ana_group", SetAnaGroup)
def subsystem_set_ns_ana_group(nvmf: NvmfTarget, params: SetAnaGroup) -> Work[None]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.change(lambda: subsystem.set_ana_group(params.nsid, params.anagrpid), params.nsid)


@methods.rpc("nvmf_ns_add_host", NamespaceHost)
def ns_add_host(nvmf: NvmfTarget, params: NamespaceHost) -> Work[None]:
    return _set_visible(nvmf, params, visible=True)


@methods.rpc("nvmf_ns_remove_host", NamespaceHost)
def ns_remove_host(nvmf: NvmfTarget, params: NamespaceHost) -> Work[None]:
    return _set_visible(nvmf, params, visible=False)


def _set_visible(nvmf: NvmfTarget, params: NamespaceHost, *, visible: bool) -> Work[None]:
    subsystem = nvmf.find(params.nqn, params.tgt_name)
    return subsystem.change(lambda: subsystem.set_visible(params.nsid, params.host, visible=visible), params.nsid)
