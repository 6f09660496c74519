"""The description of the API: valid, complete, and true of what a bridge answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from opi_spdk_bridge.api import comments as kept
from opi_spdk_bridge.api.openapi import describe
from opi_spdk_bridge.api.routes import Routes
from tests.http.contract import METHODS
from tests.http.web import Web
from tests.http.world import create
from tests.kinds.world import World
from tests.support.patience import PATIENCE_S
from tests.support.target import Emulator

DESCRIPTION = describe(Routes(METHODS))


def _operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, http_method, operation)
        for path, item in DESCRIPTION["paths"].items()
        for http_method, operation in item.items()
    ]


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(DESCRIPTION).validate()


def test_it_is_what_is_served(served: Web) -> None:
    answer = served.http.get("/openapi.json").json()
    assert answer["paths"] == DESCRIPTION["paths"]
    assert answer["components"] == DESCRIPTION["components"]


def test_every_rpc_is_in_it() -> None:
    named = {operation["operationId"] for _, _, operation in _operations()}
    assert {item.name for item in METHODS} <= named
    assert len(named) == len(_operations())


def test_paths_are_those_of_the_contract_with_ids_named() -> None:
    assert "get" in DESCRIPTION["paths"]["/v1/nvmeSubsystems/{nvmeSubsystem}/nvmeControllers/{nvmeController}:stats"]
    assert "get" in DESCRIPTION["paths"]["/v1/inventory/{inventory}/inventory/{inventory2}"]
    assert DESCRIPTION["paths"]["/v1/qosVolumes"]["get"]["operationId"] == "ListQosVolumes"


def test_field_behaviours_are_in_it() -> None:
    schemas = DESCRIPTION["components"]["schemas"]
    assert schemas["NullVolumeCreate"]["required"] == ["blockSize", "blocksCount"]
    assert "name" not in schemas["NullVolumeCreate"]["properties"]
    assert schemas["NullVolume"]["properties"]["name"]["readOnly"] is True
    assert schemas["NvmeSubsystem"]["properties"]["status"]["x-field-behavior"] == ["OUTPUT_ONLY"]
    assert "required" not in schemas["NullVolume"], "a PATCH may have any of the fields"


def test_queries_have_what_is_neither_in_the_path_nor_the_body() -> None:
    patch = DESCRIPTION["paths"]["/v1/nullVolumes/{nullVolume}"]["patch"]
    assert [item["name"] for item in patch["parameters"]] == ["nullVolume", "updateMask", "allowMissing"]
    create = DESCRIPTION["paths"]["/v1/nullVolumes"]["post"]
    assert [item["name"] for item in create["parameters"]] == ["nullVolumeId"]


def test_comments_of_the_contract_are_in_it() -> None:
    if not kept.comments():
        pytest.skip("the package was built without the contract's descriptor set (pb/contract.binpb)")
    create = DESCRIPTION["paths"]["/v1/nullVolumes"]["post"]
    assert create["summary"].endswith(".")
    assert "Bytes in a block" in DESCRIPTION["components"]["schemas"]["NullVolume"]["properties"]["blockSize"][
        "description"
    ]  # fmt: skip
    for path, http_method, operation in _operations():
        assert operation.get("summary"), (path, http_method)


@pytest.mark.parametrize("known", [False, True], ids=["made-up names", "names that exist"])
def test_fuzzing_finds_nothing_that_is_not_described(
    own_http: Web,
    spdk: Emulator,
    near_and_far: tuple[Emulator, Emulator],
    ports: list[int],
    tmp_path: Path,
    known: bool,
) -> None:
    """Schemathesis: no 5xx, no code, type or body that the description does not have.

    Its other checks ask for more than a schema can say: that whatever fits a schema is accepted, for example.
    """
    names = {}
    world = World(own_http, spdk, tmp_path, lambda: near_and_far[1], ports)
    for made in create(own_http, world).values():
        *_, collection, resource_id = made.name.split("/")
        names[f"path.{collection.removesuffix('s')}"] = resource_id
    config = tmp_path / "schemathesis.toml"
    config.write_text("[parameters]\n" + "".join(f'"{name}" = "{value}"\n' for name, value in names.items()))
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
        "response_headers_conformance,unsupported_method"
    )
    command = [
        str(Path(sys.executable).with_name("schemathesis")), *(["--config-file", str(config)] if known else []),
        "run", f"{own_http.url}/openapi.json", *(["--exclude-method", "DELETE"] if known else []),
        "--checks", checks, "--phases", "fuzzing", "--max-examples", "3", "--seed", "1",
        "--no-color", "--generation-database", "none",
        "--suppress-health-check", "all", "--request-timeout", str(PATIENCE_S),
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=5 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* generated", done.stdout), done.stdout[-2000:]
