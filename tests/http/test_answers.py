"""What answers over HTTP show: also what is not set, as grpc-gateway does, but no keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from opi_spdk_bridge.api.protojson import shown
from opi_spdk_bridge.daemon.resources import kinds_only
from tests.http import contract
from tests.http.web import Web
from tests.http.world import Made
from tests.kinds.world import NOUNS
from tests.support.array import HOST_NQN, TEST_PSK_BASE64
from tests.support.target import Emulator

_ANSWERS = {item.response.DESCRIPTOR.full_name: item.response for item in contract.METHODS}
_VALUES: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: 'a "text" with ü',
    FieldDescriptor.TYPE_BOOL: True,
    FieldDescriptor.TYPE_INT32: -(2**31),
    FieldDescriptor.TYPE_UINT32: 2**32 - 1,
    FieldDescriptor.TYPE_INT64: 2**63 - 1,
    FieldDescriptor.TYPE_BYTES: b"\x00\xff\xfe",
}


def _fill(message: Any) -> Message:
    """Sets every field; of a oneof the last."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            for item in [getattr(message, field.name).add() for _ in range(2)] if field.is_repeated else []:
                _fill(item)
            if not field.is_repeated:
                getattr(message, field.name).SetInParent()
                _fill(getattr(message, field.name))
        else:
            value = field.enum_type.values[-1].number if field.enum_type is not None else _VALUES[field.type]
            setattr(message, field.name, value)
    filled: Message = message
    return filled


def _expected(message: Message) -> Any:
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


@pytest.mark.parametrize("name", _ANSWERS)
def test_what_is_set_is_shown_as_protobuf_shows_it(name: str) -> None:
    filled = _fill(_ANSWERS[name]())
    assert shown(filled) == _expected(filled)


@pytest.mark.parametrize("name", _ANSWERS)
def test_what_is_not_set_is_shown_but_for_keys(name: str) -> None:
    message = _ANSWERS[name]()
    keys = {field.json_name for field in message.DESCRIPTOR.fields if field.type == FieldDescriptor.TYPE_BYTES}
    assert shown(message) == {key: value for key, value in _expected(message).items() if key not in keys}


def test_numbers_of_enums_that_have_no_name_are_numbers() -> None:
    controller = contract.method("GetNvmeController").response(spec={"trtype": 99})
    assert shown(controller)["spec"]["trtype"] == 99


def _secrets() -> Iterator[tuple[str, Any]]:
    for kind in kinds_only().kinds.values():
        for path in kind.secrets:
            *above, last = path.split(".")
            message: Any = kind.message.DESCRIPTOR
            for part in above:
                message = message.fields_by_name[part].message_type
            yield f"{kind.message.DESCRIPTOR.name}.{path}", message.fields_by_name[last]


def test_every_secret_is_of_the_sort_that_is_not_shown_empty() -> None:
    found = dict(_secrets())
    assert found
    assert {name for name, field in found.items() if field.type != FieldDescriptor.TYPE_BYTES} == set()


def test_a_list_has_its_items_and_the_next_page_also_where_there_are_none(served: Web) -> None:
    assert served.http.get("/v1/virtioBlks").json() == {"virtioBlks": [], "nextPageToken": ""}


def test_a_resource_shows_what_is_not_set(served: Web, world: dict[str, Made]) -> None:
    subsystem = served.http.get(f"/v1/{world['NvmeSubsystem'].name}").json()
    assert subsystem["spec"]["hostnqn"] == ""
    controller = served.http.get(f"/v1/{world['NvmeController'].name}").json()
    assert (controller["spec"]["maxNcq"], controller["status"]["active"]) == (0, True)


@pytest.mark.parametrize("noun", NOUNS)
def test_what_was_answered_can_be_sent_back(served: Web, world: dict[str, Made], noun: str) -> None:
    _sent_back(served, world[noun].name)


def _sent_back(served: Web, name: str) -> None:
    answered = served.http.get(f"/v1/{name}").json()
    again = served.http.patch(f"/v1/{name}", json=answered)
    assert again.status_code == 200, again.text
    assert again.json() == answered
    assert served.http.patch(f"/v1/{name}?updateMask=*", json=answered).json() == answered


def test_what_is_sent_back_keeps_its_key(served: Web, near_and_far: tuple[Emulator, Emulator]) -> None:
    near, _ = near_and_far
    spec = {"nqn": "nqn.2022-09.io.spdk:keyed", "hostnqn": HOST_NQN, "psk": TEST_PSK_BASE64}
    made = served.http.post("/v1/nvmeSubsystems?nvmeSubsystemId=keyed", json={"spec": spec})
    assert made.status_code == 200, made.text
    assert "psk" not in made.json()["spec"]
    assert TEST_PSK_BASE64 not in made.text
    before = near.rpc("keyring_get_keys"), near.subsystem(spec["nqn"])
    assert before[0], "the target has the key"
    _sent_back(served, "nvmeSubsystems/keyed")
    assert (near.rpc("keyring_get_keys"), near.subsystem(spec["nqn"])) == before
    assert served.http.delete("/v1/nvmeSubsystems/keyed").status_code == 200
