"""Attaching subsystems of another target, and what becomes of them."""

import base64
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.conftest import StartTarget
from tests.emulator.emulated import Client, EmulatedTarget, free_port, wait_for
from tests.support.patience import PATIENCE_S

NQN = "nqn.2016-06.io.spdk:a"
HOST = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"
PSK = "NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"
OTHER_PSK = "NVMeTLSkey-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+yjoMu:"
IO_ERROR = (-5, "Input/output error")


class Pair:
    """A near target, and a far one with two bdevs in a subsystem on two addresses."""

    def __init__(self, near: EmulatedTarget, far: EmulatedTarget) -> None:
        self.near, self.far = near.client, far.client
        self.near_target, self.far_target = near, far
        self.ports = [free_port(), free_port()]
        for client in (self.near, self.far):
            client.call("nvmf_create_transport", trtype="TCP")
        for name in ("m0", "m1"):
            self.far.call("bdev_malloc_create", name=name, block_size=512, num_blocks=2048)
        self.far.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        self.far.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m0"})
        for port in self.ports:
            self.far.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=self.address(port))

    def address(self, port: str) -> dict[str, str]:
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port}

    def attachment(self, port: int = 0, name: str = "r0", **params: Any) -> dict[str, Any]:
        return {"name": name, "subnqn": NQN, "hostnqn": HOST, **self.address(self.ports[port]), **params}

    def attach(self, port: int = 0, name: str = "r0", **params: Any) -> Any:
        return self.near.call("bdev_nvme_attach_controller", **self.attachment(port, name, **params))

    def refused(self, port: int = 0, name: str = "r0", **params: Any) -> tuple[int, str]:
        return self.near.error("bdev_nvme_attach_controller", **self.attachment(port, name, **params))

    def states(self) -> list[str]:
        groups = self.near.call("bdev_nvme_get_controllers")
        return [controller["state"] for group in groups for controller in group["ctrlrs"]]

    def bdevs(self) -> list[str]:
        return [bdev["name"] for bdev in self.near.call("bdev_get_bdevs")]


@pytest.fixture
def pair(start_target: StartTarget) -> Pair:
    return Pair(start_target("near"), start_target("far"))


