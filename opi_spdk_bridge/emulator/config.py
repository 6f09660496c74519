"""The configuration of a target: what save_config writes, and executing such a file at the start."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .nvmf.config import nvmf_config
from .registry import NOT_EMULATED, RpcError
from .vhost_controllers import BlkController, Controller, ScsiController

if TYPE_CHECKING:
    from .target import Target

logger = logging.getLogger(__name__)

SUBSYSTEMS: dict[str, tuple[str, ...]] = {
    "scheduler": (),
    "fsdev": (),
    "vmd": (),
    "keyring": (),
    "iobuf": (),
    "sock": (),
    "accel": ("iobuf",),
    "bdev": ("accel", "keyring", "vmd", "sock", "iobuf"),
    "scsi": ("bdev",),
    "nbd": ("bdev",),
    "nvmf": ("bdev", "keyring", "sock", "accel", "iobuf"),
    "iscsi": ("scsi", "sock"),
    "vfio_user_target": ("bdev", "scsi", "fsdev"),
    "vhost_blk": ("bdev",),
    "vhost_scsi": ("scsi",),
}
"""The subsystems of spdk_tgt with what each needs, in an order in which they can start."""

WITHOUT_CONFIG = frozenset({"scsi"})
"""The subsystems that answer null when asked for their configuration."""
VHOST_KINDS: dict[str, type[Controller]] = {"vhost_blk": BlkController, "vhost_scsi": ScsiController}


def subsystem_config(target: "Target", name: str) -> list[Any]:
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


def _bdev_config(target: "Target", settings: list[Any]) -> Iterator[Any]:
    layer = target.bdevs
    yield {"method": "bdev_set_options", "params": vars(layer.options)}
    for name in layer.examine_allowed:
        yield {"method": "bdev_examine", "params": {"name": name}}
    yield from settings
    yield from target.crypto.config()
    yield from target.nvme.config()
    for bdev in layer:
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


def flatten(config: list[Any]) -> list[Any]:
    """The calls one after another, without batches."""
    return [call for entry in config for call in (entry if isinstance(entry, list) else [entry])]


class Configuration:
    """A configuration file. It is executed twice: start-up methods before the target starts, the others after.

    A method that may be called before and after the start is called before only. The calls of one subsystem are made
    in order, those of a batch together.
    """

    def __init__(self, subsystems: list[list[Any]]) -> None:
        self._subsystems = subsystems

    @classmethod
    def read(cls, path: Path) -> "Configuration":
        """Raises OSError or ValueError."""
        subsystems = json.loads(path.read_text()).get("subsystems", [])
        return cls([subsystem["config"] or [] for subsystem in subsystems])

    async def execute(self, target: "Target") -> None:
        """Makes the calls that are due in the target's present state. Raises ValueError when one fails."""
        for config in self._subsystems:
            for entry in config:
                calls = entry if isinstance(entry, list) else [entry]
                due = [call for call in calls if target.is_due(call["method"])]
                await asyncio.gather(*(_execute(target, call) for call in due))


async def _execute(target: "Target", call: dict[str, Any]) -> None:
    try:
        await target.call(call["method"], call.get("params"))
    except RpcError as error:
        if error.code != NOT_EMULATED:
            raise ValueError(f"{call['method']}: {error.message} ({error.code})") from None
        logger.warning("the configuration's %s is left out: it is not emulated", call["method"])
