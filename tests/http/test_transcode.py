"""Requests from paths, queries and bodies."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.routes import Route, Routes, Template
from opi_spdk_bridge.api.transcode import to_request
from tests.http.contract import METHODS, method

ROUTES = Routes(METHODS)


def transcode(http_method: str, url: str, body: Any = b"") -> Any:
    path, _, query = url.partition("?")
    found = ROUTES.find(http_method, path)
    assert found is not None
    return to_request(*found, query, body if isinstance(body, bytes) else orjson.dumps(body))


def refused(http_method: str, url: str, body: Any = b"") -> str:
    """The field that is named when this is refused."""
    with pytest.raises(errors.InvalidArgument) as caught:
        transcode(http_method, url, body)
    return caught.value.field


# Bodies

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    strategies = {
        field.CPPTYPE_STRING: st.binary(max_size=40) if field.type == field.TYPE_BYTES else _text,
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        field.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    }
    return strategies[field.cpp_type]


@st.composite
def _messages(draw: st.DrawFn, kind: type[Message]) -> Message:
    message = kind()
    fields: list[Any] = list(kind.DESCRIPTOR.fields)
    for field in draw(st.lists(st.sampled_from(fields), unique=True)):
        if field.message_type is None:
            setattr(message, field.name, draw(_values(field)))
        else:
            inner = getattr(message, field.name)
            inner.CopyFrom(draw(_messages(type(inner))))
            inner.SetInParent()
    return message


_CREATES = [item for item in METHODS if item.name.startswith("Create")]


def _body_of(item: Method) -> tuple[str, Route]:
    route = next(route for route in ROUTES if route.method is item)
    return route.body, route


@given(data=st.data(), create=st.sampled_from(_CREATES), camel=st.booleans())
def test_a_body_in_either_spelling_is_the_message_it_was_made_of(
    data: st.DataObject, create: Method, camel: bool
) -> None:
    field, route = _body_of(create)
    message = data.draw(_messages(type(getattr(create.request(), field))))
    tree = json_format.MessageToDict(message, preserving_proto_field_name=not camel)
    request: Any = to_request(route, {}, "", orjson.dumps(tree))
    assert getattr(request, field) == message


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data(), create=st.sampled_from(_CREATES), value=_json)
def test_any_json_in_any_field_is_taken_or_refused_with_the_field(
    data: st.DataObject, create: Method, value: Any
) -> None:
    body, route = _body_of(create)
    message = getattr(create.request(), body).DESCRIPTOR
    path = [body]
    tree = value
    while message is not None:
        field = data.draw(st.sampled_from(list(message.fields)))
        path.append(field.name)
        message = field.message_type if data.draw(st.booleans()) else None
    for name in reversed(path[1:]):
        tree = {name: tree}
    try:
        to_request(route, {}, "", json.dumps(tree).encode())
    except errors.InvalidArgument as problem:
        assert problem.field == "body" or problem.field.startswith(body)  # noqa: PT017


@given(body=st.binary(max_size=60))
def test_bytes_that_are_no_json_are_refused(body: bytes) -> None:
    try:
        transcode("POST", "/v1/nullVolumes", body)
    except errors.InvalidArgument as problem:
        assert problem.field  # noqa: PT017


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"block_size": "many"}, "null_volume.block_size"),
        ({"blockSize": 1.5}, "null_volume.block_size"),
        ({"blockSize": True}, "null_volume.block_size"),
        ({"blockSize": 2**63}, "null_volume.block_size"),
        ({"blockSize": 1e300}, "null_volume.block_size"),
        ({"uuid": 5}, "null_volume.uuid"),
        ({"colour": 1}, "null_volume.colour"),
        ({"uuid": {"a": 1}}, "null_volume.uuid"),
        ({"block_size": 1, "blockSize": 1}, "null_volume.block_size"),
        ([], "null_volume"),
        ("text", "null_volume"),
        (None, "null_volume"),
        (b"{", "body"),
        (b"\xff", "body"),
        (b"[" * 100_000, "body"),
    ],
)
def test_a_wrong_body_is_refused_with_the_field(body: Any, field: str) -> None:
    assert refused("POST", "/v1/nullVolumes", body if isinstance(body, bytes) else orjson.dumps(body)) == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"spec": {"trtype": "NVME_TRANSPORT_TYPE_SMOKE"}}, "nvme_controller.spec.trtype"),
        ({"spec": {"trtype": 99}}, "nvme_controller.spec.trtype"),
        ({"spec": {"pcie_id": {"port_id": "x"}}}, "nvme_controller.spec.pcie_id.port_id"),
        ({"spec": {"pcie_id": {"port_id": {"value": 1}}}}, "nvme_controller.spec.pcie_id.port_id"),
        ({"spec": {"pcie_id": {}, "fabrics_id": {}}}, "nvme_controller.spec.fabrics_id"),
        ({"spec": []}, "nvme_controller.spec"),
    ],
)
def test_a_wrong_nested_value_is_refused_with_its_path(body: Any, field: str) -> None:
    assert refused("POST", "/v1/nvmeSubsystems/s/nvmeControllers", body) == field


def test_an_error_does_not_repeat_what_was_given() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        transcode("POST", "/v1/encryptedVolumes", {"key": "not base64, but still a secret!"})
    assert caught.value.field == "encrypted_volume.key"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_bytes_are_base64_of_either_alphabet_padded_or_not(encode: Any) -> None:
    key = bytes(range(190, 222))
    for text in (encode(key).decode(), encode(key).decode().rstrip("=")):
        assert transcode("POST", "/v1/encryptedVolumes", {"key": text}).encrypted_volume.key == key


def test_numbers_may_be_text_and_enums_numbers_and_wrappers_are_bare() -> None:
    body = {"spec": {"trtype": 4, "max_nsq": "7", "pcieId": {"portId": "0", "physicalFunction": 2}}}
    spec = transcode("POST", "/v1/nvmeSubsystems/s/nvmeControllers", body).nvme_controller.spec
    assert (spec.trtype, spec.max_nsq) == (4, 7)
    assert spec.pcie_id.HasField("port_id")
    assert spec.pcie_id.physical_function.value == 2
    assert not spec.pcie_id.HasField("virtual_function")


def test_null_is_not_set() -> None:
    assert not transcode("POST", "/v1/nvmeSubsystems", {"spec": None}).nvme_subsystem.HasField("spec")


# Names


def test_names_come_from_the_path() -> None:
    request = transcode("PATCH", "/v1/nvmeSubsystems/s/nvmeNamespaces/n", {"name": "other", "spec": {"host_nsid": 1}})
    assert request.nvme_namespace.name == "nvmeSubsystems/s/nvmeNamespaces/n"
    assert transcode("GET", "/v1/nvmeSubsystems/s/nvmeControllers").parent == "nvmeSubsystems/s"
    assert transcode("POST", "/v1/nvmeRemoteControllers/c:reset").name == "nvmeRemoteControllers/c"
    assert transcode("POST", "/v1/nvmeRemoteControllers/c:reset", {}).name == "nvmeRemoteControllers/c"


# Update masks


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, []),
        ({"multipath": 1}, ["multipath"]),
        ({"ioQueuesCount": 0}, ["io_queues_count"]),
        ({"tcp": {"hdgst": False, "psk": None}}, ["tcp.hdgst", "tcp.psk"]),
        ({"tcp": {}}, ["tcp"]),
    ],
)
def test_a_patch_without_a_mask_changes_what_its_body_names(body: Any, paths: list[str]) -> None:
    assert list(transcode("PATCH", "/v1/nvmeRemoteControllers/c", body).update_mask.paths) == paths


@pytest.mark.parametrize("key", ["update_mask", "updateMask"])
def test_a_mask_in_the_query_counts_in_either_spelling(key: str) -> None:
    url = f"/v1/nvmeSubsystems/s?{key}=spec.maxNamespaces,spec.host_nqn"
    assert list(transcode("PATCH", url, {"spec": {"nqn": "x"}}).update_mask.paths) == [
        "spec.max_namespaces",
        "spec.host_nqn",
    ]
    assert list(transcode("PATCH", f"/v1/nvmeSubsystems/s?{key}=*", {}).update_mask.paths) == ["*"]


# Queries


@given(page_size=st.integers(-(2**31), 2**31 - 1), token=_text, camel=st.booleans())
def test_parameters_are_the_fields_of_the_request(page_size: int, token: str, camel: bool) -> None:
    names = ("pageSize", "pageToken") if camel else ("page_size", "page_token")
    query = urlencode(dict(zip(names, (page_size, token), strict=True)))
    request = transcode("GET", f"/v1/nullVolumes?{query}")
    assert (request.page_size, request.page_token) == (page_size, token)


@given(query=st.text(max_size=60))
def test_no_query_breaks_transcoding(query: str) -> None:
    for url in ("/v1/nullVolumes", "/v1/nvmeSubsystems/s/nvmeControllers"):
        try:
            transcode("GET", f"{url}?{query}")
        except errors.InvalidArgument as problem:
            assert problem.field  # noqa: PT017


@pytest.mark.parametrize(
    ("http_method", "url", "field"),
    [
        ("GET", "/v1/nullVolumes?page_size=", "page_size"),
        ("GET", "/v1/nullVolumes?page_size=5&pageSize=5", "page_size"),
        ("GET", "/v1/nullVolumes?colour=red", "colour"),
        ("GET", "/v1/nullVolumes?page_size.x=1", "page_size"),
        ("GET", "/v1/nullVolumes/x?name=y", "name"),
        ("GET", "/v1/nullVolumes?page_token=%ff", "query"),
        ("GET", "/v1/nullVolumes?" + "&".join(["page_size=1"] * 101), "query"),
        ("DELETE", "/v1/nullVolumes/x?allow_missing=yes", "allow_missing"),
        ("POST", "/v1/nullVolumes?null_volume.uuid=x", "null_volume.uuid"),
        ("POST", "/v1/nullVolumes?null_volume=x", "null_volume"),
        ("POST", "/v1/nvmeRemoteControllers/c:reset?name=x", "name"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(http_method: str, url: str, field: str) -> None:
    assert refused(http_method, url) == field


def test_truth_in_a_query_is_a_word() -> None:
    assert transcode("DELETE", "/v1/nullVolumes/x?allow_missing=true").allow_missing is True
    assert transcode("DELETE", "/v1/nullVolumes/x?allowMissing=false").allow_missing is False


def test_parameters_reach_nested_fields_enums_wrappers_and_bytes() -> None:
    """No RPC of the contract has such parameters; a route without a body gives one."""
    create = method("CreateNvmeController")
    route = Route("POST", Template.parse("/v1/{parent=nvmeSubsystems/*}/nvmeControllers"), "", create)
    query = "nvme_controller.spec.trtype=NVME_TRANSPORT_TYPE_TCP&nvmeController.spec.pcieId.portId=3"
    request: Any = to_request(route, {"parent": "nvmeSubsystems/s"}, query, b"")
    assert request.nvme_controller.spec.trtype == 4
    assert request.nvme_controller.spec.pcie_id.port_id.value == 3


def test_a_repeated_parameter_is_a_list() -> None:
    """The contract has no repeated scalars in requests: a mask's own message has one."""
    item = Method("", "", type(transcode("PATCH", "/v1/nullVolumes/x", {}).update_mask), struct_pb2.Struct, _nothing)
    route = Route("GET", Template.parse("/v1/x"), "", item)
    request: Any = to_request(route, {}, "paths=a&paths=b", b"")
    assert list(request.paths) == ["a", "b"]


async def _nothing(_request: Any) -> Message:
    raise AssertionError("not to be called")


def test_every_field_of_every_request_can_be_read() -> None:
    """No field of the contract has a type that is not read."""
    from opi_spdk_bridge.api.transcode import _SCALARS

    seen: set[str] = set()

    def visit(message: Any) -> None:
        if message.full_name in seen:
            return
        seen.add(message.full_name)
        for field in message.fields:
            if field.message_type is not None:
                visit(field.message_type)
            else:
                assert field.type in _SCALARS, field.full_name

    for item in METHODS:
        if item.name != "GetInventory":
            visit(item.request.DESCRIPTOR)
