"""gRPC's own services, as clients and tools of any language use them: reflection (v1 and v1alpha) and health."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from tests.security.served import GRPC, serving
from tests.support.bridge import METHODS, Bridge
from tests.support.embedded import embedded
from tests.support.patience import HOUR_S, PATIENCE_S

SERVICES = sorted({method.containing_service.full_name for method in METHODS.values()})
HEALTH = "grpc.health.v1.Health"
REFLECTION = {version: f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")}
UNARY = [f"/{method.containing_service.full_name}/{method.name}" for method in METHODS.values()]
STANDARD = [f"/{HEALTH}/{method}" for method in ("Check", "List", "Watch")]
STANDARD += [f"/{name}/ServerReflectionInfo" for name in REFLECTION.values()]
GARBLED = (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05abc")
NO_UTF8 = b"\x0a\x02\xc3\x28"

Ask = reflection_pb2.ServerReflectionRequest
Answer = reflection_pb2.ServerReflectionResponse


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A bridge with its own emulated target."""
    with embedded(tmp_path_factory.mktemp("standard")) as started:
        yield started


def reflected(daemon: Bridge, version: str, *asked: Ask) -> list[Answer]:
    """The answers to questions that come in one stream."""
    ask: Any = daemon.channel.stream_stream(
        f"/{REFLECTION[version]}/ServerReflectionInfo",
        request_serializer=Ask.SerializeToString,
        response_deserializer=Answer.FromString,
    )
    return list(ask(iter(asked), timeout=PATIENCE_S))


def files(daemon: Bridge, symbol: str) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """The file that a name is in, and what it needs."""
    (answer,) = reflected(daemon, "v1", Ask(file_containing_symbol=symbol))
    protos = answer.file_descriptor_response.file_descriptor_proto
    parsed = [descriptor_pb2.FileDescriptorProto.FromString(text) for text in protos]
    return {file.name: file for file in parsed}


class TestReflection:
    @pytest.mark.parametrize("version", REFLECTION)
    def test_every_service_is_listed(self, daemon: Bridge, version: str) -> None:
        (answer,) = reflected(daemon, version, Ask(list_services=""))
        listed = [service.name for service in answer.list_services_response.service]
        assert listed == sorted([*SERVICES, HEALTH, *REFLECTION.values()])

    @pytest.mark.parametrize("symbol", [*SERVICES, HEALTH, *REFLECTION.values()])
    def test_what_is_listed_can_be_described_by_either_version(self, daemon: Bridge, symbol: str) -> None:
        asked = [Ask(file_containing_symbol=symbol), Ask(file_containing_symbol=f"{symbol}.NoSuchMethod")]
        stable, alpha = (reflected(daemon, version, *asked) for version in REFLECTION)
        assert stable == alpha
        first = descriptor_pb2.FileDescriptorProto.FromString(
            stable[0].file_descriptor_response.file_descriptor_proto[0]
        )
        assert symbol in {f"{first.package}.{service.name}" for service in first.service}
        assert stable[1].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]

    def test_what_depends_on_what_comes_along(self, daemon: Bridge) -> None:
        for symbol in SERVICES:
            sent = files(daemon, symbol)
            assert {other for file in sent.values() for other in file.dependency} <= set(sent)

    def test_files_methods_messages_errors_details_and_options_are_found(self, daemon: Bridge) -> None:
        option = Ask()
        option.file_containing_extension.containing_type = "google.protobuf.MethodOptions"
        option.file_containing_extension.extension_number = 72295728  # google.api.http
        asked = [
            Ask(file_by_filename="storage/backend_null.proto"),
            Ask(file_containing_symbol="opi_api.storage.v1.NullVolumeService.GetNullVolume"),
            Ask(file_containing_symbol="opi_api.storage.v1.NullVolume"),
            Ask(file_containing_symbol="google.rpc.BadRequest"),
            option,
            Ask(all_extension_numbers_of_type="google.protobuf.MethodOptions"),
        ]
        answers = reflected(daemon, "v1", *asked)
        assert [answer.WhichOneof("message_response") for answer in answers] == [
            *["file_descriptor_response"] * 5, "all_extension_numbers_response",
        ]  # fmt: skip
        assert 72295728 in answers[-1].all_extension_numbers_response.extension_number
        assert [answer.original_request for answer in answers] == asked

    def test_what_there_is_not_is_not_found_and_the_stream_goes_on(self, daemon: Bridge) -> None:
        option = Ask()
        option.file_containing_extension.containing_type = "google.protobuf.MethodOptions"
        option.file_containing_extension.extension_number = 1
        missing = [
            Ask(file_by_filename="none"), Ask(file_by_filename=""), Ask(file_containing_symbol="none"),
            Ask(file_containing_symbol="a.b\0c"), option, Ask(all_extension_numbers_of_type="none"),
        ]  # fmt: skip
        *refused, last = reflected(daemon, "v1", *missing, Ask())
        assert {answer.error_response.error_code for answer in refused} == {grpc.StatusCode.NOT_FOUND.value[0]}
        assert last.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]

    def test_files_are_as_protoc_makes_them_with_json_names(self, daemon: Bridge) -> None:
        made = (resources.files("opi_spdk_bridge.pb") / "contract.binpb").read_bytes()
        seen = 0
        for file in descriptor_pb2.FileDescriptorSet.FromString(made).file:
            file.ClearField("source_code_info")
            for service in file.service:
                assert files(daemon, f"{file.package}.{service.name}")[file.name] == file
                seen += 1
        assert seen == len(SERVICES)

    def test_every_field_of_every_file_has_its_json_name(self, daemon: Bridge) -> None:
        named = 0
        for symbol in (*SERVICES, HEALTH, *REFLECTION.values(), "google.rpc.BadRequest"):
            for file in files(daemon, symbol).values():
                for field in _fields(file):
                    assert field.json_name, f"{file.name}: {field.name}"
                    named += 1
        assert named > 500


