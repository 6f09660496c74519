"""grpcurl: server reflection, and requests and answers as people type and read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.array import HOST_NQN, TEST_PSK_BASE64
from tests.support.bridge import METHODS, Bridge
from tests.support.embedded import embedded
from tests.support.patience import PATIENCE_S

_PROGRAM = os.environ.get("GRPCURL") or shutil.which("grpcurl") or ""

pytestmark = pytest.mark.skipif(not _PROGRAM, reason="grpcurl is not on the path and GRPCURL does not name it: not run")

SERVICES = sorted({method.containing_service.full_name for method in METHODS.values()})
FRONT_END = "opi_api.storage.v1.FrontendNvmeService"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A bridge with its own emulated target: what is tested is the wire."""
    with embedded(tmp_path_factory.mktemp("grpcurl")) as started:
        yield started


def grpcurl(daemon: Bridge, *arguments: str, request: str = "") -> subprocess.CompletedProcess[str]:
    """Runs it against the bridge."""
    flags = ["-plaintext", *(["-d", request] if request else [])]
    return subprocess.run(
        [_PROGRAM, *flags, daemon.address, *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )


def call(daemon: Bridge, method: str, request: str) -> dict[str, Any]:
    """The answer to a call, which must succeed."""
    service = METHODS[method].containing_service.full_name
    ran = grpcurl(daemon, f"{service}/{method}", request=request)
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = snake(json.loads(ran.stdout))
    return answer


def snake(value: Any) -> Any:
    """With the contract's field names: releases of grpcurl differ in how they spell them."""
    if isinstance(value, dict):
        return {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): snake(item) for key, item in value.items()}
    return [snake(item) for item in value] if isinstance(value, list) else value


def test_list_names_every_service(daemon: Bridge) -> None:
    listed = grpcurl(daemon, "list").stdout.split()
    assert set(SERVICES) <= set(listed)
    assert "grpc.health.v1.Health" in listed
    assert len(SERVICES) == 10


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_listed_and_described(daemon: Bridge, service: str) -> None:
    wanted = {name for name, method in METHODS.items() if method.containing_service.full_name == service}
    listed = grpcurl(daemon, "list", service)
    assert {line.rpartition(".")[2] for line in listed.stdout.split()} == wanted
    described = grpcurl(daemon, "describe", service)
    assert described.returncode == 0, described.stderr
    assert all(f"rpc {name} (" in described.stdout for name in wanted)


def test_describe_shows_messages_with_the_annotations_of_the_contract(daemon: Bridge) -> None:
    subsystem = grpcurl(daemon, "describe", "opi_api.storage.v1.NvmeSubsystem").stdout
    assert 'pattern: [ "nvmeSubsystems/{subsystem}" ]' in subsystem
    method = grpcurl(daemon, "describe", f"{FRONT_END}.CreateNvmeSubsystem").stdout
    assert 'post: "/v1/nvmeSubsystems"' in method


@pytest.mark.parametrize("blocks", ["2048", '"2048"'], ids=["number", "string"])
def test_int64_is_taken_as_number_and_as_string(daemon: Bridge, blocks: str) -> None:
    request = f'{{"null_volume_id": "i64", "null_volume": {{"block_size": 512, "blocks_count": {blocks}}}}}'
    created = call(daemon, "CreateNullVolume", request)
    assert created["blocks_count"] == "2048"
    call(daemon, "DeleteNullVolume", '{"name": "nullVolumes/i64"}')


def test_bytes_are_base64_and_a_key_never_comes_back(daemon: Bridge) -> None:
    spec = {"nqn": "nqn.2022-09.io.spdk:bytes", "hostnqn": HOST_NQN, "psk": TEST_PSK_BASE64}
    request = json.dumps({"nvme_subsystem_id": "bytes", "nvme_subsystem": {"spec": spec}})
    created = call(daemon, "CreateNvmeSubsystem", request)
    assert created["spec"]["hostnqn"] == HOST_NQN
    assert "psk" not in created["spec"]
    broken = request.replace(TEST_PSK_BASE64, "bm8ga2V5")
    ran = grpcurl(daemon, f"{FRONT_END}/CreateNvmeSubsystem", request=broken)
    assert "spec.psk is not of the form NVMeTLSkey-1:HH:BASE64:" in ran.stderr
    call(daemon, "DeleteNvmeSubsystem", '{"name": "nvmeSubsystems/bytes"}')


def test_enums_go_by_name_and_wrappers_are_bare_numbers(daemon: Bridge) -> None:
    call(
        daemon,
        "CreateNvmeSubsystem",
        '{"nvme_subsystem_id": "enum", "nvme_subsystem": {"spec": {"nqn": "nqn.2022-09.io.spdk:enum"}}}',
    )
    function = {"port_id": 0, "physical_function": 2, "virtual_function": 0}
    controller = {
        "parent": "nvmeSubsystems/enum",
        "nvme_controller_id": "pci",
        "nvme_controller": {"spec": {"trtype": "NVME_TRANSPORT_TYPE_PCIE", "pcie_id": function}},
    }
    created = call(daemon, "CreateNvmeController", json.dumps(controller))
    assert created["spec"]["trtype"] == "NVME_TRANSPORT_TYPE_PCIE"
    assert created["spec"]["pcie_id"] == function
    call(daemon, "DeleteNvmeController", '{"name": "nvmeSubsystems/enum/nvmeControllers/pci"}')
    call(daemon, "DeleteNvmeSubsystem", '{"name": "nvmeSubsystems/enum"}')


def test_an_update_takes_a_mask_as_paths(daemon: Bridge) -> None:
    volume = '{"block_size": 512, "blocks_count": 2048}'
    call(daemon, "CreateNullVolume", f'{{"null_volume_id": "mask", "null_volume": {volume}}}')
    resource, mask = '{"name": "nullVolumes/mask", "blocks_count": 4096}', '{"paths": ["blocks_count"]}'
    updated = call(daemon, "UpdateNullVolume", f'{{"null_volume": {resource}, "update_mask": {mask}}}')
    assert (updated["block_size"], updated["blocks_count"]) == ("512", "4096")
    call(daemon, "DeleteNullVolume", '{"name": "nullVolumes/mask"}')


def test_errors_are_readable_and_carry_their_details(daemon: Bridge) -> None:
    missing = grpcurl(daemon, f"{FRONT_END}/GetNvmeSubsystem", request='{"name": "nvmeSubsystems/none"}')
    assert missing.returncode != 0
    assert "Code: NotFound" in missing.stderr
    assert "nvmeSubsystems/none does not exist" in missing.stderr
    assert re.search(r'"resource_?[nN]ame": "nvmeSubsystems/none"', missing.stderr)
    bad = '{"nvme_subsystem": {"spec": {"nqn": "nonsense"}}}'
    invalid = grpcurl(daemon, f"{FRONT_END}/CreateNvmeSubsystem", request=bad)
    assert "Code: InvalidArgument" in invalid.stderr
    assert '"field": "nvme_subsystem.spec.nqn"' in invalid.stderr


def test_health_is_served(daemon: Bridge) -> None:
    ran = grpcurl(daemon, "grpc.health.v1.Health/Check")
    assert json.loads(ran.stdout) == {"status": "SERVING"}
