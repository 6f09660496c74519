"""EncryptedVolume: another volume, encrypted with AES-XTS."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Reservation, Settled, Volume
from opi_spdk_bridge.core.line import Line
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.core.volumes import bdev_reservations
from opi_spdk_bridge.kinds.shared.base import ContractKind
from opi_spdk_bridge.kinds.shared.claims import claim_reservation
from opi_spdk_bridge.kinds.shared.shape import ENCRYPTION, require_usable
from opi_spdk_bridge.kinds.shared.underlying import OnVolume, same, stands_on, volume_of
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.middleend_encryption_pb2 import EncryptedVolume

_KEY_BYTES = {opi.ENCRYPTION_TYPE_AES_XTS_128: 32, opi.ENCRYPTION_TYPE_AES_XTS_256: 64}
_FIELD = "volume_name_ref"
KEY_PREFIX = "opi-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted(OnVolume):
    """`crypto_key` is the key object's name on the target, chosen before the first call: another with another key.

    `crypto_uuid` is learnt: the target derives it from the UUID of the volume underneath.
    """

    crypto_key: str = ""
    crypto_uuid: str = ""


class EncryptedVolumeKind(ContractKind[EncryptedVolume, Encrypted]):
    """Recognised by the name of its key object."""

    message = EncryptedVolume
    title = "Encrypted volumes"
    own = Encrypted
    legacy_collection: ClassVar[str | None] = "volumes"
    secrets: ClassVar[tuple[str, ...]] = ("key",)

    def line(self, resource: EncryptedVolume) -> Line:
        cipher = opi.EncryptionType.Name(resource.cipher).removeprefix("ENCRYPTION_TYPE_")
        return Line((cipher, f"on {resource.volume_name_ref}"))

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

    async def settle(
        self,
        name: str,
        resource: EncryptedVolume,
        before: Record[EncryptedVolume, Encrypted] | None,
        taken: Collection[Any] = (),
    ) -> Settled[Encrypted]:
        volume = await self.volumes.resolve(resource.volume_name_ref, _FIELD)
        require_usable(volume, before, ENCRYPTION, _FIELD)
        unchanged = (
            before is not None
            and (before.desired.key, before.desired.cipher) == (resource.key, resource.cipher)
            and same(volume_of(before), volume)
        )
        key, crypto_uuid = f"{KEY_PREFIX}{uuid.uuid4().hex}", ""
        if before is not None and unchanged:
            key, crypto_uuid = before.own.crypto_key, before.own.crypto_uuid
        own = Encrypted(bdev=volume.bdev, volume_uuid=volume.identity, crypto_key=key, crypto_uuid=crypto_uuid)
        return Settled(own, stands_on(volume))

    def reserves(self, record: Record[EncryptedVolume, Encrypted]) -> Iterable[Reservation]:
        yield from bdev_reservations(record.object_name)
        yield claim_reservation(record.own.bdev, record.name, _FIELD)

    def volume(self, record: Record[EncryptedVolume, Encrypted]) -> Volume | None:
        return Volume(record.id, record.own.crypto_uuid)


def keys_of(record: Record[EncryptedVolume, Encrypted]) -> set[str]:
    """The names of the key objects of a record and, in an update, of the one before it."""
    return {state.own.crypto_key for state in record.states}