def _fields(scope: Any) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    yield from scope.extension
    for message in scope.message_type if hasattr(scope, "message_type") else scope.nested_type:
        yield from message.field
        yield from _fields(message)


class TestHealth:
    def test_list_tells_every_service_and_the_whole(self, daemon: Bridge) -> None:
        stub: Any = health_pb2_grpc.HealthStub(daemon.channel)
        messages: Any = health_pb2  # whose type stubs know no List
        statuses = stub.List(messages.HealthListRequest(), timeout=PATIENCE_S).statuses
        assert {name: status.status for name, status in statuses.items()} == dict.fromkeys(["", *SERVICES], 1)

    def test_a_service_that_is_not_there_is_not_found_by_name(self, daemon: Bridge) -> None:
        stub: Any = health_pb2_grpc.HealthStub(daemon.channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Check(health_pb2.HealthCheckRequest(service="none.Such"), timeout=PATIENCE_S)
        problem: Any = refused.value
        assert problem.code() is grpc.StatusCode.NOT_FOUND
        assert "none.Such" in problem.details()

    async def test_watchers_are_told_of_every_change_and_end_with_the_server(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            served = await stack.enter_async_context(serving(http=[]))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(served.at(GRPC)))
            stub: Any = health_pb2_grpc.HealthStub(channel)
            known, unknown = (stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "none"))
            assert [(await watch.read()).status for watch in (known, unknown)] == [2, 3]
            for serves, status in ((True, 1), (False, 2), (True, 1)):
                served.grpc.set_serving(serves)
                assert (await known.read()).status == status
            stopping = served.grpc.stop(HOUR_S)  # far longer than anybody would wait
            _, last = await _both(stopping, known.read())
            assert last.status == 2
            assert [await watch.read() for watch in (known, unknown)] == [grpc.aio.EOF] * 2


async def _both(first: Any, second: Any) -> Any:
    return await asyncio.wait_for(asyncio.gather(first, second), PATIENCE_S)


def raw(daemon: Bridge, path: str, request: bytes) -> Any:
    """The error that a request of any bytes ends in."""
    invoke: Any = daemon.channel.stream_stream(
        path, request_serializer=lambda item: item, response_deserializer=lambda item: item
    )
    with pytest.raises(grpc.RpcError) as refused:
        list(invoke(iter([request]), timeout=PATIENCE_S))
    return refused.value


@pytest.mark.parametrize("path", [*STANDARD, *UNARY])
def test_what_cannot_be_read_is_refused_in_words_of_the_api(daemon: Bridge, path: str) -> None:
    texts = [NO_UTF8] if path in STANDARD and not path.endswith("List") else []
    for request in (*GARBLED, *texts):
        problem = raw(daemon, path, request)
        assert problem.code() is grpc.StatusCode.INVALID_ARGUMENT, problem.details()
        assert problem.details().startswith("what came is no ")
        status = rpc_status.from_call(problem)
        assert status is not None
        reason = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(reason)
        assert reason.reason == "INVALID_ARGUMENT"
    assert "Traceback" not in daemon.log
