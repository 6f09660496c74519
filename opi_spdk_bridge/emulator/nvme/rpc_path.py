"""The bdev_nvme_* methods about the paths of a bdev."""

from dataclasses import dataclass
from errno import ENODEV, EPERM
from typing import Any

from ..reactor import POLL_GROUP
from ..registry import BDEV_FAILURE, INVALID_PARAMS, Failure, MethodTable, RpcError, errno_error
from ..schema import U16, U32
from .bdev import IoPath, NvmeBdev
from .connection import describe_trid
from .module import NvmeModule
from .options import MultipathOptions, Policy, Selector
from .rpc import NvmeName, OptionalName

methods = MethodTable[NvmeModule](BDEV_FAILURE)


@dataclass(frozen=True)
class MultipathPolicy:
    name: str
    policy: Policy
    selector: Selector | None = None
    rr_min_io: U32 | None = None


@dataclass(frozen=True)
class PreferredPath:
    name: str
    cntlid: U16


def _nvme_bdevs(module: NvmeModule) -> list[NvmeBdev]:
    return [bdev for group in module.groups.values() for bdev in group.bdevs.values()]


def _find_nvme_bdev(module: NvmeModule, name: str) -> NvmeBdev:
    bdev = module.bdevs.find(name)
    if not isinstance(bdev, NvmeBdev):
        raise errno_error(ENODEV)
    return bdev


@methods.rpc(
    "bdev_nvme_get_io_paths",
    OptionalName,
    failure=Failure(INVALID_PARAMS, "bdev_nvme_get_io_paths requires no parameters"),
)
def get_io_paths(module: NvmeModule, params: OptionalName) -> dict[str, Any]:
    """Paths exist in the poll groups whose threads have a channel to an NVMe bdev."""
    active = [bdev for bdev in _nvme_bdevs(module) if bdev.channels]
    if not active:
        return {"poll_groups": []}
    paths = [_describe_path(bdev, path) for bdev in active if params.name in (None, bdev.name) for path in bdev.paths]
    return {"poll_groups": [{"thread": POLL_GROUP, "io_paths": paths}]}


def _describe_path(bdev: NvmeBdev, path: IoPath) -> dict[str, Any]:
    trid = path.controller.trids[0]
    service = {"trsvcid": trid.trsvcid} if trid.trsvcid else {}
    return {
        "bdev_name": bdev.name,
        "cntlid": path.controller.data.cntlid,
        "current": path is bdev.current_path(),
        "connected": path.connected,
        "accessible": path.namespace.ana_state != "inaccessible",
        "transport": {"trtype": trid.trtype, "traddr": trid.traddr, **service, "adrfam": trid.adrfam},
    }


@methods.rpc("bdev_nvme_get_path_iostat", NvmeName)
def get_path_iostat(module: NvmeModule, params: NvmeName) -> dict[str, Any]:
    if not module.options.io_path_stat:
        raise RpcError(-EPERM, "RPC not enabled if enable_io_path_stat is false")
    bdev = _find_nvme_bdev(module, params.name)
    stats = [{"trid": describe_trid(path.controller.trids[0]), "stat": path.stat.describe()} for path in bdev.paths]
    return {"name": bdev.name, "stats": stats}


@methods.rpc("bdev_nvme_set_preferred_path", PreferredPath)
def set_preferred_path(module: NvmeModule, params: PreferredPath) -> None:
    bdev = _find_nvme_bdev(module, params.name)
    path = next((path for path in bdev.paths if path.controller.data.cntlid == params.cntlid), None)
    if path is None:
        raise errno_error(ENODEV)
    bdev.paths.remove(path)
    bdev.paths.insert(0, path)


@methods.rpc("bdev_nvme_set_multipath_policy", MultipathPolicy)
def set_multipath_policy(module: NvmeModule, params: MultipathPolicy) -> None:
    if params.policy == "active_passive" and params.selector == "queue_depth":
        raise RpcError(BDEV_FAILURE.code, BDEV_FAILURE.message)
    bdev = _find_nvme_bdev(module, params.name)
    min_io = 1 if params.rr_min_io is None else params.rr_min_io
    options = MultipathOptions(params.policy, params.selector or "round_robin", min_io)
    options.check()
    bdev.multipath = options
