"""EncryptedVolume on SPDK: a crypto vbdev over the volume's bdev, and a key object of its own."""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Phase, Record
from opi_spdk_bridge.core.side import Postponed
from opi_spdk_bridge.kinds.encrypted_volume import KEY_PREFIX, Encrypted, keys_of
from opi_spdk_bridge.pb.storage.middleend_encryption_pb2 import EncryptedVolume
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.model import Bdev
from opi_spdk_bridge.spdk.steps import Local, Step, StepFailed, exists, gone
from opi_spdk_bridge.spdk.view import View
from opi_spdk_bridge.targets.spdk.bdev import BdevSide
from opi_spdk_bridge.targets.spdk.claims import why_not_claimable
from opi_spdk_bridge.targets.spdk.underlying import has_identity, required

_FIELD = "volume_name_ref"
_STAND_IN_BYTES = 512

_ON_THE_BASE = ("bdev_get_bdevs", "bdev_crypto_create")
"""Calls that the base decides on."""


class EncryptedVolumeSide(BdevSide[EncryptedVolume, Encrypted]):
    """Recognised by the name of its key object, which the target shows of a vbdev."""

    def ours(self, record: Record[EncryptedVolume, Encrypted], seen: Bdev) -> bool:
        return seen.name == record.object_name and (_key_of(seen) in keys_of(record) or _is_stand_in(record, seen))

    async def look(self, record: Record[EncryptedVolume, Encrypted], view: View) -> Bdev | None:
        seen, has_its_identity = await asyncio.gather(super().look(record, view), has_identity(record, view))
        return seen.model_copy(update={"on_volume": has_its_identity}) if seen is not None else None

    def steps(self, record: Record[EncryptedVolume, Encrypted], seen: Bdev | None) -> list[Step]:
        wanted = record.own.crypto_key
        stale = self._destroy(keys_of(record) - {wanted})
        if seen is not None and _key_of(seen) == wanted and seen.on_volume:
            unknown = [] if seen.uuid == record.own.crypto_uuid else [self._identify(record)]
            return [*stale, *unknown]
        old = [] if seen is None else [self._deletion(record, seen)]  # a change was broken off
        return [*old, *self._make(record), *stale]

    def removal(self, record: Record[EncryptedVolume, Encrypted], present: bool) -> list[Step]:
        says = f"bdev {record.object_name} is still there"
        return [Step(says, self._take_down(record)), *self._destroy(keys_of(record))]

    def amendment(self, old: Record[EncryptedVolume, Encrypted], new: Record[EncryptedVolume, Encrypted]) -> list[Step]:
        if old.own.crypto_key == new.own.crypto_key:
            return []
        self.require_idle(old, "another key, cipher or volume")
        create = self._make(old)[-2]
        stale = self._destroy(keys_of(old) - {new.own.crypto_key})
        return [replace(self._deletion(old), undo=create.do), *self._make(new), *stale]

    def _make(self, record: Record[EncryptedVolume, Encrypted]) -> list[Step]:
        base, key, material = record.own.bdev, record.own.crypto_key, record.desired.key
        half = len(material) // 2
        create_key = methods.accel_crypto_key_create(key, material[:half], material[half:])
        create = methods.bdev_crypto_create(record.id, base, key)
        return [
            Step(f"key {key} is missing", create_key, methods.accel_crypto_key_destroy(key), already=exists),
            required(record, _FIELD),
            Step(f"bdev {record.id} is missing", create, self._take_down(record), guarded=True),
            self._identify(record),
        ]

    def _identify(self, record: Record[EncryptedVolume, Encrypted]) -> Step:
        return Step(f"the UUID of bdev {record.id} is not known", methods.bdev_get_bdev(record.id), learn=_identified)

    def recognise(self, record: Record[EncryptedVolume, Encrypted], seen: Bdev) -> Encrypted:
        return _identified(seen)(record.own)

    def _deletion(self, record: Record[EncryptedVolume, Encrypted], seen: Bdev | None = None) -> Step:
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

    def _take_down(self, record: Record[EncryptedVolume, Encrypted]) -> Local:
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
                base = record.own.bdev
                raise Postponed(f"its key and vbdev go when bdev {base} is back, or when the target has been restarted")

        return do

    async def _entry_left(self, record: Record[EncryptedVolume, Encrypted], *, name_free: bool) -> bool:
        """Whether the target has an entry of the vbdev, while there is no vbdev, and a key that it may hold.

        No query shows entries. Making a vbdev of that name on a bdev of that name tells: where there is an entry it
        fails for that (EEXIST), else for the name (EINVAL, EPERM where that bdev is claimed), and leaves nothing.
        """
        name, client, view = record.object_name, self.target.client, self.target.view()
        keys = [key for key in sorted(keys_of(record)) if await view.crypto_key(key) is not None]
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

    def together(self, record: Record[EncryptedVolume, Encrypted]) -> bool:
        return False  # the target would take a base that does not exist

    async def diagnose(self, record: Record[EncryptedVolume, Encrypted], failure: StepFailed) -> errors.BridgeError:
        error, found = failure.error, record
        assert isinstance(error, SpdkError)
        if error.method == "bdev_crypto_create" and error.is_errno(errno.EEXIST):
            return self._name_kept(record)
        if error.method == "bdev_crypto_delete" and record.previous is not None:
            found = record.previous  # what was to be replaced is away
        away = error.method == "bdev_crypto_delete" and await self.target.view().bdev(found.own.bdev) is None
        concerned = away or error.method in _ON_THE_BASE
        blocked = await why_not_claimable(self.target, self.graph, found, _FIELD) if concerned else None
        if blocked is None and error.method in _ON_THE_BASE and error.gone:
            text = f"bdev {found.own.bdev} or the key was gone from the target for a moment: try again"
            return errors.Aborted(text, resource=record.name)
        return blocked or await super().diagnose(record, failure)

    def _name_kept(self, record: Record[EncryptedVolume, Encrypted]) -> errors.BridgeError:
        """The error for a name of which the target has an entry and no vbdev."""
        holders = self.graph.holders(f"bdev:{record.id}")
        bases = [holder.own.bdev for holder in holders if holder.phase is Phase.DELETED]
        text = (
            f"the target still keeps the name {record.id} for an encrypted volume whose base"
            f" ({', '.join(bases) or 'not known'}) was taken away: it is free again when that bdev is back, or when the"
            " target has been restarted"
        )
        return errors.FailedPrecondition(text, resource=record.name)


def _identified(seen: Bdev) -> Callable[[Encrypted], Encrypted]:
    return lambda own: replace(own, crypto_uuid=seen.uuid)


def _key_of(seen: Bdev) -> str:
    return str(seen.driver_specific.get("crypto", {}).get("key_name", ""))


def _stand_in(key: str) -> str:
    """The UUID of the null bdev that stands in a vbdev's place for a moment: the one in its key's name."""
    return str(uuid.UUID(key.removeprefix(KEY_PREFIX)))


def _is_stand_in(record: Record[EncryptedVolume, Encrypted], seen: Bdev) -> bool:
    return seen.uuid in map(_stand_in, keys_of(record))
