"""EncryptedVolume: an AES-XTS vbdev over another volume, with a key object of its own."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.kind import Phase, Postponed, Record, Reservation, Settled, Volume
from opi_spdk_bridge.core.volumes import bdev_reservation
from opi_spdk_bridge.kinds.bdev import BdevKind
from opi_spdk_bridge.kinds.claims import claim_reservation, why_not_claimable
from opi_spdk_bridge.kinds.shape import ENCRYPTION, require_usable
from opi_spdk_bridge.pb.storage import opicommon_pb2 as opi
from opi_spdk_bridge.pb.storage.middleend_encryption_pb2 import EncryptedVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Local, Step, StepFailed, exists, gone

_KEY_BYTES = {opi.ENCRYPTION_TYPE_AES_XTS_128: 32, opi.ENCRYPTION_TYPE_AES_XTS_256: 64}
_KEY = "crypto_key"  # in Record.private: the key object's name
_BASE = "bdev"  # in Record.private: the bdev underneath
_FIELD = "volume_name_ref"
_KEY_PREFIX = "opi-"
_STAND_IN_BYTES = 512

_ON_THE_BASE = ("bdev_get_bdevs", "bdev_crypto_create")
"""Calls that the base decides on."""


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
        await require_usable(self, volume, before, ENCRYPTION, _FIELD)
        unchanged = (
            before is not None
            and (before.desired.key, before.desired.cipher) == (resource.key, resource.cipher)
            and before.private[_BASE] == volume.bdev
        )
        key = before.private[_KEY] if before is not None and unchanged else f"{_KEY_PREFIX}{uuid.uuid4().hex}"
        return Settled({}, {_BASE: volume.bdev, _KEY: key}, (volume.resource,) if volume.resource else ())

    def reserves(self, record: Record) -> Iterable[Reservation]:
        return (bdev_reservation(record.object_name), claim_reservation(record.private[_BASE], record.name, _FIELD))

    def volume(self, record: Record) -> Volume | None:
        return Volume(record.id)

    def ours(self, record: Record, seen: Bdev) -> bool:
        return seen.name == record.object_name and (_key_of(seen) in _keys(record) or _is_stand_in(record, seen))

    def steps(self, record: Record, seen: Bdev | None) -> list[Step]:
        wanted = record.private[_KEY]
        stale = self._destroy(_keys(record) - {wanted})
        if seen is not None and _key_of(seen) == wanted:
            return stale
        old = [] if seen is None else [self._deletion(record, seen)]  # a change was broken off
        return [*old, *self._make(record), *stale]

    def removal(self, record: Record, present: bool) -> list[Step]:
        says = f"bdev {record.object_name} is still there"
        return [Step(says, self._take_down(record)), *self._destroy(_keys(record))]

    def amendment(self, old: Record, new: Record) -> list[Step]:
        if old.private == new.private:
            return []
        self.require_idle(old, "another key, cipher or volume")
        create = self._make(old)[-1]
        stale = self._destroy(_keys(old) - {new.private[_KEY]})
        return [replace(self._deletion(old), undo=create.do), *self._make(new), *stale]

    def _make(self, record: Record) -> list[Step]:
        base, key, material = record.private[_BASE], record.private[_KEY], record.desired.key
        half = len(material) // 2
        create_key = methods.accel_crypto_key_create(key, material[:half], material[half:])
        create = methods.bdev_crypto_create(record.id, base, key)
        return [
            Step(f"key {key} is missing", create_key, methods.accel_crypto_key_destroy(key), already=exists),
            Step(f"bdev {base} is missing", methods.bdev_get_bdev(base)),
            Step(f"bdev {record.id} is missing", create, self._take_down(record), guarded=True),
        ]

    def _deletion(self, record: Record, seen: Bdev | None = None) -> Step:
        """Takes what is `seen`, or else the vbdev, out of the way; refused where none is: its entry would stay."""
        stand_in = seen is not None and _is_stand_in(record, seen)
        delete = (methods.bdev_null_delete if stand_in else methods.bdev_crypto_delete)(record.id)
        return Step(f"bdev {record.id} has another key or volume", self.delete(record, delete))

    def _destroy(self, keys: Iterable[str]) -> list[Step]:
        """For keys that no entry of the target holds any more."""
        return [
            Step(f"key {key} is still there", methods.accel_crypto_key_destroy(key), already=gone, guarded=True)
            for key in sorted(keys)
        ]

    def _take_down(self, record: Record) -> Local:
        """Deletes the vbdev, and with it the target's entry of it; raises Postponed while that cannot be.

        The entry outlives a vbdev whose base was taken away. It holds the key: the target dies when the base comes back
        and the key was destroyed.
        """
        name, client = record.object_name, self.target.client

        async def do() -> None:
            seen = await self.unused(record)
            if seen is not None and _is_stand_in(record, seen):
                await client.call(methods.bdev_null_delete(name))
                seen = None
            if seen is not None and self.ours(record, seen):
                await client.call(methods.bdev_crypto_delete(name))
            elif (seen is None or not _key_of(seen)) and await self._entry_left(record, name_free=seen is None):
                base = record.private[_BASE]
                raise Postponed(f"its key and vbdev go when bdev {base} is back, or when the target has been restarted")

        return do

    async def _entry_left(self, record: Record, *, name_free: bool) -> bool:
        """Whether the target has an entry of the vbdev, while there is no vbdev, and a key that it may hold.

        No query shows entries. Making a vbdev of that name on a bdev of that name tells: where there is an entry it
        fails for that (EEXIST), else for the name (EINVAL, EPERM where that bdev is claimed), and leaves nothing.
        """
        name, client, view = record.object_name, self.target.client, self.target.view()
        keys = [key for key in sorted(_keys(record)) if await view.crypto_key(key) is not None]
        if not keys:
            return False
        if record.phase is Phase.DELETED or "bdev_null_create" not in self.target.release.methods:
            return True  # found out before, or not to be found out
        if name_free:
            await client.call(methods.bdev_null_create(name, _STAND_IN_BYTES, 1, _stand_in(keys[0])))
        attempt = client.submit(methods.bdev_crypto_create(name, name, keys[0]))
        if name_free:  # in one write: while the name is taken the target cannot build the vbdev of an entry
            await client.submit(methods.bdev_null_delete(name))
        try:
            await attempt
        except SpdkError as refusal:
            if refusal.is_errno(errno.EINVAL, errno.EPERM):
                return False
            if not refusal.is_errno(errno.EEXIST):
                raise
        return True

    def together(self, record: Record) -> bool:
        return False  # the target would take a base that does not exist

    async def diagnose(self, record: Record, failure: StepFailed) -> errors.BridgeError:
        error, found = failure.error, record
        assert isinstance(error, SpdkError)
        if error.method == "bdev_crypto_create" and error.is_errno(errno.EEXIST):
            return self._name_kept(record)
        if error.method == "bdev_crypto_delete" and record.previous is not None:
            found = record.previous  # what was to be replaced is away
        base = found.private[_BASE]
        away = error.method == "bdev_crypto_delete" and await self.target.view().bdev(base) is None
        blocked = await why_not_claimable(self, found, base, _FIELD) if away or error.method in _ON_THE_BASE else None
        if blocked is None and error.method in _ON_THE_BASE and error.gone:
            text = f"bdev {base} or the key was gone from the target for a moment: try again"
            return errors.Aborted(text, resource=record.name)
        return blocked or await super().diagnose(record, failure)

    def _name_kept(self, record: Record) -> errors.BridgeError:
        """The error for a name of which the target has an entry and no vbdev."""
        holders = self.graph.holders(f"bdev:{record.id}")
        bases = [holder.private[_BASE] for holder in holders if holder.phase is Phase.DELETED]
        text = (
            f"the target still keeps the name {record.id} for an encrypted volume whose base"
            f" ({', '.join(bases) or 'not known'}) was taken away: it is free again when that bdev is back, or when the"
            " target has been restarted"
        )
        return errors.FailedPrecondition(text, resource=record.name)


def _key_of(seen: Bdev) -> str:
    return str(seen.driver_specific.get("crypto", {}).get("key_name", ""))


def _keys(record: Record) -> set[str]:
    """The names of the key objects of a record and, in an update, of the one before it."""
    states = (record, record.previous) if record.previous is not None else (record,)
    return {state.private[_KEY] for state in states}


def _stand_in(key: str) -> str:
    """The UUID of the null bdev that stands in a vbdev's place for a moment: the one in its key's name."""
    return str(uuid.UUID(key.removeprefix(_KEY_PREFIX)))


def _is_stand_in(record: Record, seen: Bdev) -> bool:
    return seen.uuid in map(_stand_in, _keys(record))
