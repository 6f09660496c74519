"""The OPI Python client: PyPI `pydpu`, its command `dpu` and its classes.

Its generated modules define the same messages as the bridge's under other file names, so it runs in processes of its
own. `dpu storage controller` and `dpu storage namespace` create theirs in a subsystem that they never make: whole flows
need the classes.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.array import CNODE1, HOST_NQN, Array
from tests.support.bridge import Bridge, bridge
from tests.support.patience import PATIENCE_S
from tests.support.target import Target

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pydpu") is None, reason="pydpu is not installed")

_PRELUDE = """
import json, sys
import grpc
from google.protobuf.json_format import MessageToDict
from pydpu.inventory import get_inventory
from pydpu.storage import NvmeController, NvmeNamespace, NvmeRemoteController, NvmeSubsystem, NvmeTcpPath
address = sys.argv[1]
done = []
def do(thing, *verbs):
    for verb in verbs:
        done.append([f"{type(thing).__name__} {verb}", thing.name,
                     MessageToDict(getattr(thing, verb)(address), preserving_proto_field_name=True)])
"""


@pytest.fixture(scope="module")
def daemon(paced: Target, folder: Path) -> Iterator[Bridge]:
    """A bridge on a target with the bdev that the client's namespaces are on."""
    paced.rpc("bdev_malloc_create", name="Malloc1", block_size=512, num_blocks=131072)
    with bridge(folder, spdk=paced.socket, state=f"sqlite:{folder}/state.sqlite") as started:
        yield started


def dpu(daemon: Bridge, *arguments: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "pydpu", "--address", daemon.address, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def python(daemon: Bridge, program: str) -> list[tuple[str, str, dict[str, Any]]]:
    """What a program with the client's classes did: verb, name and answer of each call."""
    text = f"{_PRELUDE}{program}\nprint(json.dumps(done))"
    ran = subprocess.run(
        [sys.executable, "-c", text, daemon.address], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ran.returncode == 0, ran.stderr
    return [(verb, name, answer) for verb, name, answer in json.loads(ran.stdout)]


def test_the_command_makes_and_deletes_a_subsystem(daemon: Bridge, paced: Target) -> None:
    printed = dpu(daemon, "storage", "subsystem")
    assert "StatusCode" not in printed
    assert printed.count('nqn: "nqn.2022-09.io.spdk:opi1"') == 3  # created, listed, got
    assert 'model_number: "OPI Model"' in printed
    assert paced.inventory()["subsystems"] == []


def test_the_command_shows_what_is_there(daemon: Bridge) -> None:
    subsystem = {"spec": {"nqn": "nqn.2022-09.io.spdk:shown"}}
    daemon.call("CreateNvmeSubsystem", {"nvme_subsystem_id": "shown", "nvme_subsystem": subsystem})
    assert 'name: "nvmeSubsystems/shown"' in dpu(daemon, "storage", "show")
    daemon.call("DeleteNvmeSubsystem", {"name": "nvmeSubsystems/shown"})


def test_the_command_gets_the_inventory_without_a_name(daemon: Bridge) -> None:
    assert dpu(daemon, "inventory", "get") == "work in progress\n"  # it prints errors, and nothing else


@pytest.mark.parametrize("command", ["controller", "namespace"])
def test_the_command_is_told_that_its_subsystem_is_missing(daemon: Bridge, command: str) -> None:
    printed = dpu(daemon, "storage", command)
    assert "StatusCode.NOT_FOUND" in printed
    assert "nvmeSubsystems/opi-" in printed


def test_the_classes_carry_a_volume_to_a_host(daemon: Bridge, paced: Target) -> None:
    before = paced.inventory()
    done = python(
        daemon,
        """
subsystem = NvmeSubsystem(nqn="nqn.2022-09.io.spdk:opi1")
controller = NvmeController(subsystem=subsystem, queue=1024, pf=0, vf=0, port=0, max_nsq=8, max_ncq=8)
namespace = NvmeNamespace(subsystem=subsystem, volume="Malloc1")
every = ("create", "list", "get", "stats")
do(subsystem, *every, "update")
do(controller, *every)
do(namespace, *every, "update")
for thing in (namespace, controller, subsystem):
    do(thing, "delete")
""",
    )
    answers = {verb: answer for verb, _, answer in done}
    names = {verb: name for verb, name, _ in done}
    assert len(done) == 17
    for kind in ("NvmeSubsystem", "NvmeController", "NvmeNamespace"):
        created = answers[f"{kind} create"]
        assert created["name"] == answers[f"{kind} get"]["name"] == names[f"{kind} create"]
        assert [item["name"] for items in answers[f"{kind} list"].values() for item in items] == [created["name"]]
    assert answers["NvmeController get"]["spec"]["max_nsq"] == 8
    assert answers["NvmeController get"]["status"] == {"active": True}
    assert answers["NvmeNamespace get"]["spec"]["host_nsid"] == 1
    assert answers["NvmeNamespace get"]["status"]["oper_state"] == "OPER_STATE_ONLINE"
    assert paced.inventory() == before


def test_the_classes_attach_an_array(daemon: Bridge, paced: Target, array: Array) -> None:
    before = paced.inventory()
    done = python(
        daemon,
        f"""
controller = NvmeRemoteController(multipath=3, hdgst=False, ddgst=False)
path = NvmeTcpPath(controller, "127.0.0.1", {array.port}, {CNODE1!r}, {HOST_NQN!r})
every = ("create", "update", "list", "get", "stats")
do(controller, *every)
do(path, *every, "delete")
do(controller, "delete")
""",
    )
    answers = {verb: answer for verb, _, answer in done}
    assert len(done) == 12
    assert answers["NvmeTcpPath create"]["fabrics"] == {
        "adrfam": "NVME_ADDRESS_FAMILY_IPV4", "subnqn": CNODE1, "hostnqn": HOST_NQN, "trsvcid": str(array.port),
    }  # fmt: skip
    assert paced.inventory() == before


def test_the_classes_get_an_inventory(daemon: Bridge) -> None:
    done = python(daemon, 'done.append(["get", "", MessageToDict(get_inventory(address))])')
    assert int(done[0][2]["memory"]["totalUsableBytes"]) > 0
    assert done[0][2]["processor"]["totalThreads"] > 0
