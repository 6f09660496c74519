"""What the clients work on: a fixed set of names of every kind, and random resources for them."""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kinds.world import collection, fabrics, path_to, pci

Resource = dict[str, Any]

ARRAYS = 4
LISTENERS = 4
_SUBSYSTEMS = 6
_PLAIN_VOLUMES = ("NullVolume", "MallocVolume", "AioVolume")
_BLOCKS_OF_A_MIB = 2048


@dataclass(frozen=True)
class Slot:
    """A name at which a resource may be."""

    noun: str
    id: str
    number: int
    parent: str = ""

    @property
    def name(self) -> str:
        """The canonical resource name."""
        own = f"{collection(self.noun)}/{self.id}"
        return f"{self.parent}/{own}" if self.parent else own


def all_slots() -> list[Slot]:
    """Every name, in dependency order."""
    return list(_slots())


def _slots() -> Iterator[Slot]:
    yield from _row("MallocVolume", "mal", 8)
    yield from _row("NullVolume", "nul", 10)
    yield from _row("AioVolume", "aio", 6)
    yield from _row("NvmeRemoteController", "arr", ARRAYS)
    for number in range(ARRAYS):
        yield from _row("NvmePath", "p", 3, f"nvmeRemoteControllers/arr{number}", first=10 * number)
    yield from _row("EncryptedVolume", "enc", 8)
    yield from _row("QosVolume", "qos", 6)
    yield from _row("NvmeSubsystem", "sub", _SUBSYSTEMS)
    for number in range(_SUBSYSTEMS):
        parent = f"nvmeSubsystems/sub{number}"
        yield from _row("NvmeController", "c", 3, parent, first=3 * number)
        yield from _row("NvmeNamespace", "n", 5, parent)
    yield from _row("VirtioBlk", "blk", 8)
    yield from _row("VirtioScsiTarget", "tgt", 3)
    yield from _row("VirtioScsiController", "sco", 3)
    yield from _row("VirtioScsiLun", "lun", 12)


def _row(noun: str, prefix: str, count: int, parent: str = "", first: int = 0) -> Iterator[Slot]:
    for number in range(count):
        yield Slot(noun, f"{prefix}{number}", first + number, parent)


