"""Where an NvmeController is to be reached."""

from __future__ import annotations

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeControllerSpec

FABRICS = {opi.NVME_TRANSPORT_TYPE_TCP: "TCP", opi.NVME_TRANSPORT_TYPE_RDMA: "RDMA"}
FAMILIES = {opi.NVME_ADDRESS_FAMILY_IPV4: ("IPv4", 4), opi.NVME_ADDRESS_FAMILY_IPV6: ("IPv6", 6)}


def is_pcie(controller: NvmeController) -> bool:
    """Whether hosts see it as a PCIe function."""
    return controller.spec.trtype == opi.NVME_TRANSPORT_TYPE_PCIE


def place(spec: NvmeControllerSpec) -> str:
    """A fabrics address in words, as reservations have it."""
    return f"{FABRICS[spec.trtype]} [{spec.fabrics_id.traddr}]:{spec.fabrics_id.trsvcid}"


def address_reservation(controller: NvmeController, secure: bool) -> Reservation | None:
    """One address and port is all secure or all plain: the target would take it over as the first listener made it."""
    if is_pcie(controller):
        return None
    at = place(controller.spec)
    what = f"{at} as a {'plain' if secure else 'secure'} address"
    tag = "secure" if secure else "plain"
    return Reservation(f"address:{at}", what, tag, errors.FailedPrecondition, "spec.fabrics_id")


def socket_folder(controller: NvmeController) -> str:
    """The name of the folder for a PCIe controller's socket."""
    return f"pf{controller.spec.pcie_id.physical_function.value}"
