"""JSON schemas (2020-12, as OpenAPI 3.1 has them) of the contract's messages in ProtoJSON.

A resource has up to two: as it is answered and as it is patched, where nothing is required; and `…Create`, as it is
created, where what is required is, and what only the server sets is left out. What is only answered requires the
fields that are always there (`protojson`).
"""

from __future__ import annotations

from typing import Any

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import FieldDescriptor

from opi_spdk_bridge.api.comments import comments
from opi_spdk_bridge.api.protojson import always_shown
from opi_spdk_bridge.core.names import ID

Schema = dict[str, Any]
Descriptor = Any  # a message or field descriptor: which class it is depends on the protobuf runtime

_INT64 = r"^-?(0|[1-9][0-9]{0,18})$"
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": _INT64},
}
_SERVER_SETS = frozenset({field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER})
RESOURCE_ID: Schema = {"type": "string", "pattern": f"^{ID.pattern}$", "maxLength": 63}

STATUS: Schema = {
    "type": "object",
    "description": "An error (google.rpc.Status).",
    "required": ["code", "message"],
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "The gRPC code (google.rpc.Code)."},
        "message": {"type": "string", "description": "What is wrong and what would be right."},
        "details": {
            "type": "array",
            "description": "google.rpc.ErrorInfo; BadRequest, which names the field; ResourceInfo.",
            "items": {
                "type": "object",
                "required": ["@type"],
                "properties": {"@type": {"type": "string"}},
                "additionalProperties": True,
            },
        },
    },
}


class Schemas:
    """The schemas in use, by their name in the description's components."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {"Status": STATUS}

    def message(self, message: Descriptor, *, create: bool = False) -> Schema:
        """A reference to the schema of a message, which is added where it is new."""
        name = f"{message.name}Create" if create else message.name
        if name not in self.components:
            self.components[name] = {}  # breaks cycles
            self.components[name] = self._object(message, create)
        return {"$ref": f"#/components/schemas/{name}"}

    def answer(self, message: Descriptor) -> Schema:
        """A reference to the schema of what a method answers."""
        reference = self.message(message)
        always = [field.json_name for field in message.fields if always_shown(field)]
        if always and not message.GetOptions().Extensions[resource_pb2.resource].pattern:
            self.components[message.name]["required"] = always
        return reference

    def _object(self, message: Descriptor, create: bool) -> Schema:
        fields = [field for field in message.fields if not (create and behaviors(field) & _SERVER_SETS)]
        required = [field.json_name for field in fields if field_behavior_pb2.REQUIRED in behaviors(field)]
        schema: Schema = {
            "type": "object",
            **described(message.full_name),
            "properties": {field.json_name: self._property(field, create) for field in fields},
        }
        if create:
            schema["additionalProperties"] = False
            if required:
                schema["required"] = required
        return schema

    def _property(self, field: Descriptor, create: bool) -> Schema:
        known = behaviors(field)
        names = sorted(field_behavior_pb2.FieldBehavior.Name(number) for number in known)
        return {
            **self.value(field, create=create),
            **described(field.full_name),
            **({"readOnly": True} if known & _SERVER_SETS else {}),
            **({"writeOnly": True} if field_behavior_pb2.INPUT_ONLY in known else {}),
            **({"x-field-behavior": names} if names else {}),
        }

    def value(self, field: Descriptor, *, create: bool = False) -> Schema:
        """The schema of a field's value."""
        one = self._one(field, create)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: Descriptor, create: bool) -> Schema:
        message = field.message_type
        if message is None:
            return enum(field.enum_type) if field.enum_type is not None else dict(_SCALARS[field.type])
        if message.file.name == "google/protobuf/wrappers.proto":
            return self._one(message.fields_by_name["value"], create)
        if message.full_name == "google.protobuf.FieldMask":
            return {"type": "string"}
        return self.message(message, create=create)


def enum(descriptor: Descriptor) -> Schema:
    """The schema of an enum: its values by name."""
    return {"type": "string", "enum": [value.name for value in descriptor.values]}


def behaviors(field: Descriptor) -> frozenset[int]:
    """The field's google.api.field_behavior."""
    return frozenset(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def described(full_name: str) -> Schema:
    """The comment of something, as an entry of its schema."""
    text = comments().get(full_name)
    return {"description": text} if text else {}
