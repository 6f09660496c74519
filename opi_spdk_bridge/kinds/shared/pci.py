"""PCI functions on the host's side: a front end takes one, and no two may take the same."""

from __future__ import annotations

from typing import Protocol

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation
from opi_spdk_bridge.kinds.shared import rules
from opi_spdk_bridge.pb.storage.opicommon_pb2 import PciEndpoint


class Functions(Protocol):
    """The host's PCI functions."""

    def check(self, endpoint: PciEndpoint, field: str) -> None:
        """Raises InvalidArgument for a function that the host has no place for; `field` is the endpoint's."""


def check_function(endpoint: PciEndpoint, field: str) -> None:
    """Physical functions of port 0 only: vfio-user and vhost-user know no ports and no virtual functions."""
    rules.within(endpoint.physical_function.value, 0, 255, f"{field}.physical_function")
    for part in ("port_id", "virtual_function"):
        value = getattr(endpoint, part).value
        if value:
            raise errors.InvalidArgument(f"{field}.{part} is {value}; the target has only 0", field=f"{field}.{part}")


def in_words(endpoint: PciEndpoint) -> str:
    """The function in words."""
    return f"PCI function {endpoint.physical_function.value}"


def function_reservation(endpoint: PciEndpoint, field: str) -> Reservation:
    """The function, for its one holder."""
    port, pf, vf = endpoint.port_id.value, endpoint.physical_function.value, endpoint.virtual_function.value
    what = f"PCI function {pf} (port {port}, virtual function {vf})"
    return Reservation(f"pci:{port}.{pf}.{vf}", what, field=field)
