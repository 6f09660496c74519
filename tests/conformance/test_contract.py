"""The wire contract: what a served bridge tells about itself by reflection."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.empty_pb2 import Empty
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.kinds.world import NOUNS, parent_noun, plural
from tests.support.bridge import METHODS, Bridge
from tests.support.embedded import embedded
from tests.support.patience import PATIENCE_S

CONTRACT_CHECK = Path(__file__).resolve().parents[3] / "shared" / "contract" / "check.py"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A bridge with its own emulated target."""
    with embedded(tmp_path_factory.mktemp("contract")) as started:
        yield started


@pytest.mark.skipif(not CONTRACT_CHECK.exists(), reason=f"{CONTRACT_CHECK} is not here: the contract is not compared")
def test_the_server_differs_in_nothing_from_the_contract(daemon: Bridge) -> None:
    command = [sys.executable, str(CONTRACT_CHECK), daemon.address]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ran.returncode == 0, ran.stdout
    assert f"{len(METHODS)} RPCs" in ran.stdout
    assert "0 differences" in ran.stdout


def test_reflection_tells_of_every_service_with_its_methods(daemon: Bridge) -> None:
    database = ProtoReflectionDescriptorDatabase(daemon.channel)
    pool = descriptor_pool.DescriptorPool(database)
    offered = {name: pool.FindServiceByName(name) for name in database.get_services() if name.startswith("opi_api.")}
    told = {method.full_name for service in offered.values() for method in service.methods}
    assert told == {method.full_name for method in METHODS.values()}


def test_every_method_has_an_http_route(daemon: Bridge) -> None:
    routes = {name: method.GetOptions().Extensions[annotations_pb2.http] for name, method in METHODS.items()}
    assert [name for name, rule in routes.items() if not rule.WhichOneof("pattern")] == []
    addresses = [(rule.WhichOneof("pattern"), getattr(rule, rule.WhichOneof("pattern"))) for rule in routes.values()]
    shared = [address for address, number in Counter(addresses).items() if number > 1]
    assert shared == [("get", "/v1/{parent=volumes}")]  # of encrypted and QoS volumes: so it is in the contract


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_implemented(daemon: Bridge, method: str) -> None:
    """An empty request is answered, or refused for what it lacks: by code that knows the method."""
    path = f"/{METHODS[method].containing_service.full_name}/{method}"
    invoke: Any = daemon.channel.unary_unary(path, request_serializer=lambda item: item.SerializeToString())
    top_lists = {f"List{plural(noun)}" for noun in NOUNS if not parent_noun(noun)}
    if method in {*top_lists, "GetInventory"}:  # older clients send any parent and any name
        invoke(Empty(), timeout=PATIENCE_S)
        return
    with pytest.raises(grpc.RpcError) as refused:
        invoke(Empty(), timeout=PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_documentation_has_a_row_for_every_method() -> None:
    rows = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text().splitlines()
    described = {row.split("|")[1].strip() for row in rows if row.startswith("| ")}
    assert set(METHODS) <= described
