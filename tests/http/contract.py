"""The contract's methods, bound to nothing: what routes and descriptions are made of."""

from __future__ import annotations

from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message

from opi_spdk_bridge.api.bind import Method
from tests.support import bridge


async def _nothing(_request: Any) -> Message:
    raise AssertionError("not to be called")


METHODS: list[Method] = [
    Method(
        descriptor.containing_service.full_name,
        name,
        message_factory.GetMessageClass(descriptor.input_type),
        message_factory.GetMessageClass(descriptor.output_type),
        _nothing,
    )
    for name, descriptor in bridge.METHODS.items()
]


def method(name: str) -> Method:
    """The method of that short name."""
    return next(item for item in METHODS if item.name == name)
