"""What the target answers, as far as the bridge reads it (members it does not use are ignored)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Bdev(_Answer):
    """A block device (bdev_get_bdevs). `block_size` in bytes."""

    name: str
    uuid: str = ""
    aliases: tuple[str, ...] = ()
    product_name: str = ""
    block_size: int
    num_blocks: int
    md_size: int = 0
    md_interleave: bool = False
    """Whether `md_size` bytes of `block_size` are metadata; else they are kept apart."""
    claimed: bool = False
    claim_type: str = ""
    on_volume: bool = True
    """Not the target's: whether what a vbdev stands on is the volume that it should be."""
    assigned_rate_limits: dict[str, int] = Field(default_factory=dict)
    driver_specific: dict[str, Any] = Field(default_factory=dict)


class Namespace(_Answer):
    """A namespace of a subsystem. `nguid` is 32 and `eui64` 16 upper-case hexadecimal digits."""

    nsid: int
    bdev_name: str = ""
    nguid: str = ""
    eui64: str = ""
    uuid: str = ""


class Host(_Answer):
    """A host that may connect."""

    nqn: str


class ListenAddress(_Answer):
    """Where a subsystem listens. For vfio-user `traddr` is a folder and `trsvcid` empty."""

    trtype: str
    adrfam: str = ""
    traddr: str
    trsvcid: str = ""


class Notification(_Answer):
    """Something that happened on the target: `type` such as bdev_unregister, `ctx` the object's name."""

    type: str
    ctx: str
    id: int


class Transport(_Answer):
    """A transport of the NVMe-oF target (TCP, RDMA, VFIOUSER)."""

    trtype: str


class HostController(_Answer):
    """A host's connection to a subsystem (nvmf_subsystem_get_controllers)."""

    hostnqn: str = ""


class Subsystem(_Answer):
    """An NVMe-oF subsystem (nvmf_get_subsystems)."""

    nqn: str
    subtype: str = "NVMe"
    serial_number: str = ""
    model_number: str = ""
    max_namespaces: int = 0
    allow_any_host: bool = False
    hosts: tuple[Host, ...] = ()
    listen_addresses: tuple[ListenAddress, ...] = ()
    namespaces: tuple[Namespace, ...] = ()


class IoStat(_Answer):
    """Counters of a bdev since it was made (bdev_get_iostat): bytes, operations, and latency sums in clock ticks."""

    name: str = ""
    bytes_read: int = 0
    num_read_ops: int = 0
    bytes_written: int = 0
    num_write_ops: int = 0
    bytes_unmapped: int = 0
    num_unmap_ops: int = 0
    read_latency_ticks: int = 0
    write_latency_ticks: int = 0
    unmap_latency_ticks: int = 0
    io_error: dict[str, Any] = Field(default_factory=dict)


class IoStats(_Answer):
    """The counters of several bdevs; `tick_rate` is the target's clock in ticks per second."""

    tick_rate: int
    bdevs: tuple[IoStat, ...] = ()


class TransportId(_Answer):
    """Where an NVMe controller is: a fabrics address, or for PCIe the function's BDF in `traddr`."""

    trtype: str
    adrfam: str = ""
    traddr: str
    trsvcid: str = ""
    subnqn: str = ""


class PathHost(_Answer):
    """The initiator's side of a path: its NQN, and the source address and port where they were given."""

    nqn: str = ""
    addr: str = ""
    svcid: str = ""


class NvmePath(_Answer):
    """One connection of an NVMe bdev controller; `alternate_trids` are those that failover would go to."""

    state: str = ""
    trid: TransportId
    alternate_trids: tuple[TransportId, ...] = ()
    host: PathHost = PathHost()

    @property
    def trids(self) -> tuple[TransportId, ...]:
        """Where it is connected, then where it would go."""
        return (self.trid, *self.alternate_trids)


class RemoteController(_Answer):
    """An NVMe bdev controller (bdev_nvme_get_controllers): one entry of `ctrlrs` a path."""

    name: str
    ctrlrs: tuple[NvmePath, ...] = ()


class ScsiLun(_Answer):
    """A LUN of a SCSI target; `bdev_name` is None after its bdev was removed."""

    id: int
    bdev_name: str | None = None


class ScsiTarget(_Answer):
    """A SCSI target of a vhost controller, by its number."""

    scsi_dev_num: int
    luns: tuple[ScsiLun, ...] = ()
    on_volume: bool = True
    """Not the target's: whether its bdev is the volume that it should be."""

    @property
    def bdev(self) -> str | None:
        """The bdev of the LUN; None after it was removed."""
        return self.luns[0].bdev_name if self.luns else None


class VhostController(_Answer):
    """A vhost-user controller; `block` or `scsi` says which."""

    ctrlr: str
    socket: str = ""
    sessions: tuple[Any, ...] = ()
    backend_specific: dict[str, Any] = Field(default_factory=dict)
    on_volume: bool = True
    """Not the target's: whether the bdev of a block controller is the volume that it should be."""
    limits_unlike: bool = False
    """Nor this: whether the volume under it has other limits than it should, and they can be set."""
    limits_owed: bool = False
    """Nor this: whether limits of volumes that were under it before can be taken off."""

    @property
    def bdev(self) -> str | None:
        """The bdev of a block controller; None after it was removed, and for SCSI."""
        return (self.backend_specific.get("block") or {}).get("bdev")

    @property
    def bdevs(self) -> tuple[str, ...]:
        """The bdevs that it has open."""
        luns = [lun.bdev_name for target in self.scsi for lun in target.luns]
        return tuple(bdev for bdev in (self.bdev, *luns) if bdev is not None)

    @property
    def is_block(self) -> bool:
        """Whether it is a virtio-blk device."""
        return "block" in self.backend_specific

    @property
    def scsi(self) -> tuple[ScsiTarget, ...]:
        """The targets of a SCSI controller."""
        return tuple(ScsiTarget.model_validate(item) for item in self.backend_specific.get("scsi") or ())


class Key(_Answer):
    """A key of the target's keyring; `removed` while its last users still hold it.

    `refcnt` counts them, and the keyring itself until the key is removed; None where the target does not say.
    """

    name: str
    path: str = ""
    removed: bool = False
    refcnt: int | None = None

    @property
    def in_use(self) -> bool:
        """Whether something on the target has taken it; True where the target does not say."""
        return self.refcnt is None or self.refcnt > (0 if self.removed else 1)
