"""Subsystems: who may connect, where, and to what."""

import socket
from pathlib import Path

import pytest

from tests.emulator.emulated import Client, EmulatedTarget, free_port

NQN = "nqn.2016-06.io.spdk:a"
HOST = "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c"
PSK = "NVMeTLSkey-1:01:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmZwJEiQ:"
INVALID = (-32602, "Invalid parameters")


def tcp(port: str, address: str = "127.0.0.1", family: str = "IPv4") -> dict[str, str]:
    return {"trtype": "TCP", "adrfam": family, "traddr": address, "trsvcid": port}


def listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.fixture
def client(target: EmulatedTarget) -> Client:
    target.client.call("nvmf_create_transport", trtype="TCP")
    target.client.call("nvmf_create_subsystem", nqn=NQN)
    return target.client


@pytest.mark.parametrize(
    ("nqn", "valid"),
    [
        ("nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555", True),
        ("nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-55555555555g", False),
        ("nqn.2016-06.io.spdk:é", True),
        ("nqn.2016-06.a-b.c1:x", True),
        ("nqn.2016-06.1a.b:x", False),
        ("nqn.2016-06.a-.b:x", False),
        ("nqn.2016-06.a..b:x", False),
        ("nqn.2016-6.io.spdk:x", False),
        ("nqn.2016-06.io.spdk:", False),
        ("nqn.2016-06.io.spdk", False),
        ("nqn.2016-06.io.spdk:" + "x" * 203, True),
        ("nqn.2016-06.io.spdk:" + "x" * 204, False),
    ],
)
def test_what_is_an_nqn(client: Client, nqn: str, valid: bool) -> None:
    if valid:
        client.call("nvmf_create_subsystem", nqn=nqn)
        assert client.call("nvmf_get_subsystems", nqn=nqn)[0]["nqn"] == nqn
    else:
        assert client.error("nvmf_create_subsystem", nqn=nqn) == (-32603, f"Unable to create subsystem {nqn}")


def test_a_target_has_1024_subsystems_at_most(client: Client) -> None:
    calls = [("nvmf_create_subsystem", {"nqn": f"{NQN}{number}"}) for number in range(1023)]
    answers = client.together(*calls)
    assert ["error" in answer for answer in answers] == [False] * 1022 + [True]


def test_subsystems_are_listed_by_name(client: Client) -> None:
    client.call("nvmf_create_subsystem", nqn="nqn.2010-06.io.spdk:z")
    names = [subsystem["nqn"] for subsystem in client.call("nvmf_get_subsystems")]
    assert names == sorted(names)


def test_namespace_ids_are_given_from_the_lowest_free_one(client: Client) -> None:
    for number in range(5):
        client.call("bdev_null_create", name=f"n{number}", block_size=512, num_blocks=8)
    add = [client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"n{number}"}) for number in range(3)]
    assert add == [1, 2, 3]
    client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2)
    assert client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n3"}) == 2
    assert client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n4"}) == 4


def test_a_listener_is_shared_by_subsystems_and_closed_after_the_last(client: Client) -> None:
    port = free_port()
    other = f"{NQN}b"
    client.call("nvmf_create_subsystem", nqn=other)
    for nqn in (NQN, other):
        client.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=tcp(port))
    client.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=tcp(port))
    assert listens(port)
    client.call("nvmf_delete_subsystem", nqn=other)
    assert not listens(port)


def test_an_address_in_use_cannot_be_listened_on(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert client.error("nvmf_subsystem_add_listener", nqn=NQN, listen_address=tcp(port)) == INVALID


@pytest.mark.parametrize(
    "address",
    [tcp("4420", "localhost"), tcp("4420", "::1"), tcp("4420", "127.0.0.1", "IPv6"), tcp("0"), tcp("4420", "")],
)
def test_addresses_must_be_numeric_and_of_their_family(client: Client, address: dict[str, str]) -> None:
    assert client.error("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address) == INVALID


def test_unknown_members_pass_beside_an_address_but_not_in_it(client: Client) -> None:
    address = tcp(free_port())
    client.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address, newer=1)
    worse = {**address, "newer": 1}
    assert client.error("nvmf_subsystem_add_listener", nqn=NQN, listen_address=worse) == INVALID


def test_ana_states(client: Client) -> None:
    nqn, address = f"{NQN}b", tcp(free_port())
    client.call("nvmf_create_subsystem", nqn=nqn, ana_reporting=True, max_namespaces=2)
    client.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address, ana_state="non_optimized")
    set_state = "nvmf_subsystem_listener_set_ana_state"
    client.call(set_state, nqn=nqn, listen_address=address, ana_state="inaccessible", anagrpid=2)
    states = client.call("nvmf_subsystem_get_listeners", nqn=nqn)[0]["ana_states"]
    assert [state["ana_state"] for state in states] == ["non_optimized", "inaccessible"]
    failed = client.error(set_state, nqn=nqn, listen_address=address, ana_state="optimized", anagrpid=3)
    assert failed == (-32603, "error setting ANA state: -22")


