"""Who sees the PCI functions that the bridge makes, by the settings: a virtual machine of QEMU's, or whoever does."""

from __future__ import annotations

import logging

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.daemon.settings import Settings
from opi_spdk_bridge.targets.spdk.hotplug import Host, QemuHost

log = logging.getLogger(__name__)


def host(settings: Settings) -> Host:
    """The host, not started; raises InvalidArgument and FailedPrecondition for settings that make no sense."""
    if settings.qmp is None:
        if settings.qmp_buses or settings.qmp_folders:
            raise errors.FailedPrecondition("--qmp-buses and --qmp-folders are for a QEMU: --qmp is missing")
        return Host()
    try:
        from opi_spdk_bridge.qemu.machine import Machine
    except ImportError:
        text = "plugging into QEMU needs the package's extra: pip install 'opi-spdk-bridge[qemu]'"
        raise errors.FailedPrecondition(text, field="qmp") from None
    machine = Machine(
        settings.qmp,
        connect_grace_s=settings.connect_grace_s,
        answer_timeout_s=settings.call_timeout_s,
        unplug_timeout_s=settings.qmp_unplug_s,
    )
    if "/" not in settings.qmp and not Listener.parse(settings.qmp).is_local:
        log.warning(
            "QEMU's monitor %s is not on this machine: QMP is neither encrypted nor authenticated", settings.qmp
        )
    buses = [bus.strip() for given in settings.qmp_buses for bus in given.split(",")]
    if "" in buses or len(set(buses)) < len(buses):
        raise errors.InvalidArgument(f"--qmp-buses {','.join(buses)!r} names a bus twice, or none", field="qmp_buses")
    return QemuHost(machine, buses, [_folder(given) for given in settings.qmp_folders])


def _folder(given: str) -> tuple[str, str]:
    here, _, there = given.partition(":")
    if not here.startswith("/") or not there.startswith("/"):
        text = f"--qmp-folders {given!r} is not TARGET_PATH:QEMU_PATH, two absolute paths"
        raise errors.InvalidArgument(text, field="qmp_folders")
    return here, there
