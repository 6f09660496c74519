"""Calls in one write: what the target does at once, and what only a turn later."""

from typing import Any

from tests.emulator.emulated import Client

NQN = "nqn.2016-06.io.spdk:a"
MALLOC = {"name": "m0", "block_size": 512, "num_blocks": 2048}
INTERNAL_ERROR = {"code": -32603, "message": "Internal error"}


def namespaces(answer: dict[str, Any]) -> list[int]:
    return [namespace["nsid"] for namespace in answer["result"][0]["namespaces"]]


def test_a_stack_in_one_write(client: Client) -> None:
    key = {"name": "k", "cipher": "AES_XTS", "key": "00" * 16, "key2": "11" * 16}
    answers = client.together(
        ("bdev_malloc_create", MALLOC),
        ("accel_crypto_key_create", key),
        ("bdev_crypto_create", {"name": "e0", "base_bdev_name": "m0", "key_name": "k"}),
        ("bdev_set_qos_limit", {"name": "e0", "rw_ios_per_sec": 2000}),
        ("nvmf_create_subsystem", {"nqn": NQN, "allow_any_host": True}),
        ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "e0"}}),
    )
    assert [answer.get("result") for answer in answers] == ["m0", True, "e0", True, True, 1]


def test_a_subsystem_read_in_the_write_that_changes_it_shows_no_change_yet(client: Client) -> None:
    client.call("bdev_malloc_create", **MALLOC)
    client.call("nvmf_create_subsystem", nqn=NQN)
    added, read = client.together(
        ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "m0"}}),
        ("nvmf_get_subsystems", {"nqn": NQN}),
    )
    assert added["result"] == 1
    assert namespaces(read) == []
    assert namespaces({"result": client.call("nvmf_get_subsystems", nqn=NQN)}) == [1]


def test_a_change_before_a_deletion_in_one_write_is_made_and_fails(client: Client) -> None:
    client.call("bdev_malloc_create", **MALLOC)
    client.call("nvmf_create_subsystem", nqn=NQN)
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m0"})
    removed, deleted = client.together(
        ("nvmf_subsystem_remove_ns", {"nqn": NQN, "nsid": 1}), ("nvmf_delete_subsystem", {"nqn": NQN})
    )
    assert removed["error"] == INTERNAL_ERROR
    assert deleted["result"] is True
    assert client.call("bdev_get_bdevs", name="m0")[0]["claimed"] is False


def test_a_subsystem_being_deleted_can_neither_change_nor_be_made_again(client: Client) -> None:
    client.call("bdev_malloc_create", **MALLOC)
    client.call("nvmf_create_subsystem", nqn=NQN)
    deleted, added, again, created = client.together(
        ("nvmf_delete_subsystem", {"nqn": NQN}),
        ("nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "m0"}}),
        ("nvmf_delete_subsystem", {"nqn": NQN}),
        ("nvmf_create_subsystem", {"nqn": NQN}),
    )
    assert deleted["result"] is True
    assert added["error"] == INTERNAL_ERROR
    assert again["error"] == {"code": -32603, "message": "Subsystem is already being destroyed."}
    assert created["error"] == {"code": -32603, "message": f"Unable to create subsystem {NQN}"}
    assert client.call("nvmf_create_subsystem", nqn=NQN) is True


def test_a_bdev_being_deleted_is_gone_for_calls_but_keeps_its_name(client: Client) -> None:
    client.call("bdev_malloc_create", **MALLOC)
    deleted, read, again, created = client.together(
        ("bdev_malloc_delete", {"name": "m0"}),
        ("bdev_get_bdevs", {"name": "m0"}),
        ("bdev_malloc_delete", {"name": "m0"}),
        ("bdev_malloc_create", MALLOC),
    )
    assert deleted["result"] is True
    assert read["error"]["code"] == -19
    assert again["error"]["code"] == -19
    assert created["error"]["code"] == -17
    assert client.call("bdev_malloc_create", **MALLOC) == "m0"


def test_two_limits_in_one_write_are_one_too_many(client: Client) -> None:
    client.call("bdev_malloc_create", **MALLOC)
    client.call("nvmf_create_subsystem", nqn=NQN)
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m0"})
    first, second = client.together(
        ("bdev_set_qos_limit", {"name": "m0", "rw_ios_per_sec": 1000}),
        ("bdev_set_qos_limit", {"name": "m0", "rw_ios_per_sec": 2000}),
    )
    assert first["result"] is True
    assert second["error"]["message"] == "Failed to configure rate limit: Resource temporarily unavailable"


def test_transports_are_made_a_turn_later(client: Client) -> None:
    created, twin, listed = client.together(
        ("nvmf_create_transport", {"trtype": "TCP"}),
        ("nvmf_create_transport", {"trtype": "TCP"}),
        ("nvmf_get_transports", None),
    )
    assert created["result"] is True
    assert twin["result"] is True, "the target notices none of two that are made together"
    assert listed["result"] == []
    assert [transport["trtype"] for transport in client.call("nvmf_get_transports")] == ["TCP", "TCP"]