class Secrets:
    """Key material made for the run, remembered so that it can be looked for afterwards."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.made: list[bytes] = []

    def psk(self) -> str:
        """A TLS key in the interchange format, base64 as JSON wants bytes."""
        material = self._rng.randbytes(32)
        checked = base64.b64encode(material + zlib.crc32(material).to_bytes(4, "little")).decode()
        self.made += [material, (text := f"NVMeTLSkey-1:01:{checked}:").encode()]
        return base64.b64encode(text.encode()).decode()

    def crypto_key(self, size_bytes: int) -> str:
        """An AES-XTS key of two halves."""
        key = self._rng.randbytes(size_bytes)
        self.made += [key, key[: size_bytes // 2], key[size_bytes // 2 :]]
        return base64.b64encode(key).decode()


@dataclass
class Maker:
    """Makes random resources. `volumes` names volumes of the given kinds that are likely to exist."""

    rng: random.Random
    secrets: Secrets
    folder: Path
    listen_ports: list[int]
    array_ports: list[int]
    volumes: Callable[[tuple[str, ...]], list[str]]

    def make(self, slot: Slot, before: Resource | None) -> Resource:
        """What to ask for at the slot; an update keeps of `before` what cannot change."""
        recipe: Callable[[Slot, Resource | None], Resource] = _RECIPES[slot.noun].__get__(self)
        return recipe(slot, before)

    def _volume(self, kinds: tuple[str, ...]) -> str:
        return self.rng.choice(self.volumes(kinds) or ["nullVolumes/nul0"])

    def _limits(self) -> Resource:
        return {"rw_iops_kiops": str(self.rng.randint(1, 50))}

    def null(self, _slot: Slot, before: Resource | None) -> Resource:
        most = int(before["blocks_count"]) // _BLOCKS_OF_A_MIB if before and self.rng.random() < 0.7 else 0
        return {"block_size": "512", "blocks_count": str(_BLOCKS_OF_A_MIB * (most + self.rng.randint(1, 4)))}

    def malloc(self, slot: Slot, before: Resource | None) -> Resource:
        return before or {"block_size": "512", "blocks_count": str(_BLOCKS_OF_A_MIB * (1 + slot.number % 3))}

    def aio(self, slot: Slot, _before: Resource | None) -> Resource:
        number = self.rng.randint(0, 2)
        path = self.folder / f"{slot.id}-{number}.img"
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(512 * _BLOCKS_OF_A_MIB * (number + 1))
        return {"filename": str(path), "block_size": "512"}

    def remote_controller(self, _slot: Slot, before: Resource | None) -> Resource:
        if before is not None and self.rng.random() < 0.6:
            return {**before, "queue_size": str(self.rng.randint(1, 9))}
        tcp: Resource = {"hdgst": True}
        if self.rng.random() < 0.5:
            tcp["psk"] = self.secrets.psk()
        return {"multipath": "NVME_MULTIPATH_MULTIPATH", "queue_size": str(self.rng.randint(1, 9)), "tcp": tcp}

    def path(self, slot: Slot, _before: Resource | None) -> Resource:
        array, number = divmod(slot.number, 10)
        ports = self.array_ports[LISTENERS * array : LISTENERS * (array + 1)]
        spare = number == 2 and self.rng.random() < 0.5
        return path_to(ports[3 if spare else number], nqn=array_nqn(array))

    def encrypted(self, _slot: Slot, before: Resource | None) -> Resource:
        wide = self.rng.random() < 0.5
        cipher = f"ENCRYPTION_TYPE_AES_XTS_{256 if wide else 128}"
        volume = before["volume_name_ref"] if before and self.rng.random() < 0.5 else self._volume(_PLAIN_VOLUMES)
        return {"volume_name_ref": volume, "cipher": cipher, "key": self.secrets.crypto_key(64 if wide else 32)}

    def qos(self, _slot: Slot, before: Resource | None) -> Resource:
        kinds = (*_PLAIN_VOLUMES, "EncryptedVolume")
        volume = before["volume_name_ref"] if before and self.rng.random() < 0.8 else self._volume(kinds)
        return {"volume_name_ref": volume, "limits": {"max": self._limits()}}

    def subsystem(self, slot: Slot, before: Resource | None) -> Resource:
        spec: Resource = {"nqn": subsystem_nqn(slot.number), "model_number": f"chaos {slot.number}"}
        luck = self.rng.random()
        if luck < 0.6:
            spec["hostnqn"] = f"nqn.2014-08.org.nvmexpress:chaos-host{self.rng.randint(0, 2)}"
        if luck < 0.3:
            spec["psk"] = self.secrets.psk()
        return {"spec": spec}

    def controller(self, slot: Slot, before: Resource | None) -> Resource:
        spec: Resource = {"max_nsq": self.rng.randint(1, 50)}
        if slot.id == "c2":
            spec |= {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": pci(50 + slot.number)}
        else:
            port = self.listen_ports[slot.number]
            spec |= {"trtype": "NVME_TRANSPORT_TYPE_TCP", "fabrics_id": fabrics(port)}
        return {"spec": spec}

    def namespace(self, _slot: Slot, _before: Resource | None) -> Resource:
        if self.rng.random() < 0.15:
            array = self.rng.randrange(ARRAYS)
            return {"spec": {"volume_name_ref": f"nvmeRemoteControllers/arr{array}/nvmeRemoteNamespaces/1"}}
        return {"spec": {"volume_name_ref": self._volume((*_PLAIN_VOLUMES, "EncryptedVolume"))}}

    def blk(self, slot: Slot, before: Resource | None) -> Resource:
        kinds = (*_PLAIN_VOLUMES, "EncryptedVolume")
        volume = before["volume_name_ref"] if before and self.rng.random() < 0.5 else self._volume(kinds)
        made: Resource = {"volume_name_ref": volume, "pcie_id": pci(10 + slot.number)}
        return {**made, "max_limit": self._limits()} if self.rng.random() < 0.3 else made

    def scsi_target(self, _slot: Slot, _before: Resource | None) -> Resource:
        return {"max_luns": self.rng.choice([6, 7, 8])}

    def scsi_controller(self, slot: Slot, _before: Resource | None) -> Resource:
        return {"pcie_id": pci(100 + 10 * slot.number + self.rng.randrange(10))}

    def lun(self, _slot: Slot, before: Resource | None) -> Resource:
        devices = self.volumes(("VirtioScsiTarget", "VirtioScsiController"))
        device = before["target_name_ref"] if before else self.rng.choice(devices or ["virtioScsiTargets/tgt0"])
        return {"target_name_ref": device, "volume_name_ref": self._volume((*_PLAIN_VOLUMES, "EncryptedVolume"))}


_RECIPES: Mapping[str, Callable[[Maker, Slot, Resource | None], Resource]] = {
    "MallocVolume": Maker.malloc,
    "NullVolume": Maker.null,
    "AioVolume": Maker.aio,
    "NvmeRemoteController": Maker.remote_controller,
    "NvmePath": Maker.path,
    "EncryptedVolume": Maker.encrypted,
    "QosVolume": Maker.qos,
    "NvmeSubsystem": Maker.subsystem,
    "NvmeController": Maker.controller,
    "NvmeNamespace": Maker.namespace,
    "VirtioBlk": Maker.blk,
    "VirtioScsiTarget": Maker.scsi_target,
    "VirtioScsiController": Maker.scsi_controller,
    "VirtioScsiLun": Maker.lun,
}


def array_nqn(number: int) -> str:
    """The subsystem of the far target that remote controller arr{number} leads to."""
    return f"nqn.2022-09.io.spdk:chaos-array{number}"


def subsystem_nqn(number: int) -> str:
    """The NQN of sub{number}."""
    return f"nqn.2022-09.io.spdk:chaos{number}"


def references(resource: Resource) -> list[str]:
    """The names of the resources that a resource asks to stand on, its parent apart."""
    spec = {**resource, **resource.get("spec", {})}
    found = [spec[field] for field in ("volume_name_ref", "target_name_ref") if field in spec]
    return [name.split("/nvmeRemoteNamespaces/")[0] for name in found]
