"""TLS keys on the target: a file in the shared folder, and its name in the keyring."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass

from google.protobuf.message import Message

from opi_spdk_bridge import errors
from opi_spdk_bridge.core.record import Record
from opi_spdk_bridge.kinds.shared.keys import Keyed
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.steps import Step, exists, gone
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View


@dataclass(frozen=True)
class Seen:
    """A record's key on the target.

    file      whether its file is there and holds it
    listed    whether the keyring knows it; True where the release has no keyring
    in_use    whether something on the target has taken it; None where the release does not tell
    """

    file: bool = True
    listed: bool = True
    in_use: bool | None = True

    @property
    def present(self) -> bool:
        """Whether the target could take it."""
        return self.file and self.listed


_NOTHING = Seen(file=False, listed=False, in_use=False)


async def look(record: Record[Message, Keyed], target: Target, view: View, material: bytes) -> Seen:
    """Looks for the record's key; a record without one has all of it."""
    name = record.own.psk_key
    if not name:
        return Seen()
    if not target.release.keyring:
        return Seen(await target.shared.has_key(name, material), in_use=None)
    file, found = await asyncio.gather(target.shared.has_key(name, material), view.keys(name))
    return Seen(file, not all(key.removed for key in found), any(key.in_use for key in found))


def add(record: Record[Message, Keyed], target: Target, material: bytes, seen: Seen = _NOTHING) -> list[Step]:
    """Puts the record's key where the target finds it, as far as it is not there."""
    return [*write(record, target, material, seen), *enlist(record, target, seen)]


def write(record: Record[Message, Keyed], target: Target, material: bytes, seen: Seen = _NOTHING) -> list[Step]:
    """The key's file, which comes first."""
    name, shared = record.own.psk_key, target.shared
    if not name or seen.file:
        return []
    return [
        Step(
            "the key's file is missing",
            lambda: shared.write_key(name, material, target.uid),
            lambda: shared.remove_key(name),
        )
    ]


def enlist(record: Record[Message, Keyed], target: Target, seen: Seen = _NOTHING) -> list[Step]:
    """The key's name in the keyring, where the release has one."""
    name = record.own.psk_key
    if not name or seen.listed or not target.release.keyring:
        return []
    call = methods.keyring_file_add_key(name, target.shared.target_key_path(name))
    return [Step("the key is not in the keyring", call, methods.keyring_file_remove_key(name), already=exists)]


def remove(record: Record[Message, Keyed], target: Target) -> list[Step]:
    """Takes it away again."""
    name = record.own.psk_key
    if not name:
        return []
    file = Step("the key's file is still there", lambda: target.shared.remove_key(name))
    if not target.release.keyring:
        return [file]
    call = methods.keyring_file_remove_key(name)
    return [Step("the key is still in the keyring", call, already=gone, guarded=True), file]  # its users go first


def reference(record: Record[Message, Keyed], target: Target) -> str | None:
    """What a `psk` parameter takes: the key's name, before 24.05 its file's path; None without a key."""
    name = record.own.psk_key
    return name if not name or target.release.keyring else target.shared.target_key_path(name)


def why_not_taken(
    record: Record[Message, Keyed], target: Target, error: SpdkError | errors.BridgeError, field: str
) -> errors.BridgeError | None:
    """The cause where the target's keyring refused the record's key; None for anything else."""
    if not isinstance(error, SpdkError) or error.method != "keyring_file_add_key":
        return None
    path = target.shared.target_key_path(record.own.psk_key)
    if error.is_errno(errno.ENOENT, errno.ENOTDIR):
        text = f"the target does not see the key's file {path}: say where it has the shared folder, with the second"
        text = f"{text} part of --spdk-shared-dir"
    elif error.is_errno(errno.EPERM, errno.EACCES):
        text = f"the target may not read the key's file {path}: run it and the bridge as one user"
    else:
        text = f"the target's keyring does not take the key's file {path}: {error.message}"
    return errors.FailedPrecondition(text, field=field)
