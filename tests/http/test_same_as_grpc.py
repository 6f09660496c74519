"""For every RPC of the contract: what HTTP answers is what gRPC answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from google.protobuf import json_format, message_factory
from google.rpc import code_pb2

from tests.http.web import Web
from tests.http.world import Made, snake
from tests.kinds.world import NOUNS, plural
from tests.support.bridge import METHODS, CallError


def _as_message(method: str, answer: httpx.Response) -> dict[str, Any]:
    """The answer over HTTP in the form that calls over gRPC have here."""
    assert answer.status_code == 200, answer.text
    message = message_factory.GetMessageClass(METHODS[method].output_type)()
    json_format.ParseDict(answer.json(), message)
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _named(verb: str) -> list[str]:
    """The RPCs of that verb, one for each kind."""
    return [f"{verb}{plural(noun) if verb == 'List' else noun}" for noun in NOUNS]


def test_every_rpc_is_compared() -> None:
    verbs = ("Create", "Get", "List", "Update", "Delete", "Stats")
    others = ["ListNvmeRemoteNamespaces", "GetNvmeRemoteNamespace", "GetInventory", "ResetNvmeRemoteController"]
    assert sorted([*(name for verb in verbs for name in _named(verb)), *others]) == sorted(METHODS)


@pytest.mark.parametrize("method", _named("Create"))
def test_create(served: Web, world: dict[str, Made], method: str) -> None:
    noun = method.removeprefix("Create")
    made, field = world[noun], snake(noun)
    over_grpc = served.call(method, {field: made.body, f"{field}_id": made.id, **made.parent})
    over_http = served.http.post(f"/v1/{made.collection}?{field}_id={made.id}", json=made.body)
    assert _as_message(method, over_http) == over_grpc
    assert over_http.json()["name"] == made.name


@pytest.mark.parametrize("method", _named("Get"))
def test_get(served: Web, world: dict[str, Made], method: str) -> None:
    name = world[method.removeprefix("Get")].name
    assert _as_message(method, served.http.get(f"/v1/{name}")) == served.call(method, {"name": name})


@pytest.mark.parametrize("noun", NOUNS)
def test_list(served: Web, world: dict[str, Made], noun: str) -> None:
    made, method = world[noun], f"List{plural(noun)}"
    over_http = _as_message(method, served.http.get(f"/v1/{made.collection}"))
    assert over_http == served.call(method, made.parent)
    assert made.name in [item["name"] for items in over_http.values() for item in items]


@pytest.mark.parametrize("method", _named("Stats"))
def test_stats(served: Web, world: dict[str, Made], method: str) -> None:
    name = world[method.removeprefix("Stats")].name
    assert _as_message(method, served.http.get(f"/v1/{name}:stats")) == served.call(method, {"name": name})


@pytest.mark.parametrize("method", _named("Update"))
def test_update(served: Web, world: dict[str, Made], method: str) -> None:
    noun = method.removeprefix("Update")
    made = world[noun]
    over_http = served.http.patch(f"/v1/{made.name}", json=made.body)
    assert _as_message(method, over_http) == served.call(method, {snake(noun): {**made.body, "name": made.name}})


@pytest.mark.parametrize("method", _named("Delete"))
def test_delete_of_what_is_missing(served: Web, world: dict[str, Made], method: str) -> None:
    name = f"{world[method.removeprefix('Delete')].collection}/absent"
    answer = served.http.delete(f"/v1/{name}")
    with pytest.raises(CallError) as caught:
        served.call(method, {"name": name})
    assert answer.status_code == 404
    assert (code_pb2.Code.Name(answer.json()["code"]), answer.json()["message"]) == (
        caught.value.code,
        caught.value.message,
    )
    over_http = served.http.delete(f"/v1/{name}?allowMissing=true")
    assert _as_message(method, over_http) == served.call(method, {"name": name, "allow_missing": True})


@pytest.mark.parametrize("noun", ["MallocVolume", "NvmeSubsystem", "NvmeRemoteController"])
def test_delete_of_what_is_in_use(served: Web, world: dict[str, Made], noun: str) -> None:
    answer = served.http.delete(f"/v1/{world[noun].name}")
    with pytest.raises(CallError) as caught:
        served.call(f"Delete{noun}", {"name": world[noun].name})
    assert answer.status_code == 400
    assert answer.json()["message"] == caught.value.message


def test_reset(served: Web, world: dict[str, Made]) -> None:
    name = world["NvmeRemoteController"].name
    assert served.http.post(f"/v1/{name}:reset", json={}).json() == {}
    assert served.http.post(f"/v1/{name}:reset").json() == {}
    assert served.call("ResetNvmeRemoteController", {"name": name}) == {}


def test_remote_namespaces(served: Web, world: dict[str, Made]) -> None:
    parent = world["NvmeRemoteController"].name
    listed = served.http.get(f"/v1/{parent}/nvmeRemoteNamespaces")
    over_grpc = served.call("ListNvmeRemoteNamespaces", {"parent": parent})
    assert _as_message("ListNvmeRemoteNamespaces", listed) == over_grpc
    name = over_grpc["nvme_remote_namespaces"][0]["name"]
    got = served.http.get(f"/v1/{name}")
    assert _as_message("GetNvmeRemoteNamespace", got) == served.call("GetNvmeRemoteNamespace", {"name": name})


def test_inventory(served: Web) -> None:
    over_http = _as_message("GetInventory", served.http.get("/v1/inventory/a/inventory/b"))
    over_grpc = served.call("GetInventory", {"name": ""})
    for answer in (over_http, over_grpc):
        answer["memory"].pop("total_usable_bytes")
    assert over_http == over_grpc


def test_pages_follow_each_other_over_both(served: Web) -> None:
    for number in range(3):
        served.call("CreateNullVolume", {"null_volume_id": f"page{number}", "null_volume": _SMALL})
    first = served.http.get("/v1/nullVolumes?page_size=2").json()
    request = {"page_size": 2, "page_token": first["nextPageToken"]}
    over_grpc = served.call("ListNullVolumes", request)
    over_http = served.http.get("/v1/nullVolumes", params=request)
    assert _as_message("ListNullVolumes", over_http) == over_grpc
    for number in range(3):
        served.call("DeleteNullVolume", {"name": f"nullVolumes/page{number}"})


_SMALL = {"block_size": 512, "blocks_count": 8}


def test_everything_can_be_deleted_over_http(served: Web, world: dict[str, Made]) -> None:
    for noun, made in reversed(world.items()):
        answer = served.http.delete(f"/v1/{made.name}")
        assert (answer.status_code, answer.json()) == (200, {}), answer.text
        with pytest.raises(CallError, match="NOT_FOUND"):
            served.call(f"Get{noun}", {"name": made.name})