def add_key(client: Client, folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.touch(0o600)
    path.write_text(text)
    client.call("keyring_file_add_key", name=name, path=str(path))


def test_namespaces_come_and_go_with_the_subsystem(pair: Pair) -> None:
    assert pair.attach() == ["r0n1"]
    pair.far.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m1"})
    wait_for(lambda: pair.bdevs() == ["r0n1", "r0n2"])
    pair.far.call("bdev_malloc_delete", name="m0")
    wait_for(lambda: pair.bdevs() == ["r0n2"])


def test_a_namespace_grows_with_its_bdev(pair: Pair) -> None:
    pair.far.call("bdev_null_create", name="n0", block_size=512, num_blocks=2048)
    pair.far.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n0"})
    pair.attach()
    pair.far.call("bdev_null_resize", name="n0", new_size=2)
    wait_for(lambda: pair.near.call("bdev_get_bdevs", name="r0n2")[0]["num_blocks"] == 4096)


def test_data_and_counters_cross(pair: Pair) -> None:
    pair.attach()
    content = base64.b64encode(b"y" * 512).decode()
    pair.near.call("emulator_write", name="r0n1", offset_blocks=3, content=content)
    assert pair.far.call("emulator_read", name="m0", offset_blocks=3)["content"] == content
    assert pair.near.call("emulator_read", name="r0n1", offset_blocks=3)["content"] == content
    pair.far.call("bdev_reset_iostat")
    pair.near.call("emulator_run_io", name="r0n1", writes=9)
    wait_for(lambda: pair.far.call("bdev_get_iostat", names=["m0"])["bdevs"][0]["num_write_ops"] == 9)


def test_a_remote_bdev_can_be_exported_again_and_its_path_shows(pair: Pair) -> None:
    pair.attach()
    assert pair.near.call("bdev_nvme_get_io_paths") == {"poll_groups": []}
    pair.near.call("nvmf_create_subsystem", nqn=f"{NQN}b", allow_any_host=True)
    pair.near.call("nvmf_subsystem_add_ns", nqn=f"{NQN}b", namespace={"bdev_name": "r0n1"})
    path = pair.near.call("bdev_nvme_get_io_paths", name="r0n1")["poll_groups"][0]["io_paths"][0]
    assert (path["cntlid"], path["current"], path["connected"], path["accessible"]) == (1, True, True, True)
    wait_for(lambda: len(pair.far.call("nvmf_subsystem_get_qpairs", nqn=NQN)) == 2)
    pair.near.call("bdev_nvme_detach_controller", name="r0")
    assert pair.near.call("nvmf_get_subsystems", nqn=f"{NQN}b")[0]["namespaces"] == []
    assert pair.far.call("nvmf_subsystem_get_controllers", nqn=NQN) == []


@pytest.mark.parametrize(
    "params",
    [
        {"subnqn": f"{NQN}b"},
        {"traddr": "127.0.0.2"},
        {"adrfam": "IPv6", "traddr": "::1"},
        {"trsvcid": "x"},
        {"hostaddr": "192.0.2.1"},
        {"hostsvcid": "x"},
        {"hostsvcid": "0"},
        {"hostsvcid": "65536"},
    ],
)
def test_what_cannot_be_reached(pair: Pair, params: dict[str, Any]) -> None:
    assert pair.refused(**params) == IO_ERROR
    assert pair.near.call("bdev_nvme_get_controllers") == []


def test_only_allowed_hosts_get_in(pair: Pair) -> None:
    pair.far.call("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
    assert pair.refused() == IO_ERROR
    pair.far.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST)
    assert pair.attach() == ["r0n1"]
    pair.far.call("nvmf_subsystem_remove_host", nqn=NQN, host=HOST)
    wait_for(lambda: pair.states() == ["failed"])


def test_namespaces_can_be_shown_to_some_hosts_only(pair: Pair) -> None:
    pair.far.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m1", "no_auto_visible": True})
    assert pair.attach() == ["r0n1"]
    pair.far.call("nvmf_ns_add_host", nqn=NQN, nsid=2, host=HOST)
    wait_for(lambda: pair.bdevs() == ["r0n1", "r0n2"])
    pair.far.call("nvmf_ns_remove_host", nqn=NQN, nsid=2, host=HOST)
    wait_for(lambda: pair.bdevs() == ["r0n1"])


def test_a_secure_channel_needs_the_same_psk(pair: Pair, folder: Path) -> None:
    add_key(pair.far, folder, "far", PSK)
    add_key(pair.near, folder, "same", PSK)
    add_key(pair.near, folder, "other", OTHER_PSK)
    secure_port = free_port()
    pair.far.call("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
    pair.far.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, psk="far")
    pair.far.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=pair.address(secure_port), secure_channel=True)
    assert pair.refused(psk="same") == IO_ERROR, "a plain listener knows no PSK"
    pair.ports[0] = secure_port
    assert pair.refused() == IO_ERROR
    assert pair.refused(psk="other") == IO_ERROR
    assert pair.attach(psk="same") == ["r0n1"]
    assert [key["refcnt"] for key in pair.near.call("keyring_get_keys")] == [2, 1]
    pair.near.call("bdev_nvme_detach_controller", name="r0")
    assert [key["refcnt"] for key in pair.near.call("keyring_get_keys")] == [1, 1]


def test_in_band_authentication(pair: Pair, folder: Path) -> None:
    for client in (pair.near, pair.far):
        side = folder / str(client is pair.near)
        side.mkdir()
        add_key(client, side, "host", "DHHC-1:00:host:")
        add_key(client, side, "ctrlr", "DHHC-1:00:ctrlr:")
    pair.far.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, dhchap_key="host", dhchap_ctrlr_key="ctrlr")
    assert pair.refused() == IO_ERROR
    assert pair.refused(dhchap_key="ctrlr") == IO_ERROR
    assert pair.refused(dhchap_key="host", dhchap_ctrlr_key="host") == IO_ERROR
    assert pair.attach(dhchap_key="host", dhchap_ctrlr_key="ctrlr") == ["r0n1"]