def test_a_psk_must_be_one(client: Client, folder: Path) -> None:
    for name, text in (("good", PSK), ("bad", PSK.replace("MDAx", "MDAy")), ("plain", "secret")):
        path = folder / name
        path.touch(0o600)
        path.write_text(text)
        client.call("keyring_file_add_key", name=name, path=str(path))
    for name in ("bad", "plain"):
        failed = client.error("nvmf_subsystem_add_host", nqn=NQN, host=HOST, psk=name)
        assert failed == (-32603, "Internal error")
    assert client.call("nvmf_get_subsystems", nqn=NQN)[0]["hosts"] == []
    client.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, psk="good")
    assert [key["refcnt"] for key in client.call("keyring_get_keys")] == [2, 1, 1]
    client.call("nvmf_subsystem_remove_host", nqn=NQN, host=HOST)
    assert [key["refcnt"] for key in client.call("keyring_get_keys")] == [1, 1, 1]


def test_a_psk_reaches_only_the_transports_that_are_there_when_its_host_is_added(
    target: EmulatedTarget, folder: Path
) -> None:
    client, path = target.client, folder / "key"
    path.touch(0o600)
    path.write_text(PSK)
    client.call("keyring_file_add_key", name="k", path=str(path))
    client.call("nvmf_create_subsystem", nqn=NQN)
    client.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, psk="k")
    client.call("nvmf_create_transport", trtype="TCP")
    assert [key["refcnt"] for key in client.call("keyring_get_keys")] == [1], "nobody has taken it"
    client.call("nvmf_subsystem_remove_host", nqn=NQN, host=HOST)
    client.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, psk="k")
    assert [key["refcnt"] for key in client.call("keyring_get_keys")] == [2]


def test_keys_are_counted(client: Client, folder: Path) -> None:
    path = folder / "key"
    path.touch(0o600)
    client.call("keyring_file_add_key", name=":k", path=str(path))
    assert client.error("keyring_file_add_key", name="k", path=str(path)) == (-17, "File exists")
    assert client.error("keyring_file_add_key", name="other:k", path=str(path)) == (-22, "Invalid argument")
    client.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST, dhchap_key="k")
    assert client.call("nvmf_get_subsystems", nqn=NQN)[0]["hosts"] == [{"nqn": HOST, "dhchap_key": ":k"}]
    client.call("keyring_file_remove_key", name="k")
    removed = {"name": ":k", "module": "keyring_file", "removed": True, "probed": False, "refcnt": 1}
    assert client.call("keyring_get_keys") == [removed]
    client.call("nvmf_subsystem_set_keys", nqn=NQN, host=HOST)
    assert client.call("keyring_get_keys") == []


def test_a_secure_listener_needs_named_hosts(client: Client) -> None:
    client.call("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=True)
    failed = client.error("nvmf_subsystem_add_listener", nqn=NQN, listen_address=tcp(free_port()), secure_channel=True)
    assert failed == (-32603, "Cannot establish secure channel, when 'allow_any_host' is set")


def test_vfio_user_sockets_come_and_go(client: Client, folder: Path) -> None:
    address = {"trtype": "VFIOUSER", "traddr": str(folder)}
    assert client.error("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address) == INVALID
    client.call("nvmf_create_transport", trtype="vfiouser")
    client.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=address)
    assert (folder / "cntrl").is_socket()
    client.call("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address)
    assert not (folder / "cntrl").exists()


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"trtype": "RDMA"}, (-32603, "Failed to create transport.")),
        ({"trtype": "VFIOUSER", "kas": 0}, (-32603, "Transport type 'VFIOUSER' create failed")),
        ({"trtype": "VFIOUSER", "max_io_size": 8191}, (-32603, "Transport type 'VFIOUSER' create failed")),
        ({"trtype": "PCIe"}, (-32602, "Invalid transport type 'PCIe'")),
        ({"trtype": "tcp"}, (-32603, "Transport type 'tcp' already exists")),
    ],
)
def test_transports_that_cannot_be_made(client: Client, params: dict[str, object], error: tuple[int, str]) -> None:
    assert client.error("nvmf_create_transport", **params) == error


def test_referrals(client: Client) -> None:
    client.call("nvmf_discovery_add_referral", address=tcp("4420"), secure_channel=True)
    listed = {
        "address": tcp("4420"),
        "secure_channel": True,
        "subnqn": "nqn.2014-08.org.nvmexpress.discovery",
    }
    assert client.call("nvmf_discovery_get_referrals") == [listed]
    client.call("nvmf_discovery_remove_referral", address=tcp("4420"))
    failed = client.error("nvmf_discovery_remove_referral", address=tcp("4420"))
    assert failed == (-32603, "Unable to remove a referral.")
