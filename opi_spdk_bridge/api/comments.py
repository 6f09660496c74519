"""The comments of the contract's .proto files, by the full name of what they are about.

Descriptors in generated modules have none, so the build keeps the files' descriptor set with its comments beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2

_SET = "contract.binpb"
# Numbers of the fields of FileDescriptorProto, DescriptorProto, … that lead to what has a comment, and their names.
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "FileDescriptorProto": {4: "message_type", 5: "enum_type", 6: "service"},
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}


@functools.cache
def comments() -> Mapping[str, str]:
    """Every comment, its lines joined; nothing where the package was built without the descriptor set."""
    kept = resources.files("opi_spdk_bridge.pb") / _SET
    if not kept.is_file():
        return {}
    files = descriptor_pb2.FileDescriptorSet.FromString(kept.read_bytes()).file
    return {name: text for file in files for name, text in _of_file(file)}


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        name = _name(file, location.path)
        if name and location.leading_comments:
            yield f"{file.package}.{name}", " ".join(location.leading_comments.split())


def _name(file: descriptor_pb2.FileDescriptorProto, path: Sequence[int]) -> str:
    """The name below the package that a location's path leads to; "" for what is not described here."""
    item: Any = file
    names = []
    for number, index in zip(path[::2], path[1::2], strict=False):
        child = _CHILDREN.get(type(item).__name__, {}).get(number)
        if child is None:
            return ""
        item = getattr(item, child)[index]
        names.append(item.name)
    return ".".join(names) if len(path) % 2 == 0 else ""
