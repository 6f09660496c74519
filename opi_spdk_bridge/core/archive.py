"""Desired state as JSON, to be kept elsewhere or moved to another store; secrets only where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from opi_spdk_bridge import errors
from opi_spdk_bridge.core import fields
from opi_spdk_bridge.core.kind import AnyKind
from opi_spdk_bridge.core.record import AnyRecord, Phase, Record, from_json, to_json

FORMAT = 1


def dump(records: Sequence[AnyRecord], kinds: Mapping[str, AnyKind], *, with_secrets: bool) -> dict[str, Any]:
    """The records as a JSON object. Without secrets, `omitted` of a record lists the fields that are missing."""
    return {"format": FORMAT, "records": [_dump(record, kinds[record.kind], with_secrets) for record in records]}


def _dump(record: AnyRecord, kind: AnyKind, with_secrets: bool) -> dict[str, Any]:
    secret = [path for path in kind.secrets if fields.has(record.desired, path)]
    plain, _ = fields.split(record.desired, () if with_secrets else secret)
    assigned, private = to_json(record.own)
    shown = {
        "kind": record.kind,
        "name": record.name,
        "phase": record.phase.value,
        "resource": json_format.MessageToDict(plain, preserving_proto_field_name=True),
        "assigned": assigned,
        "private": private,
        "stands_on": list(record.stands_on),
        "revision": record.revision,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
    return shown if with_secrets or not secret else {**shown, "omitted": secret}


def load(archive: Any, kinds: Mapping[str, AnyKind]) -> list[AnyRecord]:
    """The records of an archive; raises InvalidArgument for what is not one, or lacks secrets.

    Half-done changes come back in their phase, for the reconciler to finish; a half-done update as what it led to.
    """
    if not isinstance(archive, dict) or archive.get("format") != FORMAT:
        raise errors.InvalidArgument(f"this is no state of format {FORMAT} as `state export` writes it")
    try:
        return [_load(item, kinds) for item in archive["records"]]
    except (KeyError, TypeError, ValueError, json_format.ParseError) as problem:
        raise errors.InvalidArgument(f"the exported state cannot be read: {problem}") from problem


def _load(item: Mapping[str, Any], kinds: Mapping[str, AnyKind]) -> AnyRecord:
    if item.get("omitted"):
        text = f"{item['name']} was exported without its secrets ({', '.join(item['omitted'])}): export --with-secrets"
        raise errors.InvalidArgument(text, resource=item["name"])
    phase = Phase(item["phase"])
    return Record(
        kind=item["kind"],
        name=item["name"],
        desired=json_format.ParseDict(item["resource"], kinds[item["kind"]].message()),
        phase=Phase.READY if phase is Phase.UPDATING else phase,
        revision=item["revision"],
        created_at=item["created_at"],
        updated_at=item["updated_at"],
        own=from_json(kinds[item["kind"]].own, item["assigned"], item["private"]),
        stands_on=tuple(item["stands_on"]),
    )
