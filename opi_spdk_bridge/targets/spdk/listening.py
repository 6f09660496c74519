"""Where an NvmeController listens on the target, and why that may fail."""

from __future__ import annotations

import contextlib
import ipaddress

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.nvme_controller import ControllerOwn
from opi_spdk_bridge.kinds.shared.addresses import FABRICS, FAMILIES, is_pcie, socket_folder
from opi_spdk_bridge.pb.storage.frontend_nvme_pb2 import NvmeController
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import ListenAddress, Subsystem
from opi_spdk_bridge.spdk.shared import VFIO_USER_SOCKET, SharedFolder

MOST_LISTENERS = 16  # of a subsystem (NVMF_MAX_LISTENERS_PER_SUBSYSTEM)


def listen_address(record: Record[NvmeController, ControllerOwn], shared: SharedFolder) -> ListenAddress:
    """Where the target is to listen for the controller."""
    spec = record.desired.spec
    if is_pcie(record.desired):
        return ListenAddress(trtype="VFIOUSER", traddr=shared.target_socket_folder(socket_folder(record.desired)))
    fabrics = spec.fabrics_id
    return ListenAddress(
        trtype=FABRICS[spec.trtype],
        adrfam=FAMILIES[fabrics.adrfam][0],
        traddr=fabrics.traddr,
        trsvcid=record.own.trsvcid or fabrics.trsvcid,
    )


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
    path = f"{folder}/{VFIO_USER_SOCKET}"
    text = f"the target cannot make the socket {path}: it does not see the folder there, or may not write to it"
    return errors.FailedPrecondition(f"{text} (--spdk-shared-dir BRIDGE_PATH:TARGET_PATH says where it has the folder)")
