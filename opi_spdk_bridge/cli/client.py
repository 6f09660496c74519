"""A client of any gRPC server with reflection: descriptors come from the server, requests and answers are JSON."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.sockets import too_long

_OWN = ("grpc.reflection.", "grpc.health.")


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached: host:port or unix:PATH, with TLS where any of its files is given, with a token or none.

    `tls_ca` signs the server's certificate (default: one that gRPC trusts), `tls_cert` is the client's.
    """

    address: str
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str = ""

    @property
    def encrypted(self) -> bool:
        """Whether TLS is asked for."""
        return any((self.tls_ca, self.tls_cert, self.tls_key))

    def channel(self) -> grpc.Channel:
        """A channel; raises click.ClickException where what was given does not fit or would give the token away."""
        if self.address.startswith("unix:") and (problem := too_long(self.address.removeprefix("unix:"))):
            raise click.ClickException(f"--address: {problem}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise click.ClickException("--tls-cert and --tls-key go together")
        if not self.encrypted:
            self._require_private()
            channel = grpc.insecure_channel(self.address)
        else:
            ca, key, cert = (_read(path) for path in (self.tls_ca, self.tls_key, self.tls_cert))
            channel = grpc.secure_channel(self.address, grpc.ssl_channel_credentials(ca, key, cert))
        return grpc.intercept_channel(channel, _Bearer(self.token)) if self.token else channel

    def _require_private(self) -> None:
        try:
            private = Listener.parse(self.address).is_local
        except errors.InvalidArgument:  # an address that only gRPC knows
            private = False
        if self.token and not private:
            text = f"the token would go to {self.address} in clear: give --tls-ca for a server with TLS"
            raise click.ClickException(text)


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Sends a token with each call (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._authorization = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_token(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._with_token(details), requests)

    def _with_token(self, details: Any) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), self._authorization])


class Reflected:
    """Calls methods on a server; raises click.ClickException with what the server said."""

    def __init__(self, access: Access, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._channel = access.channel()
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
                raise click.ClickException(self._silence()) from None
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

    def _silence(self) -> str:
        """Why nobody may have answered."""
        text = f"nothing answers gRPC at {self._access.address}: is `opi-spdk-bridge serve` running? (see --address"
        if self._access.encrypted:
            return f"{text}) Does it have TLS, a certificate of --tls-ca's for that name, and know yours?"
        return f"{text}, and --tls-ca for a server with TLS)"

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


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError as problem:
        raise click.ClickException(f"{path} cannot be read: {problem.strerror}") from None


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
