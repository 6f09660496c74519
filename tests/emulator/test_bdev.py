"""Bdevs: names, claims, what stands on them, limits, counters, data."""

import base64
import os
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.emulator.emulated import Client, EmulatedTarget

NQN = "nqn.2016-06.io.spdk:a"
UUID = "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb"
KEY, KEY2 = "00112233445566778899aabbccddeeff", "11112222333344445555666677778888"
EAGAIN = (-32602, "Failed to configure rate limit: Resource temporarily unavailable")


def create_malloc(client: Client, name: str = "m0", **params: object) -> None:
    client.call("bdev_malloc_create", **{"name": name, "block_size": 512, "num_blocks": 2048, **params})


def add_namespace(client: Client, bdev: str) -> int:
    client.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    nsid: int = client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})
    return nsid


def create_crypto(client: Client, name: str = "e0", base: str = "m0") -> None:
    client.call("accel_crypto_key_create", name="key", cipher="AES_XTS", key=KEY, key2=KEY2)
    client.call("bdev_crypto_create", name=name, base_bdev_name=base, key_name="key")


def bdev_names(client: Client) -> list[str]:
    return [bdev["name"] for bdev in client.call("bdev_get_bdevs")]


def test_a_bdev_is_found_by_its_uuid(client: Client) -> None:
    create_malloc(client, uuid=UUID.upper())
    assert client.call("bdev_get_bdevs", name=UUID)[0]["name"] == "m0"
    assert client.error("bdev_get_bdevs", name=UUID.upper()) == (-19, "No such device")


def test_the_nil_uuid_asks_for_a_generated_one(client: Client) -> None:
    create_malloc(client, uuid="00000000-0000-0000-0000-000000000000")
    assert client.call("bdev_get_bdevs")[0]["uuid"] != "00000000-0000-0000-0000-000000000000"


def test_bdev_get_bdevs_can_wait_for_a_bdev(client: Client) -> None:
    waiting = ("bdev_get_bdevs", {"name": "late", "timeout": 5000})
    answer, _ = client.together(waiting, ("bdev_null_create", {"name": "late", "block_size": 512, "num_blocks": 8}))
    assert answer["result"][0]["name"] == "late"
    assert client.error("bdev_get_bdevs", name="never", timeout=50) == (-110, "Connection timed out")


def test_a_target_that_builds_a_vbdev_with_a_destroyed_key_dies(target: EmulatedTarget) -> None:
    client = target.client
    create_malloc(client)
    create_crypto(client)
    client.call("bdev_malloc_delete", name="m0")
    assert client.error("bdev_crypto_delete", name="e0") == (-19, "No such device")
    client.call("accel_crypto_key_destroy", key_name="key")
    with pytest.raises(ConnectionResetError):
        create_malloc(client)
    target.process.join(5)
    assert target.process.exitcode == -signal.SIGSEGV


def test_a_name_that_the_target_keeps_for_a_vbdev_is_told_apart_from_one_that_is_taken(client: Client) -> None:
    create_malloc(client)
    create_crypto(client)
    client.call("bdev_malloc_delete", name="m0")
    probe = {"name": "e0", "base_bdev_name": "e0", "key_name": "key"}
    create_malloc(client, "e0")
    assert client.error("bdev_crypto_create", **probe) == (-17, "File exists")
    client.call("bdev_malloc_delete", name="e0")
    create_malloc(client)
    client.call("bdev_crypto_delete", name="e0")
    create_malloc(client, "e0")
    assert client.error("bdev_crypto_create", **probe) == (-22, "Invalid argument")
    assert bdev_names(client) == ["m0", "e0"]


@pytest.mark.parametrize("method", ["bdev_null_delete", "bdev_aio_delete", "bdev_crypto_delete"])
def test_only_its_module_deletes_a_bdev(client: Client, method: str) -> None:
    create_malloc(client)
    assert client.error(method, name="m0") == (-19, "No such device")
    assert bdev_names(client) == ["m0"]


