"""A client of any gRPC server with reflection: descriptors come from the server, requests and answers are JSON."""

from __future__ import annotations

import difflib
from types import TracebackType
from typing import Any

import click
import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

_OWN = ("grpc.reflection.", "grpc.health.")


class Reflected:
    """Calls methods on the server at `address`; raises click.ClickException with what the server said."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address)
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._database)
        self._methods: dict[str, Any] | None = None

    def __enter__(self) -> Reflected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def methods(self) -> dict[str, Any]:
        """The descriptors of the server's methods by their full name."""
        if self._methods is None:
            try:
                grpc.channel_ready_future(self._channel).result(timeout=min(self._timeout_s, 5.0))
                names = self._database.get_services()
            except (grpc.FutureTimeoutError, grpc.RpcError):
                text = f"nothing answers gRPC at {self._address}: is `opi-spdk-bridge serve` running? (see --address)"
                raise click.ClickException(text) from None
            services = [self._pool.FindServiceByName(name) for name in names if not name.startswith(_OWN)]
            self._methods = {method.full_name: method for service in services for method in service.methods}
        return self._methods

    def call(self, name: str, request: str) -> dict[str, Any]:
        """Calls a method by its short name, Service/Method or full name, with a request in protobuf's JSON."""
        method = self._find(name)
        message = message_factory.GetMessageClass(method.input_type)()
        try:
            json_format.Parse(request, message, descriptor_pool=self._pool)
        except json_format.ParseError as problem:
            fields = ", ".join(field.name for field in method.input_type.fields)
            text = f"the request is no {method.input_type.name}: {problem}\nIts fields are: {fields}"
            raise click.ClickException(text) from None
        answer = self._unary(method, message)
        return dict(json_format.MessageToDict(answer, preserving_proto_field_name=True, descriptor_pool=self._pool))

    def _find(self, name: str) -> Any:
        wanted = name.replace("/", ".")
        found = [method for full, method in self.methods().items() if full == wanted or full.endswith(f".{wanted}")]
        if len(found) == 1:
            return found[0]
        short = sorted(method.name for method in self.methods().values())
        close = difflib.get_close_matches(name, short, n=3) or short
        raise click.ClickException(f"the server has no method {name}. It has: {', '.join(close)}")

    def _unary(self, method: Any, message: Any) -> Any:
        path = f"/{method.containing_service.full_name}/{method.name}"
        response = message_factory.GetMessageClass(method.output_type)
        invoke: Any = self._channel.unary_unary(
            path, request_serializer=lambda item: item.SerializeToString(), response_deserializer=response.FromString
        )
        try:
            return invoke(message, timeout=self._timeout_s)
        except grpc.RpcError as problem:
            raise click.ClickException(_explain(problem)) from None


def _explain(problem: Any) -> str:
    """The code and message, and the details where the server sent some."""
    text = f"{problem.code().name}: {problem.details()}"
    status = rpc_status.from_call(problem)
    if status is None:
        return text
    for packed in status.details:
        request = error_details_pb2.BadRequest()
        if packed.Unpack(request):
            return f"{text} (field {request.field_violations[0].field})"
    return text
