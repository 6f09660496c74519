"""The configuration of a target: what save_config writes."""

from collections.abc import Iterator
from typing import Any, Protocol

from .accel import CryptoKeys
from .bdev.crypto import CryptoModule
from .bdev.layer import BdevLayer
from .keyring import Keyring
from .nvme.module import NvmeModule
from .nvmf.config import nvmf_config
from .nvmf.target import NvmfTarget
from .settings import Settings
from .vhost import Vhost
from .vhost_controllers import BlkController, Controller, ScsiController

VHOST_KINDS: dict[str, type[Controller]] = {"vhost_blk": BlkController, "vhost_scsi": ScsiController}


class Savable(Protocol):
    """A target, as far as its configuration goes."""

    settings: Settings
    keyring: Keyring
    crypto_keys: CryptoKeys
    bdevs: BdevLayer
    crypto: CryptoModule
    nvmf: NvmfTarget
    nvme: NvmeModule
    vhost: Vhost


def subsystem_config(target: Savable, name: str) -> list[Any]:
    """The calls that make a subsystem what it is; a list among them is a batch."""
    settings = list(target.settings.config(name))
    if name == "keyring":
        return target.keyring.config()
    if name == "accel":
        return settings + target.crypto_keys.config()
    if name == "bdev":
        return list(_bdev_config(target, settings))
    if name == "nvmf":
        return nvmf_config(target.nvmf)
    if name in VHOST_KINDS:
        return target.vhost.config(VHOST_KINDS[name])
    return settings


def _bdev_config(target: Savable, settings: list[Any]) -> Iterator[Any]:
    yield {"method": "bdev_set_options", "params": vars(target.bdevs.options)}
    for name in target.bdevs.examine_allowed:
        yield {"method": "bdev_examine", "params": {"name": name}}
    yield from settings
    yield from target.crypto.config()
    yield from target.nvme.config()
    for bdev in target.bdevs:
        call = bdev.config()
        if call is not None:
            yield call
        if bdev.qos:
            limits = {name: limit for name, limit in bdev.qos.limits.items() if limit}
            yield {"method": "bdev_set_qos_limit", "params": {"name": bdev.name, **limits}}
        if bdev.histogram is not None:
            opcode = {"opc": bdev.histogram} if bdev.histogram else {}
            yield {"method": "bdev_enable_histogram", "params": {"name": bdev.name, "enable": True, **opcode}}
    yield {"method": "bdev_wait_for_examine"}
