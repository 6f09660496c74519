"""Where requests end in a stream of bytes, however it is cut."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from opi_spdk_bridge.emulator.framing import InvalidJsonError, Scanner
from tests.emulator.emulated import Client, EmulatedTarget, run_target

RECEIVE_BUFFER_BYTES = 256 * 1024
VERSION = b'{"jsonrpc":"2.0","id":1,"method":"spdk_get_version"}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda members: st.lists(members, max_size=4) | st.dictionaries(st.text(), members, max_size=4),
    max_leaves=12,
)
containers = json_values.filter(lambda value: isinstance(value, dict | list))


def cut(content: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[start:end] for start, end in pairwise(edges)]


@given(containers, st.lists(st.integers(min_value=0), max_size=8), st.booleans(), st.booleans())
def test_a_value_ends_where_it_ends(value: Any, places: list[int], spaced: bool, ascii_only: bool) -> None:
    content = json.dumps(value, indent=2 if spaced else None, ensure_ascii=ascii_only).encode()
    scanner, buffer = Scanner(), bytearray()
    for chunk in cut(content + b"{", places)[:-1]:
        buffer += chunk
        end = scanner.scan(buffer)
        assert end == (len(content) if len(buffer) >= len(content) else None)
        if end is not None:
            return


@given(st.text(alphabet='{}[]:,"\\ tn1-.eu0a\x01', max_size=12))
@example('{"a":1,}')
@example("[1 2]")
@example('{"a" 1}')
@example("[tru]")
@example("01")
def test_what_cannot_become_json_is_refused(text: str) -> None:
    buffer = text.encode()
    try:
        end = Scanner().scan(buffer)
    except InvalidJsonError:
        with pytest.raises(ValueError, match=r"."):
            json.loads(text)
        return
    if end == len(buffer) and "\\" not in text:
        json.loads(text)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedTarget]:
    with run_target(Path(tmp_path_factory.mktemp("framing"))) as target:
        yield target


@pytest.fixture
def client(shared: EmulatedTarget) -> Iterator[Client]:
    client = shared.connect()
    yield client
    client.close()


requests = st.sampled_from(
    [
        {"jsonrpc": "2.0", "id": 7, "method": "bdev_get_bdevs", "params": {"name": 'é{"]'}},
        {"jsonrpc": "2.0", "id": "a\\b", "method": "spdk_get_version"},
        {"id": 1.5, "method": "nope"},
        {"jsonrpc": "1.0", "id": 1, "method": "spdk_get_version"},
        [{"id": 4, "method": "bdev_get_bdevs"}, {"id": 5, "method": "nope"}],
        [],
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(requests, min_size=1, max_size=6),
    st.lists(st.integers(min_value=0), max_size=6),
    st.sampled_from(["", "\n", " \r\n\t"]),
    st.booleans(),
)
def test_any_cutting_yields_the_same_answers(
    shared: EmulatedTarget, values: list[Any], places: list[int], between: str, ascii_only: bool
) -> None:
    whole, pieces = shared.connect(), shared.connect()
    content = between.join(json.dumps(value, ensure_ascii=ascii_only) for value in values).encode()
    whole.send(content)
    for chunk in cut(content, places):
        pieces.send(chunk)
    of_pieces, of_whole = (sorted(json.dumps(wire.read()) for _ in values) for wire in (pieces, whole))
    assert of_pieces == of_whole, "in whichever order: a method may take longer than the next one"
    whole.close()
    pieces.close()


def test_one_byte_at_a_time(client: Client) -> None:
    for byte in VERSION:
        client.send(bytes([byte]))
    assert client.read()["result"]["version"] == "SPDK v26.09-pre"


def test_a_request_as_long_as_the_receive_buffer(client: Client) -> None:
    padding = RECEIVE_BUFFER_BYTES - len(VERSION)
    client.send(VERSION[:-1] + b" " * padding + b"}")
    assert client.read()["id"] == 1


def test_a_longer_request_ends_the_connection(client: Client) -> None:
    client.send(b'{"id":1,"method":"' + b"a" * RECEIVE_BUFFER_BYTES + b'"}')
    assert client.read() is None


def test_a_long_request_in_small_pieces_is_not_slow(client: Client) -> None:
    content = b'{"id":1,"method":"' + b"a" * (RECEIVE_BUFFER_BYTES - 100) + b'"}'
    for chunk in cut(content, list(range(0, len(content), 512))):
        client.send(chunk)
    assert client.read()["error"]["code"] == -32601


@pytest.mark.parametrize(("count", "answered"), [(8186, True), (8187, False)])
def test_a_request_has_8192_values_at_most(client: Client, count: int, answered: bool) -> None:
    # Beside the numbers: {, method, its value, params, [, ], }. The name and value of an ID would be two more.
    numbers = ",".join("0" * (count - 1))
    client.send(b'{"method":"nope","params":[' + numbers.encode() + b"]}")
    assert (client.read() is not None) is answered


@pytest.mark.parametrize(
    "content",
    [
        b"{]",
        b'{"a" 1}',
        b'{"id":NaN,"method":"x"}',
        b'{"id":"\\ud800","method":"x"}',
        b'{"id":"\x01"',
        b'{"id":"\xff"}',
    ],
)
def test_bytes_that_are_no_json_end_the_connection(client: Client, content: bytes) -> None:
    client.send(content)
    assert client.read() is None


def test_nesting_has_64_levels_at_most(client: Client) -> None:
    nested = b"[" * 62 + b"]" * 62
    client.send(b'{"id":1,"method":"nope","params":[' + nested + b"]}")
    assert client.read()["error"]["code"] == -32601
    client.send(b'{"id":1,"method":"nope","params":[[' + nested + b"]]}")
    assert client.read() is None


def test_what_came_before_bad_bytes_is_done_but_not_answered(client: Client, shared: EmulatedTarget) -> None:
    client.send(client.encode("bdev_null_create", {"name": "kept", "block_size": 512, "num_blocks": 8}) + b"}")
    assert client.read() is None
    assert shared.client.call("bdev_get_bdevs", name="kept")[0]["num_blocks"] == 8


def test_ids_come_back_as_they_were_written(client: Client) -> None:
    client.send(b'{"id":1.50,"method":"nope"}{"id":-3,"method":"nope"}{"id":"\\u00e9","method":"nope"}')
    assert [client.read()["id"] for _ in range(3)] == [1.5, -3, "é"]


def test_a_call_without_id_has_no_answer_unless_it_fails(client: Client) -> None:
    client.send(b'{"method":"spdk_get_version"}{"method":"nope"}{"id":9,"method":"spdk_get_version"}')
    assert client.read()["error"]["code"] == -32601
    assert client.read()["id"] == 9


def test_a_batch_of_calls_without_ids_has_no_answer(client: Client) -> None:
    client.send(b'[{"method":"spdk_get_version"},{"method":"spdk_get_version"}]' + VERSION)
    assert client.read()["id"] == 1


def test_answers_still_leave_when_the_client_has_finished_writing(client: Client) -> None:
    client.send(VERSION)
    client.shutdown_write()
    assert client.read()["id"] == 1
    assert client.read() is None


@pytest.mark.parametrize(
    ("params", "refused"),
    [
        ('{"name":"a","block_size":512,"num_blocks":1e1}', False),
        ('{"name":"b","block_size":512,"num_blocks":1.5}', True),
        ('{"name":"c","block_size":512,"num_blocks":18446744073709551616}', True),
        ('{"name":"d","name":"d","block_size":512,"num_blocks":8}', True),
        ('{"name":"e\\u0000","block_size":512,"num_blocks":8}', True),
        ('{"name":"f","block_size":true,"num_blocks":8}', True),
        ('{"name":null,"block_size":512,"num_blocks":8}', True),
        ("[]", True),
    ],
)
def test_parameters_are_strict(client: Client, params: str, refused: bool) -> None:
    client.send(f'{{"id":1,"method":"bdev_null_create","params":{params}}}'.encode())
    answer = client.read()
    assert ("error" in answer) is refused
    if refused:
        assert answer["error"] == {"code": -32603, "message": "spdk_json_decode_object failed"}


def test_a_65th_connection_waits_until_one_ends(shared: EmulatedTarget) -> None:
    clients = [shared.connect() for _ in range(63)]
    waiting = shared.connect()
    waiting.send(VERSION)
    clients.pop().close()
    assert waiting.read()["id"] == 1
    for client in (*clients, waiting):
        client.close()
