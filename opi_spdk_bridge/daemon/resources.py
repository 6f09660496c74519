"""What the bridge serves: the contract's services, and the kinds of resources in their order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.journal import Journal
from opi_spdk_bridge.core.registry import Registry
from opi_spdk_bridge.core.volumes import Volumes
from opi_spdk_bridge.kinds.aio_volume import AioVolumeKind
from opi_spdk_bridge.kinds.encrypted_volume import EncryptedVolumeKind
from opi_spdk_bridge.kinds.malloc_volume import MallocVolumeKind
from opi_spdk_bridge.kinds.null_volume import NullVolumeKind
from opi_spdk_bridge.kinds.nvme_controller import NvmeControllerKind
from opi_spdk_bridge.kinds.nvme_namespace import NvmeNamespaceKind
from opi_spdk_bridge.kinds.nvme_path import NvmePathKind
from opi_spdk_bridge.kinds.nvme_remote_controller import NvmeRemoteControllerKind
from opi_spdk_bridge.kinds.nvme_subsystem import NvmeSubsystemKind
from opi_spdk_bridge.kinds.qos_volume import QosVolumeKind
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.virtio_blk import VirtioBlkKind
from opi_spdk_bridge.kinds.virtio_scsi import VirtioScsiControllerKind, VirtioScsiLunKind, VirtioScsiTargetKind
from opi_spdk_bridge.pb.inventory import inventory_pb2
from opi_spdk_bridge.spdk.client import Client
from opi_spdk_bridge.spdk.shared import SharedFolder
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.store.base import Store
from opi_spdk_bridge.store.memory import MemoryStore
from opi_spdk_bridge.targets.spdk.aio_volume import AioVolumeSide
from opi_spdk_bridge.targets.spdk.base import SpdkSide
from opi_spdk_bridge.targets.spdk.encrypted_volume import EncryptedVolumeSide
from opi_spdk_bridge.targets.spdk.hotplug import Host
from opi_spdk_bridge.targets.spdk.malloc_volume import MallocVolumeSide
from opi_spdk_bridge.targets.spdk.null_volume import NullVolumeSide
from opi_spdk_bridge.targets.spdk.nvme_controller import NvmeControllerSide
from opi_spdk_bridge.targets.spdk.nvme_namespace import NvmeNamespaceSide
from opi_spdk_bridge.targets.spdk.nvme_path import NvmePathSide
from opi_spdk_bridge.targets.spdk.nvme_remote_controller import NvmeRemoteControllerSide
from opi_spdk_bridge.targets.spdk.nvme_subsystem import NvmeSubsystemSide
from opi_spdk_bridge.targets.spdk.qos_volume import QosVolumeSide
from opi_spdk_bridge.targets.spdk.virtio_blk import VirtioBlkSide
from opi_spdk_bridge.targets.spdk.virtio_scsi import VirtioScsiControllerSide, VirtioScsiLunSide, VirtioScsiTargetSide

_KINDS: tuple[tuple[type[ContractKind[Any, Any]], type[SpdkSide[Any, Any, Any]]], ...] = (
    # in dependency order: a kind stands only on kinds before it
    (MallocVolumeKind, MallocVolumeSide),
    (NullVolumeKind, NullVolumeSide),
    (AioVolumeKind, AioVolumeSide),
    (NvmeRemoteControllerKind, NvmeRemoteControllerSide),
    (NvmePathKind, NvmePathSide),
    (EncryptedVolumeKind, EncryptedVolumeSide),
    (QosVolumeKind, QosVolumeSide),
    (NvmeSubsystemKind, NvmeSubsystemSide),
    (NvmeControllerKind, NvmeControllerSide),
    (NvmeNamespaceKind, NvmeNamespaceSide),
    (VirtioBlkKind, VirtioBlkSide),
    (VirtioScsiTargetKind, VirtioScsiTargetSide),
    (VirtioScsiControllerKind, VirtioScsiControllerSide),
    (VirtioScsiLunKind, VirtioScsiLunSide),
)


def services() -> list[Any]:
    """The descriptors of the contract's services."""
    files = dict.fromkeys([*(kind.message.DESCRIPTOR.file for kind, _ in _KINDS), inventory_pb2.DESCRIPTOR])
    return [service for file in files for service in file.services_by_name.values()]


def kinds_only() -> Registry:
    """The kinds, for work on records without a target."""
    nowhere = Target(Client("(none)"), SharedFolder(Path(), Path()))
    return resources(nowhere, MemoryStore(), Host())[0]


def resources(
    target: Target, store: Store, host: Host, most_of_a_kind: float = math.inf
) -> tuple[Registry, Catalog, Journal]:
    """The kinds on that target and host, their records, and the way to the store; `most_of_a_kind` may exist."""
    registry = Registry()
    catalog = Catalog(registry.kinds, most_of_a_kind)
    volumes = Volumes(catalog, registry, target.view)
    for kind, side in _KINDS:
        registry.add(kind(catalog, volumes, host), side(target, catalog, host))
    return registry, catalog, Journal(store, registry.kinds)
