"""TLS keys on the target: a file in the shared folder, and its name in the keyring, chosen before the first call."""

from __future__ import annotations

from opi_spdk_bridge.core.kind import Record
from opi_spdk_bridge.spdk import methods
from opi_spdk_bridge.spdk.steps import Step, exists, gone
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.spdk.view import View

NAME = "psk_key"  # in Record.private: the name of the key in the target's keyring and of its file


async def present(record: Record, target: Target, view: View) -> bool:
    """Whether the keyring has the record's key; True where it needs none, or the release has no keyring."""
    name = record.private.get(NAME)
    return name is None or not target.release.keyring or await view.key(name) is not None


def add(record: Record, target: Target, material: bytes) -> list[Step]:
    """Puts the record's key where the target finds it."""
    name, shared = record.private.get(NAME), target.shared
    if name is None:
        return []
    file = Step(
        "the key's file is missing",
        lambda: shared.write_key(name, material, target.uid),
        lambda: shared.remove_key(name),
    )
    if not target.release.keyring:
        return [file]
    call = methods.keyring_file_add_key(name, shared.target_key_path(name))
    return [file, Step("the key is not in the keyring", call, methods.keyring_file_remove_key(name), already=exists)]


def remove(record: Record, target: Target) -> list[Step]:
    """Takes it away again."""
    name = record.private.get(NAME)
    if name is None:
        return []
    file = Step("the key's file is still there", lambda: target.shared.remove_key(name))
    if not target.release.keyring:
        return [file]
    call = methods.keyring_file_remove_key(name)
    return [Step("the key is still in the keyring", call, already=gone, guarded=True), file]  # its users go first


def reference(record: Record, target: Target) -> str | None:
    """What a `psk` parameter takes: the key's name, before 24.01 its file's path; None without a key."""
    name = record.private.get(NAME)
    return name if name is None or target.release.keyring else target.shared.target_key_path(name)
