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
from opi_spdk_bridge.kinds.shared.hotplug import Host
from opi_spdk_bridge.kinds.virtio_blk import VirtioBlkKind
from opi_spdk_bridge.kinds.virtio_scsi import VirtioScsiControllerKind, VirtioScsiLunKind, VirtioScsiTargetKind
from opi_spdk_bridge.pb.inventory import inventory_pb2
from opi_spdk_bridge.pb.storage import (
    backend_aio_pb2,
    backend_malloc_pb2,
    backend_null_pb2,
    backend_nvme_pb2,
    frontend_nvme_pb2,
    frontend_virtio_blk_pb2,
    frontend_virtio_scsi_pb2,
    middleend_encryption_pb2,
    middleend_qos_volume_pb2,
)
from opi_spdk_bridge.spdk.client import Client
from opi_spdk_bridge.spdk.shared import SharedFolder
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.store.base import Store
from opi_spdk_bridge.store.memory import MemoryStore

_FILES: tuple[Any, ...] = (
    frontend_nvme_pb2,
    frontend_virtio_blk_pb2,
    frontend_virtio_scsi_pb2,
    backend_nvme_pb2,
    backend_aio_pb2,
    backend_malloc_pb2,
    backend_null_pb2,
    middleend_encryption_pb2,
    middleend_qos_volume_pb2,
    inventory_pb2,
)
_KINDS = (  # in dependency order: a kind stands only on kinds before it
    MallocVolumeKind,
    NullVolumeKind,
    AioVolumeKind,
    NvmeRemoteControllerKind,
    NvmePathKind,
    EncryptedVolumeKind,
    QosVolumeKind,
    NvmeSubsystemKind,
    NvmeControllerKind,
    NvmeNamespaceKind,
    VirtioBlkKind,
    VirtioScsiTargetKind,
    VirtioScsiControllerKind,
    VirtioScsiLunKind,
)


def services() -> list[Any]:
    """The descriptors of the contract's services."""
    return [service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()]


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
    for kind in _KINDS:
        registry.add(kind(target, catalog, volumes, host))
    return registry, catalog, Journal(store, registry.kinds)
