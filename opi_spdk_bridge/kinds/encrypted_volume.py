"""EncryptedVolume: an AES-XTS vbdev over another volume, with a key object of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Record, Reservation, Settled, Volume
from opi_spdk_bridge.core.volumes import bdev_reservations
from opi_spdk_bridge.kinds.shared.bdev import BdevKind
from opi_spdk_bridge.kinds.shared.claims import claim_reservation, why_not_claimable
from opi_spdk_bridge.kinds.shared.underlying import BDEV, kept, same, volume_of
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.middleend_encryption_pb2 import EncryptedVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Step, StepFailed, exists, gone

_KEY_BYTES = {opi.ENCRYPTION_TYPE_AES_XTS_128: 32, opi.ENCRYPTION_TYPE_AES_XTS_256: 64}
_KEY = "crypto_key"  # in Record.private: the key object's name
_FIELD = "volume_name_ref"


class EncryptedVolumeKind(BdevKind[EncryptedVolume]):
    """Recognised by the name of its key object, which is chosen before the first call and changes with the key."""

    message = EncryptedVolume
    secrets: ClassVar[tuple[str, ...]] = ("key",)
    assigned: ClassVar[tuple[str, ...]] = ()

    def normalise(self, resource: EncryptedVolume) -> None:
        """Nothing has two spellings."""

    def check(self, resource: EncryptedVolume) -> None:
        wanted = _KEY_BYTES.get(resource.cipher)
        if wanted is None:
            name = opi.EncryptionType.Name(resource.cipher)
            text = f"cipher {name} is not supported: ENCRYPTION_TYPE_AES_XTS_128 and ENCRYPTION_TYPE_AES_XTS_256 are"
            raise errors.InvalidArgument(text, field="cipher")
        if len(resource.key) != wanted:
            text = f"key has {len(resource.key)} bytes; this cipher takes {wanted}: the data key, then the tweak key"
            raise errors.InvalidArgument(text, field="key")
        if resource.key[: wanted // 2] == resource.key[wanted // 2 :]:
            raise errors.InvalidArgument("key has two equal halves, which XTS forbids", field="key")

    async def settle(self, name: str, resource: EncryptedVolume, before: Record | None) -> Settled:
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        unchanged = (
            before is not None
            and (before.desired.key, before.desired.cipher) == (resource.key, resource.cipher)
            and same(volume_of(before), volume)
        )
        key = before.private[_KEY] if before is not None and unchanged else f"opi-{uuid.uuid4().hex}"
        return Settled({}, {**kept(volume), _KEY: key}, (volume.resource,) if volume.resource else ())

    def reserves(self, record: Record) -> Iterable[Reservation]:
        return (*bdev_reservations(record.id), claim_reservation(record.private[BDEV], record.name, _FIELD))

    def volume(self, record: Record) -> Volume | None:
        return Volume(record.id)

    def ours(self, record: Record, seen: Bdev) -> bool:
        states = (record, record.previous) if record.previous is not None else (record,)
        return _key_of(seen) in [state.private[_KEY] for state in states]

    def steps(self, record: Record, seen: Bdev | None) -> list[Step]:
        there = seen is not None and _key_of(seen) == record.private[_KEY]
        stale: list[Step] = []
        if record.previous is not None and record.previous.private[_KEY] != record.private[_KEY]:
            stale = self.removal(record.previous, present=seen is not None and not there)
        return stale if there else [*stale, *self._make(record)]

    def removal(self, record: Record, present: bool) -> list[Step]:
        delete = Step(f"bdev {record.id} is still there", methods.bdev_crypto_delete(record.id), already=gone)
        states = (record, record.previous) if record.previous is not None else (record,)
        keys = dict.fromkeys(state.private[_KEY] for state in states)
        destroy = [
            Step(f"key {key} is still there", methods.accel_crypto_key_destroy(key), already=gone, guarded=True)
            for key in keys
        ]
        return [delete, *destroy] if present else destroy

    def amendment(self, old: Record, new: Record) -> list[Step]:
        if old.private == new.private:
            return []
        self.require_idle(old, "another key, cipher or volume")
        delete, destroy = self.removal(old, present=True)
        key, _, create = self._make(old)
        undo_delete = Step(delete.says, delete.do, create.do, already=gone)
        undo_destroy = Step(destroy.says, destroy.do, key.do, already=gone)
        return [undo_delete, undo_destroy, *self._make(new)]

    def _make(self, record: Record) -> list[Step]:
        base, key, material = record.private[BDEV], record.private[_KEY], record.desired.key
        half = len(material) // 2
        create_key = methods.accel_crypto_key_create(key, material[:half], material[half:])
        create = methods.bdev_crypto_create(record.id, base, key)
        return [
            Step(f"key {key} is missing", create_key, methods.accel_crypto_key_destroy(key), already=exists),
            Step(f"bdev {base} is missing", methods.bdev_get_bdev(base)),
            Step(f"bdev {record.id} is missing", create, methods.bdev_crypto_delete(record.id), guarded=True),
        ]

    def together(self, record: Record) -> bool:
        return False  # the target would take a base that does not exist

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        blocked = await why_not_claimable(self, record, _FIELD)
        return blocked or failure.undiagnosed()


def _key_of(seen: Bdev) -> str:
    return str(seen.driver_specific.get("crypto", {}).get("key_name", ""))
