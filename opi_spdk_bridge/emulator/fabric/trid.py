"""Transport IDs (struct spdk_nvme_transport_id): where something listens."""

import contextlib
import ipaddress
from dataclasses import dataclass, replace

from ..registry import NVMF_FAILURE, RpcError

TRTYPE_LENGTH_MAX = 32
TRADDR_LENGTH_MAX = 256
TRSVCID_LENGTH_MAX = 32
ADRFAMS = {name.lower(): name for name in ("IPv4", "IPv6", "IB", "FC")}
IP_TRANSPORTS = ("TCP", "RDMA")


@dataclass(frozen=True)
class ListenAddress:
    """The `listen_address` and `address` parameters of the nvmf methods."""

    trtype: str
    traddr: str
    adrfam: str | None = None
    trsvcid: str | None = None


@dataclass(frozen=True)
class TransportId:
    """`adrfam` is one of ADRFAMS' values, or empty where the transport has no address families."""

    trtype: str
    traddr: str
    adrfam: str = ""
    trsvcid: str = ""
    subnqn: str = ""

    def describe(self) -> dict[str, str]:
        """As the nvmf methods show it."""
        return {
            "trtype": self.trtype,
            "adrfam": self.adrfam or "unknown",
            "traddr": self.traddr,
            "trsvcid": self.trsvcid,
        }

    def canonical(self) -> "TransportId":
        """Equal for equal addresses however they are spelt (spdk_nvme_transport_id_compare)."""
        traddr = self.traddr.lower()
        if self.adrfam in ("IPv4", "IPv6"):
            with contextlib.suppress(ValueError):
                traddr = str(ipaddress.ip_address(traddr))
        return replace(self, trtype=self.trtype.upper(), traddr=traddr, trsvcid=self.trsvcid.lower())


def parse_listen_address(address: ListenAddress) -> TransportId:
    """Raises RpcError "Invalid parameters" for an unknown address family or a member that is too long."""
    adrfam = "" if address.adrfam is None else ADRFAMS.get(address.adrfam.lower())
    trtype = address.trtype.upper()
    trsvcid = address.trsvcid or ""
    if (
        adrfam is None
        or len(trtype) > TRTYPE_LENGTH_MAX
        or len(address.traddr) > TRADDR_LENGTH_MAX
        or len(trsvcid) > TRSVCID_LENGTH_MAX
    ):
        raise RpcError(NVMF_FAILURE.code, NVMF_FAILURE.message)
    if address.adrfam is None and trtype in IP_TRANSPORTS:
        adrfam = "IPv4"
    return TransportId(trtype, address.traddr, adrfam, trsvcid)
