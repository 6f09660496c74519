"""Where an NvmeController listens on the target, and why that may fail."""

from __future__ import annotations

import contextlib
import ipaddress

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Reservation
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController, NvmeControllerSpec
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import ListenAddress, Subsystem
from opi_spdk_bridge.spdk.shared import SharedFolder

FABRICS = {opi.NVME_TRANSPORT_TYPE_TCP: "TCP", opi.NVME_TRANSPORT_TYPE_RDMA: "RDMA"}
FAMILIES = {opi.NVME_ADDRESS_FAMILY_IPV4: ("IPv4", 4), opi.NVME_ADDRESS_FAMILY_IPV6: ("IPv6", 6)}
PORT_SPELLING = "trsvcid"  # in Record.private: the port as the target was given it, where an earlier version kept zeros

MOST_LISTENERS = 16  # of a subsystem (NVMF_MAX_LISTENERS_PER_SUBSYSTEM)
_LONGEST_SOCKET_PATH_BYTES = 107


def is_pcie(controller: NvmeController) -> bool:
    """Whether hosts see it as a PCIe function."""
    return controller.spec.trtype == opi.NVME_TRANSPORT_TYPE_PCIE


def listen_address(record: Record, shared: SharedFolder) -> ListenAddress:
    """Where the target is to listen for the controller."""
    spec: NvmeControllerSpec = record.desired.spec
    if is_pcie(record.desired):
        return ListenAddress(trtype="VFIOUSER", traddr=shared.target_socket_folder(socket_folder(record.desired)))
    fabrics = spec.fabrics_id
    return ListenAddress(
        trtype=FABRICS[spec.trtype],
        adrfam=FAMILIES[fabrics.adrfam][0],
        traddr=fabrics.traddr,
        trsvcid=record.private.get(PORT_SPELLING, fabrics.trsvcid),
    )


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


def in_words(address: ListenAddress) -> str:
    """An address in words."""
    return f"{address.trtype} {address.traddr} {address.trsvcid}".rstrip()


def same_address(one: ListenAddress, other: ListenAddress) -> bool:
    """Whether two listeners are one, however they are spelt."""
    return _canonical(one) == _canonical(other)


def _canonical(address: ListenAddress) -> tuple[str, str, str]:
    traddr = address.traddr.lower()
    with contextlib.suppress(ValueError):
        traddr = str(ipaddress.ip_address(traddr))
    return address.trtype.upper(), traddr, address.trsvcid.lstrip("0")


def why_not_listening(error: SpdkError, address: ListenAddress, subsystem: Subsystem) -> errors.BridgeError | None:
    """The cause where the target refused to have the subsystem listen there; None where none can be told."""
    if error.message.startswith("Cannot establish secure channel"):
        text = (
            f"somebody lets any host connect to {subsystem.nqn}, so it cannot demand TLS: the bridge puts that right,"
        )
        return errors.Aborted(f"{text} try again then")
    if not error.is_invalid_parameters:
        return None
    if len(subsystem.listen_addresses) >= MOST_LISTENERS:
        text = f"{subsystem.nqn} listens at {MOST_LISTENERS} addresses, as many as a subsystem may"
        return errors.ResourceExhausted(text)
    if address.trtype == "VFIOUSER":
        return _why_no_socket(address.traddr)
    text = (
        f"the target cannot listen at {in_words(address)}: the address is not one of its own,"
        " or another program there has the port"
    )
    return errors.FailedPrecondition(text, field="spec.fabrics_id.traddr")


def _why_no_socket(folder: str) -> errors.BridgeError:
    path_bytes = len(f"{folder}/cntrl".encode())
    if path_bytes > _LONGEST_SOCKET_PATH_BYTES:
        text = f"has {path_bytes} bytes; {_LONGEST_SOCKET_PATH_BYTES} fit: give a shorter --spdk-shared-dir"
        return errors.FailedPrecondition(f"the path of the target's socket {folder}/cntrl {text}")
    text = f"the target cannot make the socket {folder}/cntrl: it does not see the folder there, or may not write to it"
    return errors.FailedPrecondition(f"{text} (--spdk-shared-dir BRIDGE_PATH:TARGET_PATH says where it has the folder)")
