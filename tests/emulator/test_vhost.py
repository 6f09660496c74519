"""vhost controllers: their sockets, their bdevs."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.emulator.emulated import Client, EmulatedTarget, wait_for


@pytest.fixture
def client(target: EmulatedTarget) -> Client:
    for name in ("m0", "m1"):
        target.client.call("bdev_malloc_create", name=name, block_size=512, num_blocks=2048)
    return target.client


def test_sockets_come_and_go(target: EmulatedTarget, client: Client) -> None:
    client.call("vhost_create_blk_controller", ctrlr="b", dev_name="m0")
    client.call("vhost_create_scsi_controller", ctrlr="s")
    assert all((target.vhost_dir / name).is_socket() for name in "bs")
    client.call("vhost_delete_controller", ctrlr="b")
    client.call("vhost_delete_controller", ctrlr="s")
    assert list(target.vhost_dir.iterdir()) == []


def test_a_deletion_waits_for_the_guest_to_hang_up(target: EmulatedTarget, client: Client) -> None:
    client.call("vhost_create_blk_controller", ctrlr="b", dev_name="m0")
    with (
        socket.socket(socket.AF_UNIX) as guest,
        contextlib.closing(target.connect()) as other,
        ThreadPoolExecutor() as pool,
    ):
        guest.connect(str(target.vhost_dir / "b"))
        wait_for(lambda: client.call("vhost_get_controllers", name="b")[0]["sessions"])
        deleting = pool.submit(other.call, "vhost_delete_controller", ctrlr="b")
        assert client.call("vhost_get_controllers", name="b")[0]["sessions"][0]["started"] is False
        assert not deleting.done()
        guest.close()
        assert deleting.result(10) is True
    assert client.call("vhost_get_controllers") == []


def test_a_path_that_is_too_long_is_cut_off(target: EmulatedTarget, client: Client) -> None:
    name = "s" * 120
    client.call("vhost_create_scsi_controller", ctrlr=name)
    (only,) = target.vhost_dir.iterdir()
    assert len(str(only)) == 107
    assert client.call("vhost_get_controllers", name=name)[0]["socket"] == str(target.vhost_dir / name)
    client.call("vhost_delete_controller", ctrlr=name)
    assert only.is_socket(), "a target leaves it"
    failed = client.error("vhost_create_scsi_controller", ctrlr=f"{name}-too")
    assert failed == (-32602, "Input/output error"), "it is cut off to the same"
    assert client.error("vhost_create_scsi_controller", ctrlr="s" * 4096) == (-32602, "Invalid argument")


def test_a_delayed_controller_has_no_socket_yet(target: EmulatedTarget, client: Client) -> None:
    client.call("vhost_create_scsi_controller", ctrlr="s", delay=True)
    assert not (target.vhost_dir / "s").exists()
    client.call("vhost_start_scsi_controller", ctrlr="s")
    assert (target.vhost_dir / "s").is_socket()


def test_a_file_in_the_way_is_an_io_error(target: EmulatedTarget, client: Client) -> None:
    (target.vhost_dir / "b").touch()
    failed = client.error("vhost_create_blk_controller", ctrlr="b", dev_name="m0")
    assert failed == (-32602, "Input/output error")
    assert client.call("vhost_get_controllers") == []
    client.call("bdev_set_qos_limit", name="m0", rw_ios_per_sec=1000)


def test_a_claimed_bdev_is_refused(client: Client) -> None:
    client.call("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:a")
    client.call("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:a", namespace={"bdev_name": "m0"})
    failed = client.error("vhost_create_blk_controller", ctrlr="b", dev_name="m0")
    assert failed == (-32602, "Operation not permitted")
    client.call("vhost_create_blk_controller", ctrlr="b", dev_name="m1")
    client.call("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:a", namespace={"bdev_name": "m1"})


def test_a_scsi_target_goes_with_its_bdev(client: Client) -> None:
    client.call("vhost_create_scsi_controller", ctrlr="s")
    for number, bdev in ((7, "m0"), (-1, "m1")):
        client.call("vhost_scsi_controller_add_target", ctrlr="s", scsi_target_num=number, bdev_name=bdev)
    client.call("bdev_malloc_delete", name="m0")
    targets = client.call("vhost_get_controllers", name="s")[0]["backend_specific"]["scsi"]
    assert [(target["scsi_dev_num"], target["id"]) for target in targets] == [(0, 1)]
    failed = client.error("vhost_scsi_controller_remove_target", ctrlr="s", scsi_target_num=7)
    assert failed == (-32602, "Device or resource busy")


@pytest.mark.parametrize("params", [{"cpumask": "0x4"}, {"cpumask": "none"}, {"transport": "other"}])
def test_what_the_target_does_not_have(client: Client, params: dict[str, Any]) -> None:
    failed = client.error("vhost_create_blk_controller", ctrlr="b", dev_name="m0", **params)
    assert failed == (-32602, "Invalid argument")


def test_sockets_are_taken_away_at_the_end(target: EmulatedTarget, client: Client) -> None:
    client.call("vhost_create_blk_controller", ctrlr="b", dev_name="m0")
    assert target.terminate() == 0
    assert list(target.vhost_dir.iterdir()) == []