def test_deleting_a_bdev_takes_what_stands_on_it(client: Client) -> None:
    create_malloc(client)
    create_crypto(client)
    assert add_namespace(client, "e0") == 1
    client.call("bdev_malloc_delete", name="m0")
    assert bdev_names(client) == []
    assert client.call("nvmf_get_subsystems", nqn=NQN)[0]["namespaces"] == []


def test_a_crypto_bdev_comes_back_with_its_base(client: Client) -> None:
    create_malloc(client, uuid=UUID)
    create_crypto(client)
    before = client.call("bdev_get_bdevs", name="e0")
    client.call("bdev_malloc_delete", name="m0")
    assert client.error("bdev_crypto_create", name="e0", base_bdev_name="m0", key_name="key") == (-17, "File exists")
    create_malloc(client, uuid=UUID)
    assert client.call("bdev_get_bdevs", name="e0") == before
    client.call("bdev_crypto_delete", name="e0")
    client.call("bdev_malloc_delete", name="m0")
    create_malloc(client)
    assert bdev_names(client) == ["m0"]


def test_of_two_crypto_bdevs_on_a_missing_base_the_first_gets_it(client: Client) -> None:
    create_crypto(client, "e0", "late")
    client.call("bdev_crypto_create", name="e1", base_bdev_name="late", key_name="key")
    create_malloc(client, "late")
    assert sorted(bdev_names(client)) == ["e0", "late"]


def test_a_crypto_bdev_can_bring_its_own_key(client: Client) -> None:
    create_malloc(client)
    client.call("bdev_crypto_create", name="e0", base_bdev_name="m0", cipher="AES_XTS", key=KEY, key2=KEY2)
    assert client.call("accel_crypto_keys_get")[0]["name"] == "e0_AES_XTS"
    client.call("bdev_crypto_delete", name="e0")
    assert client.call("accel_crypto_keys_get") == []


def test_a_crypto_bdev_encrypts(client: Client) -> None:
    create_malloc(client)
    create_crypto(client)
    content = os.urandom(1024)
    client.call("emulator_write", name="e0", offset_blocks=5, content=base64.b64encode(content).decode())
    stored = base64.b64decode(client.call("emulator_read", name="m0", offset_blocks=6)["content"])
    cipher = Cipher(algorithms.AES(bytes.fromhex(KEY + KEY2)), modes.XTS(bytes(8) + (6).to_bytes(8, "little")))
    assert cipher.decryptor().update(stored) == content[512:]
    read = client.call("emulator_read", name="e0", offset_blocks=5, num_blocks=2)["content"]
    assert base64.b64decode(read) == content


def test_aio_bdevs_are_their_files(client: Client, folder: Path) -> None:
    path = folder / "disk"
    path.write_bytes(bytes(1024))
    client.call("bdev_aio_create", name="a0", filename=str(path), block_size=512)
    client.call("emulator_write", name="a0", offset_blocks=1, content=base64.b64encode(b"x" * 512).decode())
    assert path.read_bytes() == bytes(512) + b"x" * 512
    path.write_bytes(bytes(4096))
    client.call("bdev_aio_rescan", name="a0")
    assert client.call("bdev_get_bdevs", name="a0")[0]["num_blocks"] == 8
    assert client.error("emulator_read", name="a0", offset_blocks=8) == (-22, "Invalid argument")
    path.write_bytes(b"")
    client.call("bdev_aio_rescan", name="a0")
    assert bdev_names(client) == []


def test_null_bdevs_grow_in_mib_also_under_a_namespace(client: Client) -> None:
    client.call("bdev_null_create", name="n0", block_size=512, num_blocks=100)
    add_namespace(client, "n0")
    assert client.error("bdev_null_resize", name="n0", new_size=0) == (-16, "Device or resource busy")
    client.call("bdev_null_resize", name="n0", new_size=3)
    assert client.call("bdev_get_bdevs", name="n0")[0]["num_blocks"] == 6144


