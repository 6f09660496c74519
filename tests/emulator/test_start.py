"""Starting: its states, its configuration, its end."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from spdk.rpc import config as spdk_config
from spdk.rpc.client import JSONRPCClient

from tests.emulator.conftest import StartTarget
from tests.emulator.emulated import CallFailedError, Client, EmulatedTarget, free_port, wait_for
from tests.support.patience import PATIENCE_S
from tests.support.program import program, started

NQN = "nqn.2016-06.io.spdk:a"
HOST = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"


def populate(client: Client, folder: Path) -> None:
    """One of everything that a configuration holds."""
    (folder / "disk").write_bytes(bytes(8192))
    (folder / "key").touch(0o600)
    port = free_port()
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port}
    remote = {"name": "r0", "hostnqn": HOST, "subnqn": NQN, **address}
    client.call("keyring_file_add_key", name="k", path=str(folder / "key"))
    client.call("accel_crypto_key_create", name="c", cipher="AES_XTS", key="00" * 32, key2="11" * 32)
    client.call("bdev_malloc_create", name="m0", block_size=512, num_blocks=2048)
    client.call("bdev_null_create", name="n0", block_size=4096, num_blocks=8)
    client.call("bdev_aio_create", name="a0", filename=str(folder / "disk"), block_size=512)
    client.call("bdev_crypto_create", name="e0", base_bdev_name="m0", key_name="c")
    client.call("bdev_set_qos_limit", name="n0", rw_mbytes_per_sec=3)
    client.call("nvmf_create_transport", trtype="TCP", max_queue_depth=64, c2h_success=False)
    client.call("nvmf_create_subsystem", nqn=NQN, serial_number="SN1", max_namespaces=7)
    client.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, dhchap_key="k")
    namespace = {"bdev_name": "e0", "nsid": 3, "nguid": "AB" * 16, "no_auto_visible": True}
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace=namespace)
    client.call("nvmf_ns_add_host", nqn=NQN, nsid=3, host=HOST)
    client.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address)
    client.call("nvmf_discovery_add_referral", address=address)
    client.call("bdev_nvme_attach_controller", dhchap_key="k", **remote)
    client.call("vhost_create_blk_controller", ctrlr="b", dev_name="n0")
    client.call("vhost_create_scsi_controller", ctrlr="s")
    client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=2, bdev_name="a0")


def save(address: str, *, with_batches: bool) -> dict[str, Any]:
    with JSONRPCClient(address) as client:
        text = io.StringIO()
        spdk_config.save_config(client, text, with_batches=with_batches)
    saved: dict[str, Any] = json.loads(text.getvalue())
    return saved


def without_remote(config: dict[str, Any]) -> dict[str, Any]:
    """A target cannot attach itself while it loads: bdevs come before the subsystems that it would attach."""
    for subsystem in config["subsystems"]:
        calls = [call for call in subsystem["config"] or [] if "nvme_attach" not in json.dumps(call)]
        subsystem["config"] = None if subsystem["config"] is None else calls
    return config


@pytest.mark.parametrize("with_batches", [True, False])
def test_a_saved_configuration_makes_the_same_target_again(
    folder: Path, start_target: StartTarget, with_batches: bool
) -> None:
    first = start_target("first")
    populate(first.client, folder)
    saved = without_remote(save(first.address, with_batches=with_batches))
    first.kill()
    path = folder / "config.json"
    path.write_text(json.dumps(saved))
    second = start_target("second", config=path)
    second.client.call("framework_wait_init")
    assert json.dumps(save(second.address, with_batches=with_batches)) == json.dumps(saved)


def test_the_official_client_loads_what_it_saved(folder: Path, start_target: StartTarget) -> None:
    first = start_target("first")
    populate(first.client, folder)
    saved = without_remote(save(first.address, with_batches=False))
    first.kill()
    second = start_target("second", wait_for_rpc=True)
    with JSONRPCClient(second.address) as client:
        spdk_config.load_config(client, io.StringIO(json.dumps(saved)))
    assert json.dumps(save(second.address, with_batches=False)) == json.dumps(saved)


def test_the_official_command_line(target: EmulatedTarget) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", "from spdk.spdk_rpc import main; main()", "-s", target.address, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run("bdev_malloc_create", "1", "512", "-b", "m0") == "m0\n"
    run("nvmf_create_transport", "-t", "TCP")
    run("nvmf_create_subsystem", NQN, "-a", "-s", "SN1")
    run("nvmf_subsystem_add_ns", NQN, "m0")
    assert json.loads(run("nvmf_get_subsystems"))[1]["namespaces"][0]["bdev_name"] == "m0"


@pytest.fixture
def failing_config(folder: Path) -> Path:
    path = folder / "config.json"
    call = {"method": "bdev_crypto_create", "params": {"base_bdev_name": "m", "name": "e", "key_name": "none"}}
    path.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [call]}]}))
    return path


def test_a_configuration_that_fails_ends_the_command(folder: Path, failing_config: Path) -> None:
    ended = program("emulate", "--socket", str(folder / "s"), "-c", str(failing_config))
    assert ended.returncode == 1
    assert "bdev_crypto_create: Key was not found (-32602)" in ended.stderr


def test_a_configuration_that_fails_after_waiting_ends_the_target(
    start_target: StartTarget, failing_config: Path
) -> None:
    target = start_target("bad", config=failing_config, wait_for_rpc=True)
    with pytest.raises((ConnectionResetError, CallFailedError)):
        target.client.call("framework_start_init")
    target.process.join(PATIENCE_S)
    assert target.process.exitcode == 1


def test_before_its_start_a_target_takes_start_up_methods_only(start_target: StartTarget) -> None:
    client = start_target("waiting", wait_for_rpc=True).client
    early = "Method may only be called after framework is initialized using framework_start_init RPC."
    assert client.error("bdev_get_bdevs") == (-1, early)
    current = set(client.call("rpc_get_methods", current=True))
    assert {"framework_start_init", "bdev_set_options", "bdev_nvme_set_options"} <= current
    assert len(current) == 44
    client.call("bdev_set_options", bdev_auto_examine=False)
    client.call("nvmf_set_max_subsystems", max_subsystems=2)
    failed = client.error("nvmf_set_max_subsystems", max_subsystems=3)
    assert failed == (-32603, "Must not call more than once")
    waiting, started = client.together(("framework_wait_init", None), ("framework_start_init", None))
    assert (waiting["result"], started["result"]) == (True, True)
    late = client.error("framework_start_init")
    assert late[0] == -1
    assert late[1].startswith("Method may only be called before framework is initialized.")
    assert len(client.call("rpc_get_methods", current=True)) == 239


def test_bdevs_are_examined_on_demand_when_that_was_chosen(start_target: StartTarget) -> None:
    client = start_target("waiting", wait_for_rpc=True).client
    client.call("bdev_set_options", bdev_auto_examine=False)
    client.call("framework_start_init")
    client.call("accel_crypto_key_create", name="c", cipher="AES_XTS", key="00" * 16, key2="11" * 16)
    client.call("bdev_crypto_create", name="e0", base_bdev_name="m0", key_name="c")
    client.call("bdev_malloc_create", name="m0", block_size=512, num_blocks=2048)
    assert client.error("bdev_get_bdevs", name="e0")[0] == -19
    client.call("bdev_examine", name="m0")
    client.call("bdev_get_bdevs", name="e0")
    assert client.error("bdev_examine", name="m0") == (-17, "File exists")


def test_a_method_that_the_emulator_lacks_says_so(client: Client) -> None:
    message = "Operation not supported: bdev_raid_get_bdevs is not emulated"
    assert client.error("bdev_raid_get_bdevs") == (-95, message)


def test_two_targets_cannot_have_one_socket(target: EmulatedTarget) -> None:
    assert program("emulate", "--socket", target.address).returncode != 0
    target.client.call("spdk_get_version")


def test_its_socket_is_taken_away_at_the_end(target: EmulatedTarget) -> None:
    assert target.terminate() == 0
    assert not os.path.exists(target.address)


def test_the_command_runs_a_target_on_tcp_too(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    flags = ["--socket", f"127.0.0.1:{port}", "--vhost-dir", str(folder)]
    with started("emulate", *flags, log=tmp_path / "target.log") as process:
        wait_for(lambda: is_open(port))
        with JSONRPCClient("127.0.0.1", int(port)) as client:
            assert client.call("spdk_get_version")["version"] == "SPDK v26.09-pre"
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def is_open(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0
