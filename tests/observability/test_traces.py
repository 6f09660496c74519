"""Traces, as a collector receives them."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opi_spdk_bridge.pb.storage import backend_null_pb2
from opi_spdk_bridge.telemetry import traces
from tests.http.web import Web, web
from tests.observability.collector import Collector, collector
from tests.support.bridge import CallError
from tests.support.patience import HOUR_S
from tests.support.target import Emulator

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NULL = {"block_size": 512, "blocks_count": 2048}
KEY = base64.b64encode(b"a key of the trace tests, secret").decode()
SERVICE = "opi_api.storage.v1.NullVolumeService"
ERROR = 2  # opentelemetry.proto.trace.v1.Status.STATUS_CODE_ERROR
SERVER, CLIENT = 2, 3


@pytest.fixture(scope="module")
def received(folder: Path, near: Emulator) -> Iterator[Collector]:
    """What a collector has received of some requests; the bridge that served them has ended."""
    with collector() as here, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", here.url)
        with web(folder, spdk=near.socket, state="memory:") as bridge:
            environment.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
            _work(bridge)
            bridge.stop()
        yield here


def _work(bridge: Web) -> None:
    bridge.call("CreateNullVolume", {"null_volume_id": "traced", "null_volume": NULL})
    with pytest.raises(CallError, match="NOT_FOUND"):
        bridge.call("DeleteNullVolume", {"name": "nullVolumes/nowhere-to-be-found"})
    invoke: Any = bridge.channel.unary_unary(
        f"/{SERVICE}/ListNullVolumes",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=backend_null_pb2.ListNullVolumesResponse.FromString,
    )
    invoke(backend_null_pb2.ListNullVolumesRequest(), metadata=(("traceparent", TRACEPARENT),))
    bridge.http.get("/v1/nullVolumes/traced", headers={"traceparent": TRACEPARENT})
    bridge.call("CreateMallocVolume", {"malloc_volume_id": "plain", "malloc_volume": NULL})
    encrypted = {"volume_name_ref": "plain", "key": KEY, "cipher": "ENCRYPTION_TYPE_AES_XTS_128"}
    bridge.call("CreateEncryptedVolume", {"encrypted_volume_id": "e", "encrypted_volume": encrypted})
    for kind, name in (("Encrypted", "e"), ("Malloc", "plain"), ("Null", "traced")):
        bridge.call(f"Delete{kind}Volume", {"name": f"{kind.lower()}Volumes/{name}"})


def _attributes(span: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


def test_a_request_is_a_span_with_each_call_to_the_target_below_it(received: Collector) -> None:
    (span,) = received.spans(f"{SERVICE}/CreateNullVolume")
    assert (span.kind, span.parent_span_id) == (SERVER, b"")
    assert _attributes(span) == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "CreateNullVolume",
        "rpc.response.status_code": "OK",
    }
    assert "bdev_null_create" in received.children(span)
    (call,) = received.spans("bdev_null_create")
    assert (call.kind, call.trace_id) == (CLIENT, span.trace_id)
    assert span.start_time_unix_nano <= call.start_time_unix_nano <= call.end_time_unix_nano <= span.end_time_unix_nano


@pytest.mark.parametrize("method", ["ListNullVolumes", "GetNullVolume"], ids=["grpc metadata", "http headers"])
def test_a_request_continues_the_trace_of_its_client(received: Collector, method: str) -> None:
    (span,) = received.spans(f"{SERVICE}/{method}")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


def test_what_fails_by_the_clients_fault_is_told_but_no_error_of_the_server(received: Collector) -> None:
    (span,) = [
        span for span in received.spans("/DeleteNullVolume") if _attributes(span)["rpc.response.status_code"] != "OK"
    ]
    assert _attributes(span)["rpc.response.status_code"] == "NOT_FOUND"
    assert span.status.code != ERROR
    assert list(span.events) == []


def test_the_service_is_named(received: Collector) -> None:
    assert {resource["service.name"] for resource in received.resources} == {"opi-spdk-bridge"}


def test_nothing_of_requests_is_in_it(received: Collector) -> None:
    everything = b"".join(received.bodies)
    assert b"CreateEncryptedVolume" in everything, "what is looked into is readable"
    key = base64.b64decode(KEY)
    for payload in (b"traced", b"nowhere-to-be-found", b"plain", KEY.encode(), key, key[:16].hex().encode()):
        assert payload not in everything


def test_without_the_variable_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert traces.observer() is None


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "says nothing"])
def test_a_collector_that_is_away_holds_nothing_up(
    tmp_path: Path, near: Emulator, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(HOUR_S))
        with web(tmp_path, spdk=near.socket, state="memory:") as bridge:
            bridge.call("ListNullVolumes")
            assert bridge.stop() == 0
    assert traces._FLUSH_S == 2, "as docs/observability.md says"
