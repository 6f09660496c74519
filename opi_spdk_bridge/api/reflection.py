"""Server reflection, grpc.reflection.v1 and v1alpha: the descriptors of what is served and of what errors carry.

Both versions have the same messages on the wire. Generated modules drop the `json_name` of fields, which clients print
and read JSON by; it is put back, as protoc has it in descriptor sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2 as alpha

from opi_spdk_bridge.api import handlers

_ALPHA = alpha.DESCRIPTOR.services_by_name["ServerReflection"].full_name
NAMES = (_ALPHA.replace("v1alpha", "v1"), _ALPHA)
_IN_ERRORS = (error_details_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR)

_File = descriptor_pb2.FileDescriptorProto
_Descriptor = Any  # of a file or a message: which class it is depends on the protobuf runtime


class Reflection:
    """Answers questions about the services of those names, which are in the default pool, and about itself."""

    def __init__(self, services: Iterable[str]) -> None:
        known = descriptor_pool.Default()
        served = [known.FindFileContainingSymbol(name) for name in services]
        self._services = sorted({*services, *NAMES})
        self._pool = descriptor_pool.DescriptorPool()
        self._files: dict[str, bytes] = {}
        for file in (*served, alpha.DESCRIPTOR, *_IN_ERRORS):
            self._take(file)
        self._add(_named_in_json(_stable(), alpha.DESCRIPTOR))

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The service in both versions, for a gRPC server."""
        answers = {"ServerReflectionInfo": handlers.each(alpha.ServerReflectionRequest, self._answer)}
        return [grpc.method_handlers_generic_handler(name, answers) for name in NAMES]

    def _take(self, file: _Descriptor) -> None:
        if file.name not in self._files:
            for other in file.dependencies:
                self._take(other)
            proto = _File()
            file.CopyToProto(proto)
            self._add(_named_in_json(proto, file))

    def _add(self, file: _File) -> None:
        self._files[file.name] = file.SerializeToString()
        self._pool.AddSerializedFile(self._files[file.name])

    def _answer(self, request: alpha.ServerReflectionRequest) -> alpha.ServerReflectionResponse:
        answer = alpha.ServerReflectionResponse(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                named = [alpha.ServiceResponse(name=name) for name in self._services]
                answer.list_services_response.service.extend(named)
            elif asked == "all_extension_numbers_of_type":
                extended = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(extended))
                found = answer.all_extension_numbers_response
                found.base_type_name = extended.full_name
                found.extension_number.extend(numbers)
            elif asked is not None:
                files = _with_dependencies(self._file(request, asked))
                answer.file_descriptor_response.file_descriptor_proto.extend(self._files[name] for name in files)
            else:
                answer.error_response.error_code = code_pb2.INVALID_ARGUMENT
                answer.error_response.error_message = "the request asks for nothing that this server knows of"
        except KeyError:
            answer.error_response.error_code = code_pb2.NOT_FOUND
            answer.error_response.error_message = f"{asked}: there is none of that name"
        return answer

    def _file(self, request: alpha.ServerReflectionRequest, asked: str) -> _Descriptor:
        """The file that is asked for; raises KeyError."""
        if asked == "file_by_filename":
            return self._pool.FindFileByName(request.file_by_filename)
        if asked == "file_containing_symbol":
            return self._containing(request.file_containing_symbol)
        wanted = request.file_containing_extension
        extended = self._pool.FindMessageTypeByName(wanted.containing_type)
        extension = self._pool.FindExtensionByNumber(extended, wanted.extension_number)
        return self._pool.FindFileContainingSymbol(extension.full_name)

    def _containing(self, symbol: str) -> _Descriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # the pool does not find methods
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _stable() -> _File:
    """v1 of the service: v1alpha under another name (grpc/reflection/v1/reflection.proto of grpc-proto)."""
    proto = _File()
    alpha.DESCRIPTOR.CopyToProto(proto)
    renamed = text_format.Parse(text_format.MessageToString(proto).replace("v1alpha", "v1"), _File())
    renamed.name = "grpc/reflection/v1/reflection.proto"
    renamed.options.ClearField("deprecated")
    return renamed


def _named_in_json(proto: _File, file: _Descriptor) -> _File:
    """The file with the `json_name` of every field."""
    for message in proto.message_type:
        _name_in_json(message, file.message_types_by_name[message.name])
    for extension in proto.extension:
        extension.json_name = file.extensions_by_name[extension.name].json_name
    return proto


def _name_in_json(proto: descriptor_pb2.DescriptorProto, message: _Descriptor) -> None:
    for field in proto.field:
        field.json_name = message.fields_by_name[field.name].json_name
    for nested in proto.nested_type:
        _name_in_json(nested, message.nested_types_by_name[nested.name])


def _with_dependencies(file: _Descriptor) -> Iterator[str]:
    """The names of the file and of all that it needs, each once."""
    wanted, seen = [file], set()
    while wanted:
        item = wanted.pop()
        if item.name not in seen:
            seen.add(item.name)
            wanted += item.dependencies
            yield item.name
