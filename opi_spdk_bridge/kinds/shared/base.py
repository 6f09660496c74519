"""What every kind of the contract's is made with."""

from __future__ import annotations

from dataclasses import replace
from typing import Generic

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Graph, Kind, Volume
from opi_spdk_bridge.core.record import AnyRecord, M, P
from opi_spdk_bridge.core.volumes import Volumes
from opi_spdk_bridge.kinds.shared.pci import Functions
from opi_spdk_bridge.kinds.shared.underlying import OnVolume


class ContractKind(Kind[M, P], Generic[M, P]):
    """A kind of the OPI contract: it knows the other resources, finds volumes, and the places of PCI functions."""

    def __init__(self, graph: Graph, volumes: Volumes, functions: Functions) -> None:
        self.graph = graph
        self.volumes = volumes
        self.functions = functions

    def follow(self, own: P, was: Volume, now: Volume) -> P:
        if isinstance(own, OnVolume) and (own.bdev, own.volume_uuid) == (was.bdev, was.identity):
            return replace(own, bdev=now.bdev, volume_uuid=now.identity)
        return own


def parent_of(graph: Graph, record: AnyRecord) -> AnyRecord:
    """The record that this one is nested in by name; raises NotFound."""
    parent = graph.record(record.parent)
    if parent is None:
        raise errors.NotFound(f"{record.parent} does not exist", resource=record.parent)
    return parent