def test_a_dead_target_fails_the_controller_and_a_reset_finds_it_again(pair: Pair, start_target: StartTarget) -> None:
    pair.attach()
    pair.far_target.kill()
    wait_for(lambda: pair.states() == ["failed"])
    assert pair.bdevs() == ["r0n1"]
    assert pair.near.error("emulator_read", name="r0n1") == IO_ERROR
    assert pair.near.error("bdev_nvme_reset_controller", name="r0") == (-1, "Operation not permitted")
    again = start_target("again").client
    again.call("nvmf_create_transport", trtype="TCP")
    again.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    again.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=pair.address(pair.ports[0]))
    pair.near.call("bdev_nvme_reset_controller", name="r0")
    assert (pair.states(), pair.bdevs()) == (["enabled"], [])


def test_a_lost_controller_waits_before_it_connects_again(pair: Pair) -> None:
    pair.attach(ctrlr_loss_timeout_sec=3600, reconnect_delay_sec=3600)
    pair.far.call("nvmf_delete_subsystem", nqn=NQN)
    wait_for(lambda: pair.states() == ["reconnect_is_delayed"])
    assert pair.bdevs() == ["r0n1"]


def test_a_lost_controller_is_given_up_after_its_timeout(pair: Pair) -> None:
    pair.attach(ctrlr_loss_timeout_sec=1, reconnect_delay_sec=1)
    started = time.monotonic()
    pair.far.call("nvmf_delete_subsystem", nqn=NQN)
    wait_for(lambda: pair.near.call("bdev_nvme_get_controllers") == [])
    assert time.monotonic() - started > 0.99
    assert pair.bdevs() == []


def test_a_second_path_takes_over(pair: Pair) -> None:
    pair.attach(0)
    assert pair.attach(1) == ["r0n1"]
    assert pair.refused(1) == (-17, "File exists")
    pair.far.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=pair.address(pair.ports[0]))
    wait_for(lambda: pair.states() == ["failed", "enabled"])
    pair.near.call("emulator_read", name="r0n1")
    pair.near.call("bdev_nvme_detach_controller", name="r0", **pair.address(pair.ports[1]))
    assert pair.bdevs() == ["r0n1"]
    assert pair.near.error("emulator_read", name="r0n1") == IO_ERROR


def test_no_io_queue_fits_beside_the_admin_queue_on_one_source_port(pair: Pair) -> None:
    waiting = pair.near_target.connect()
    attachment = pair.attachment(hostaddr="127.0.0.2", hostsvcid=free_port())
    waiting.send(waiting.encode("bdev_nvme_attach_controller", attachment))
    wait_for(lambda: pair.bdevs() == ["r0n1"])
    assert pair.near.error("emulator_read", name="r0n1") == IO_ERROR
    assert waiting.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["host"]["addr"] == "127.0.0.2"  # answered first
    pair.attach(1)
    assert waiting.read()["result"] == ["r0n1"]
    pair.near.call("emulator_read", name="r0n1")
    waiting.close()


def test_an_attachment_without_io_ends_with_the_controller(pair: Pair) -> None:
    waiting = pair.near_target.connect()
    waiting.send(waiting.encode("bdev_nvme_attach_controller", pair.attachment(hostsvcid=free_port())))
    wait_for(lambda: pair.bdevs() == ["r0n1"])
    pair.near.call("bdev_nvme_detach_controller", name="r0")
    assert waiting.read()["result"] == ["r0n1"]
    assert pair.bdevs() == []
    waiting.close()


def test_failover_connects_to_the_next_address(pair: Pair) -> None:
    pair.attach(0, multipath="failover")
    assert pair.attach(1, multipath="failover") == []
    pair.far.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=pair.address(pair.ports[0]))

    def active() -> str:
        controller = pair.near.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]
        port: str = controller["trid"]["trsvcid"]
        return port

    wait_for(lambda: active() == pair.ports[1] and pair.states() == ["enabled"])
    pair.near.call("emulator_read", name="r0n1")