def test_limits_on_a_bdev_that_nothing_has_open_can_be_set_once(client: Client) -> None:
    create_malloc(client)
    client.call("bdev_set_qos_limit", name="m0", rw_ios_per_sec=1500)
    assert client.error("bdev_set_qos_limit", name="m0", rw_ios_per_sec=3000) == EAGAIN
    assert client.error("bdev_set_qos_limit", name="m0", rw_ios_per_sec=0) == EAGAIN
    add_namespace(client, "m0")
    client.call("bdev_set_qos_limit", name="m0", r_mbytes_per_sec=7)
    limits = client.call("bdev_get_bdevs", name="m0")[0]["assigned_rate_limits"]
    assert limits == {"rw_ios_per_sec": 2000, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 7, "w_mbytes_per_sec": 0}
    client.call("nvmf_delete_subsystem", nqn=NQN)
    assert client.error("bdev_set_qos_limit", name="m0", rw_ios_per_sec=3000) == EAGAIN


def test_no_limits_on_a_bdev_without_limits_is_fine_any_time(client: Client) -> None:
    create_malloc(client)
    for _ in range(3):
        client.call("bdev_set_qos_limit", name="m0", rw_ios_per_sec=0)


def test_io_counts_down_to_the_bottom(client: Client) -> None:
    create_malloc(client)
    create_crypto(client)
    client.call("bdev_reset_iostat")
    client.call("emulator_run_io", name="e0", reads=3, writes=2, unmaps=1, blocks=4, latency_us=100)
    for bdev in client.call("bdev_get_iostat")["bdevs"]:
        assert (bdev["num_read_ops"], bdev["bytes_read"]) == (3, 3 * 2048)
        assert (bdev["num_write_ops"], bdev["num_unmap_ops"]) == (2, 1)
        assert bdev["read_latency_ticks"] == 3 * bdev["max_read_latency_ticks"] == 3 * bdev["min_read_latency_ticks"]


def test_io_that_failed_is_counted_by_status_down_to_the_bottom(client: Client) -> None:
    create_malloc(client)
    create_crypto(client)

    def failures() -> dict[str, dict[str, int]]:
        return {bdev["name"]: bdev["io_error"] for bdev in client.call("bdev_get_iostat", reset_mode="error")["bdevs"]}

    assert failures() == {"m0": {}, "e0": {}}
    client.call("emulator_run_io", name="e0", failures=2)
    client.call("emulator_run_io", name="m0", failures=1)
    assert failures() == {"m0": {"failed": 3}, "e0": {"failed": 2}}
    assert failures() == {"m0": {}, "e0": {}}


def test_counters_of_channels_outlive_them(client: Client) -> None:
    create_malloc(client)
    add_namespace(client, "m0")
    client.call("emulator_run_io", name="m0", writes=5)
    channels = client.call("bdev_get_iostat", names=["m0"], per_channel=True)["channels"]
    assert [channel["num_write_ops"] for channel in channels] == [5]
    client.call("nvmf_delete_subsystem", nqn=NQN)
    assert client.call("bdev_get_iostat", names=["m0"], per_channel=True)["channels"] == []
    assert client.call("bdev_get_iostat", names=["m0"])["bdevs"][0]["num_write_ops"] == 5
    assert client.error("bdev_get_iostat", per_channel=True) == (-22, "Invalid argument")


@pytest.mark.parametrize(("mode", "ops", "slowest"), [("all", 0, 0), ("maxmin", 4, 0), ("none", 4, 26000)])
def test_reading_counters_can_reset_them(client: Client, mode: str, ops: int, slowest: int) -> None:
    create_malloc(client)
    client.call("emulator_run_io", name="m0", writes=4, latency_us=10)
    client.call("bdev_get_iostat", names=["m0"], reset_mode=mode)
    stat = client.call("bdev_get_iostat", names=["m0"])["bdevs"][0]
    assert (stat["num_write_ops"], stat["max_write_latency_ticks"]) == (ops, slowest)


def test_notifications_say_what_happened_to_bdevs(client: Client) -> None:
    client.call("bdev_null_create", name="n0", block_size=512, num_blocks=8)
    client.call("bdev_null_resize", name="n0", new_size=1)
    client.call("bdev_null_delete", name="n0")
    seen = client.call("notify_get_notifications")
    assert [event["type"] for event in seen] == ["bdev_register", "bdev_resize", "bdev_unregister"]
    assert client.call("notify_get_notifications", id=2, max=5) == [{"type": "bdev_unregister", "ctx": "n0", "id": 2}]
