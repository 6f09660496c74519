"""Names in answers in the API's older style (`volumes/x`), for the clients that expect it."""

from __future__ import annotations

import functools
from typing import Any

from google.api import resource_pb2
from google.protobuf.message import Message

_NVME = "nvme"  # these kinds had their own collections from the start


def legacy_names(answer: Message) -> Message:
    """The answer with the names of volumes and virtio devices in the older style; changed in place."""
    if _is_legacy(answer.DESCRIPTOR):
        _rename(answer)
    for field in answer.DESCRIPTOR.fields:
        if field.is_repeated and field.message_type is not None and _is_legacy(field.message_type):
            for item in getattr(answer, field.name):
                _rename(item)
    return answer


def _rename(resource: Any) -> None:
    resource.name = f"volumes/{resource.name.rpartition('/')[2]}"


@functools.cache
def _is_legacy(message: Any) -> bool:
    resource = message.GetOptions().Extensions[resource_pb2.resource]
    return bool(resource.pattern) and not resource.singular.startswith(_NVME)