def test_removing_the_path_in_use_moves_to_the_other(pair: Pair) -> None:
    pair.attach(0, multipath="failover")
    pair.attach(1, multipath="failover")
    pair.near.call("bdev_nvme_detach_controller", name="r0", **pair.address(pair.ports[0]))
    controller = pair.near.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]
    assert controller["trid"]["trsvcid"] == pair.ports[1]
    assert "alternate_trids" not in controller


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"hostnqn": f"{HOST[:-1]}d"}, f"A controller named r0 already exists, but uses a different hostnqn ({HOST})"),
        ({"subnqn": f"{NQN}b"}, f"A controller named r0 already exists, but uses a different subnqn ({NQN})"),
        ({"prchk_guard": True}, "A controller named r0 already exists. To add a path, do not specify PI options."),
        ({"multipath": "failover"}, "Invalid argument"),
        ({"reconnect_delay_sec": 3}, "Invalid argument"),
        ({"max_bdevs": 0}, "max_bdevs cannot be zero"),
        ({"adrfam": "IPv5"}, "Failed to parse adrfam: IPv5"),
        ({"num_io_queues": 0}, "num_io_queues out of bounds, min: 1 max: 65536"),
    ],
)
def test_paths_that_do_not_fit(pair: Pair, params: dict[str, Any], error: str) -> None:
    pair.attach()
    assert pair.refused(1, **params) == (-22, error)


def test_a_path_belongs_to_one_name(pair: Pair) -> None:
    pair.attach()
    assert pair.refused(name="r1") == (-17, "File exists")


def test_a_target_attached_to_itself_shows_nothing_unless_the_nguid_differs(pair: Pair) -> None:
    own = {"name": "self", "subnqn": NQN, "hostnqn": HOST, **pair.address(pair.ports[0])}
    assert pair.far.call("bdev_nvme_attach_controller", **own) == []
    namespace = {"bdev_name": "m1", "nguid": "ABCDEF0123456789ABCDEF0123456789"}
    pair.far.call("nvmf_subsystem_add_ns", nqn=NQN, namespace=namespace)
    wait_for(lambda: len(pair.far.call("bdev_get_bdevs")) == 3)
    assert pair.far.call("bdev_get_bdevs", name="selfn2")[0]["uuid"] == "abcdef01-2345-6789-abcd-ef0123456789"
    pair.far.call("bdev_nvme_detach_controller", name="self")


def test_options_are_fixed_while_controllers_are_attached(pair: Pair) -> None:
    pair.near.call("bdev_nvme_set_options", io_path_stat=True)
    pair.attach()
    pair.near.call("emulator_run_io", name="r0n1", writes=2, blocks=1)
    stats = pair.near.call("bdev_nvme_get_path_iostat", name="r0n1")["stats"]
    assert [(path["trid"]["trsvcid"], path["stat"]["num_write_ops"]) for path in stats] == [(pair.ports[0], 2)]
    failed = pair.near.error("bdev_nvme_set_options", io_path_stat=False)
    assert failed == (-1, "RPC not permitted with nvme controllers already attached")


def test_disabling_and_enabling(pair: Pair) -> None:
    pair.attach()
    pair.near.call("bdev_nvme_disable_controller", name="r0")
    assert pair.states() == ["disabled"]
    pair.near.call("bdev_nvme_enable_controller", name="r0", cntlid=1)
    assert pair.states() == ["enabled"]
    assert pair.near.error("bdev_nvme_enable_controller", name="r0", cntlid=77) == (-19, "No such device")


def test_two_detachments_in_one_write(pair: Pair) -> None:
    pair.attach()
    answers = pair.near.together(*[("bdev_nvme_detach_controller", {"name": "r0"})] * 2)
    assert answers[0]["result"] is True
    assert pair.near.call("bdev_nvme_get_controllers") == []


def test_other_clients_of_a_listener_are_sent_away(pair: Pair) -> None:
    for content in (b"\x00" * 128, b'{"hostnqn": 1}\n', b"[]\n"):
        with socket.create_connection(("127.0.0.1", int(pair.ports[0])), PATIENCE_S) as stranger:
            stranger.sendall(content)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    assert pair.attach() == ["r0n1"]
