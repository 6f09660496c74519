"""What a controller answers to the Identify command (NVMe Base Specification 2.0, section 5.17; lib/nvmf/ctrlr.c)."""

import struct
import uuid

from ..bdev.device import Bdev
from ..fabric.wire import Completion
from .members import Namespace
from .subsystem import Subsystem

DATA_BYTES = 4096
IDENTIFY = 0x06
CNS_NAMESPACE, CNS_ACTIVE_NAMESPACES, CNS_DESCRIPTORS = 0x00, 0x02, 0x03

SUCCESS, INVALID_OPCODE, INVALID_FIELD, INVALID_NAMESPACE = 0x00, 0x01, 0x02, 0x0B
"""Generic command status codes."""
HIGHEST_NSID = 0xFFFFFFFE

_OPTPERF_AND_ATOMIC_UNIT = 0x12
_SHARED = 0x01
_RESERVATIONS = 0xFE
_EXTENDED_FLBAS, _EXTENDED_MC = 0x10, 0x01
_LARGE_BUFFER_BYTES = 135168
_ANY_COPY_SIZE = 0xFFFF


def identify(
    subsystem: Subsystem, visible: dict[int, Namespace], command: bytes, data_size: int, max_io_size: int
) -> Completion:
    """Identify: a namespace (of an NSID in range that is unused: zeroes), its descriptors, the active NSIDs above one.

    Other commands are not emulated.
    """
    nsid, cns = struct.unpack_from("<I", command, 4)[0], command[40]
    if command[0] != IDENTIFY:
        return Completion(INVALID_OPCODE)
    if data_size < DATA_BYTES or cns not in (CNS_NAMESPACE, CNS_ACTIVE_NAMESPACES, CNS_DESCRIPTORS):
        return Completion(INVALID_FIELD)
    if cns == CNS_ACTIVE_NAMESPACES:
        return _active_namespaces(visible, nsid)
    if cns == CNS_DESCRIPTORS:
        return _descriptors(subsystem, visible, nsid)
    if not 0 < nsid <= subsystem.options.max_namespaces:
        return Completion(INVALID_NAMESPACE)
    if nsid not in visible:
        return Completion(SUCCESS, bytes(DATA_BYTES))
    anagrpid = visible[nsid].anagrpid if subsystem.options.ana_reporting else 0
    return Completion(SUCCESS, _namespace_data(visible[nsid], anagrpid, max_io_size))


def _active_namespaces(visible: dict[int, Namespace], above: int) -> Completion:
    if above >= HIGHEST_NSID:
        return Completion(INVALID_NAMESPACE)
    nsids = sorted(nsid for nsid in visible if nsid > above)[: DATA_BYTES // 4]
    return Completion(SUCCESS, struct.pack(f"<{len(nsids)}I", *nsids).ljust(DATA_BYTES, b"\0"))


def _descriptors(subsystem: Subsystem, visible: dict[int, Namespace], nsid: int) -> Completion:
    """Each: its type, its length, two reserved bytes, the identifier; none for an identifier of zeroes."""
    if not 0 < nsid <= subsystem.options.max_namespaces:
        return Completion(INVALID_NAMESPACE)
    if nsid not in visible:
        return Completion(INVALID_FIELD)
    namespace = visible[nsid]
    identities = {0x01: namespace.eui64 or b"", 0x02: namespace.nguid, 0x03: uuid.UUID(namespace.uuid).bytes}
    known = {kind: identity for kind, identity in identities.items() if any(identity)}
    data = b"".join(struct.pack("<BBxx", kind, len(identity)) + identity for kind, identity in known.items())
    return Completion(SUCCESS, data.ljust(DATA_BYTES, b"\0"))


def _namespace_data(namespace: Namespace, anagrpid: int, max_io_size: int) -> bytes:
    bdev = namespace.descriptor.bdev
    data = bytearray(DATA_BYTES)
    struct.pack_into("<QQQ", data, 0, bdev.num_blocks, bdev.num_blocks, bdev.num_blocks)
    data[24] = _OPTPERF_AND_ATOMIC_UNIT
    if bdev.metadata.size:
        data[26], data[27] = _EXTENDED_FLBAS, _EXTENDED_MC
        data[28], data[29] = _protection(bdev)
    data[30], data[31] = _SHARED, _RESERVATIONS
    _pack_geometry(data, bdev, max_io_size)
    struct.pack_into("<I", data, 92, anagrpid)
    data[104:120] = namespace.nguid
    data[120:128] = namespace.eui64 or bytes(8)
    struct.pack_into("<HB", data, 128, bdev.metadata.size, bdev.block_size.bit_length() - 1)
    return bytes(data)


def _protection(bdev: Bdev) -> tuple[int, int]:
    """The capabilities and the settings of end-to-end protection (DPC, DPS)."""
    dif_type = bdev.metadata.dif_type
    capability = 1 << (dif_type - 1) if dif_type else 0
    return capability, dif_type | bdev.metadata.dif_is_head_of_md << 3


def _pack_geometry(data: bytearray, bdev: Bdev, max_io_size: int) -> None:
    """Preferred sizes, each less one; what a bdev does not prefer follows from its physical blocks and from MDTS."""
    geometry, blocks_max = bdev.geometry, max_io_size >> (bdev.block_size.bit_length() - 1)
    granularity = geometry.preferred_write_granularity or bdev.physical_block_size >> (bdev.block_size.bit_length() - 1)
    sizes = (
        granularity,
        geometry.preferred_write_alignment or granularity,
        geometry.preferred_unmap_granularity or granularity,
        geometry.preferred_unmap_alignment or granularity,
        geometry.optimal_write_size or blocks_max,
    )
    struct.pack_into("<H", data, 36, granularity - 1)
    struct.pack_into("<H", data, 46, min(bdev.optimal_io_boundary, blocks_max))
    struct.pack_into("<5H", data, 64, *(size - 1 for size in sizes))
    copied = _ANY_COPY_SIZE if bdev.supports("copy") else _LARGE_BUFFER_BYTES // bdev.block_size
    struct.pack_into("<HI", data, 74, copied, copied)
