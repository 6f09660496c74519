"""I/O on a bdev of a target: an emulator does it when asked; of a real one the far target is the initiator."""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tests.support.ports import free_ports
from tests.support.target import Target

_NQN = "nqn.2016-06.io.spdk:io"
_NGUID = "10" * 16
_INITIATOR = "io"
# NVM Command Set Specification 1.0: opcodes, and the attribute of Dataset Management that deallocates
_WRITE, _READ, _DATASET_MANAGEMENT, _DEALLOCATE = 0x01, 0x02, 0x09, 4


class Io(Protocol):
    """I/O on one bdev, from block 0 where no other is told."""

    def run(self, *, reads: int = 0, writes: int = 0, unmaps: int = 0, blocks: int = 1) -> None:
        """So many operations of so many blocks each."""

    def read(self, block: int) -> bytes:
        """The content of a block."""

    def write(self, block: int, content: bytes) -> None:
        """Gives a block its content."""


@contextlib.contextmanager
def io_on(target: Target, far: Callable[[], Target], bdev: str) -> Iterator[Io]:
    """A way to the bdev. Opening and closing it may read; what is done in between is counted exactly."""
    if target.emulated:
        yield _Emulated(target, bdev)
        return
    with _exported(target, bdev) as (nqn, nsid, port):
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port}
        far().rpc("bdev_nvme_attach_controller", name=_INITIATOR, subnqn=nqn, **address)
        try:
            block_size = target.rpc("bdev_get_bdevs", name=bdev)[0]["block_size"]
            yield _Remote(far(), nsid, block_size)
        finally:
            far().rpc("bdev_nvme_detach_controller", name=_INITIATOR)


@contextlib.contextmanager
def _exported(target: Target, bdev: str) -> Iterator[tuple[str, int, str]]:
    """Subsystem, NSID and port of the bdev: where it is a namespace already, by one more listener."""
    (port,) = map(str, free_ports(1))
    found = [
        (subsystem["nqn"], namespace["nsid"])
        for subsystem in target.rpc("nvmf_get_subsystems")
        for namespace in subsystem.get("namespaces", ())
        if namespace["bdev_name"] == bdev
    ]
    if not found:
        target.rpc("nvmf_create_subsystem", nqn=_NQN, allow_any_host=True)
    nqn, nsid = found[0] if found else (_NQN, 1)
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port}
    try:
        if not found:
            namespace = {"bdev_name": bdev, "nsid": nsid, "nguid": _NGUID}
            target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace=namespace)
        target.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
        yield nqn, nsid, port
    finally:
        if found:
            target.rpc("nvmf_subsystem_remove_listener", nqn=nqn, listen_address=address)
        else:
            target.rpc("nvmf_delete_subsystem", nqn=nqn)


class _Emulated:
    def __init__(self, target: Target, bdev: str) -> None:
        self._target = target
        self._bdev = bdev

    def run(self, *, reads: int = 0, writes: int = 0, unmaps: int = 0, blocks: int = 1) -> None:
        counts = {"reads": reads, "writes": writes, "unmaps": unmaps}
        self._target.rpc("emulator_run_io", name=self._bdev, blocks=blocks, **counts)

    def read(self, block: int) -> bytes:
        answer = self._target.rpc("emulator_read", name=self._bdev, offset_blocks=block)
        return base64.b64decode(answer["content"])

    def write(self, block: int, content: bytes) -> None:
        text = base64.b64encode(content).decode()
        self._target.rpc("emulator_write", name=self._bdev, offset_blocks=block, content=text)


class _Remote:
    def __init__(self, initiator: Target, nsid: int, block_size: int) -> None:
        self._initiator = initiator
        self._nsid = nsid
        self._block_size = block_size

    def run(self, *, reads: int = 0, writes: int = 0, unmaps: int = 0, blocks: int = 1) -> None:
        content = bytes(blocks * self._block_size)
        for _ in range(reads):
            self._send(_READ, 0, blocks, data_len=len(content))
        for _ in range(writes):
            self._send(_WRITE, 0, blocks, content)
        for _ in range(unmaps):
            self._command(_DATASET_MANAGEMENT, (0, _DEALLOCATE, 0), struct.pack("<IIQ", 0, blocks, 0))

    def read(self, block: int) -> bytes:
        return base64.urlsafe_b64decode(self._send(_READ, block, 1, data_len=self._block_size)["data"])

    def write(self, block: int, content: bytes) -> None:
        self._send(_WRITE, block, 1, content)

    def _send(self, opcode: int, block: int, blocks: int, content: bytes = b"", **more: Any) -> dict[str, Any]:
        return self._command(opcode, (block, 0, blocks - 1), content, **more)

    def _command(self, opcode: int, dwords: tuple[int, int, int], content: bytes, **more: Any) -> dict[str, Any]:
        """Dwords 10 to 12 of the command; the content goes there, `data_len` bytes come back."""
        command = struct.pack("<BxHI8x8x16x6I", opcode, 0, self._nsid, *dwords, 0, 0, 0)
        given = {"data": _base64(content)} if content else {}
        answer: dict[str, Any] = self._initiator.rpc(
            "bdev_nvme_send_cmd",
            name=_INITIATOR,
            cmd_type="io",
            data_direction="h2c" if content else "c2h",
            cmdbuf=_base64(command),
            **given,
            **more,
        )
        completion = base64.urlsafe_b64decode(answer["cpl"])
        status = struct.unpack("<H", completion[14:16])[0] >> 1
        assert status == 0, f"opcode {opcode:#x} ended with status {status:#x}"
        return answer


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()
