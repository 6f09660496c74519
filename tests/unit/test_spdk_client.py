from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk.client import Call, Client
from opi_spdk_bridge.spdk.errors import SpdkError
from tests.support.clock import Clock
from tests.support.patience import HOUR_S, PATIENCE_S, spin

from .scripted_target import METHODS, ScriptedTarget, overdue, scripted, until

Pair = tuple[ScriptedTarget, Client]


def call(method: str = "echo", **params: Any) -> Call[Any]:
    return Call(method, params or None, lambda result: result)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with scripted(connect_grace_s=HOUR_S, call_timeout_s=HOUR_S, silence_s=100 * HOUR_S) as made:
        yield made


def in_flight(client: Client) -> int:
    assert client._connection is not None
    return len(client._connection._in_flight)


async def outcomes(*futures: asyncio.Future[Any]) -> list[Any]:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*futures, return_exceptions=True)


# Requests and answers


async def test_a_call_is_a_json_rpc_request_and_ends_in_its_result(pair: Pair) -> None:
    target, client = pair
    waiting = asyncio.create_task(client.call(call("bdev_get_bdevs", name="x")))
    request = await target.request("bdev_get_bdevs")
    assert request == {"jsonrpc": "2.0", "id": request["id"], "method": "bdev_get_bdevs", "params": {"name": "x"}}
    target.answer(request, [1, {"a": None}])
    assert await waiting == [1, {"a": None}]


async def test_a_call_without_parameters_sends_none(pair: Pair) -> None:
    target, client = pair
    future = client.submit(call("bdev_get_bdevs"))
    request = await target.request("bdev_get_bdevs")
    assert "params" not in request
    target.answer(request, None)
    assert await future is None


async def test_an_answered_error_keeps_code_message_and_method(pair: Pair) -> None:
    target, client = pair
    future = client.submit(call("bdev_null_create", name="x"))
    target.refuse(await target.request("bdev_null_create"), -17, "File exists")
    with pytest.raises(SpdkError) as refused:
        await future
    assert (refused.value.method, refused.value.code, refused.value.message) == ("bdev_null_create", -17, "File exists")


async def test_answers_are_matched_by_id_in_whatever_order_they_come(pair: Pair) -> None:
    target, client = pair
    futures = [client.submit(call("echo", number=number)) for number in range(5)]
    requests = [await target.request("echo") for _ in range(5)]
    for request in reversed(requests):
        target.answer(request, request["params"]["number"])
    assert await outcomes(*futures) == [0, 1, 2, 3, 4]
    assert in_flight(client) == 0


async def test_calls_submitted_together_leave_in_one_write(pair: Pair) -> None:
    target, client = pair
    target.answers["echo"] = lambda params: params
    target.reads.clear()
    await outcomes(*(client.submit(call("echo", number=number)) for number in range(30)))
    assert target.reads == [30]


async def test_calls_of_many_tasks_that_run_in_one_turn_leave_in_one_write(pair: Pair) -> None:
    target, client = pair
    target.answers["echo"] = lambda params: params
    target.reads.clear()
    await asyncio.gather(*(client.call(call("echo", number=number)) for number in range(30)))
    assert target.reads == [30]


async def test_requests_arrive_in_the_order_they_were_submitted(pair: Pair) -> None:
    target, client = pair
    target.answers["echo"] = lambda params: params
    await outcomes(*(client.submit(call("echo", number=number)) for number in range(100)))
    assert [request["params"]["number"] for request in target.received] == list(range(100))


@settings(max_examples=40)
@given(st.data())
async def test_answers_may_arrive_in_any_pieces(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(max_size=20), min_size=1, max_size=5), label="results")
    async with scripted() as (target, client):
        futures = [client.submit(call("echo", text=text)) for text in texts]
        requests = [await target.request("echo") for _ in texts]
        lines = [
            json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]["text"]}, ensure_ascii=False)
            for request in data.draw(st.permutations(requests))
        ]
        sent = "".join(f"{line}\n" for line in lines).encode()
        cuts = sorted(data.draw(st.sets(st.integers(1, len(sent)), max_size=8), label="cuts"))
        for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
            target.send_bytes(sent[start:end])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert await outcomes(*futures) == texts


async def test_an_answer_of_a_megabyte_arrives_whole(pair: Pair) -> None:
    target, client = pair
    future = client.submit(call())
    target.answer(await target.request("echo"), "x" * 1_500_000)
    assert await future == "x" * 1_500_000


async def test_a_result_of_an_unknown_shape_is_an_error_that_names_the_method(pair: Pair) -> None:
    target, client = pair
    future = client.submit(Call("bdev_get_bdevs", None, lambda result: result[0]["name"]))
    target.answer(await target.request("bdev_get_bdevs"), [])
    with pytest.raises(errors.BridgeError, match="bdev_get_bdevs"):
        await future


# What goes wrong


async def test_an_answer_that_does_not_come_in_time_leaves_the_outcome_unknown(pair: Pair, clock: Clock) -> None:
    _, client = pair
    with pytest.raises(errors.AnswerTimeout, match="echo"):
        await overdue(clock, client.call(call()))
    assert in_flight(client) == 0
    assert client.connected, "one slow call does not cost the others their connection"


async def test_the_call_timeout_holds_where_the_caller_sets_no_deadline(pair: Pair, clock: Clock) -> None:
    target, client = pair
    waiting = asyncio.create_task(client.call(call()))
    await target.request("echo")
    clock.advance(HOUR_S)
    with pytest.raises(errors.AnswerTimeout):
        await waiting


async def test_a_late_answer_is_ignored(pair: Pair, clock: Clock) -> None:
    target, client = pair
    await give_up(clock, client, call("slow"))
    future = client.submit(call("echo"))
    target.answer(await target.request("slow"), "late")
    target.answer(await target.request("echo"), "right")
    assert await future == "right"


async def give_up(clock: Clock, client: Client, given_up: Call[Any]) -> None:
    with pytest.raises(errors.AnswerTimeout):
        await overdue(clock, client.call(given_up))


async def test_the_answer_to_a_call_that_was_given_up_can_be_awaited(pair: Pair, clock: Clock) -> None:
    target, client = pair
    await give_up(clock, client, call("slow", name="one"))
    assert not await client.answered_late(call("slow", name="other"))
    with pytest.raises(errors.AnswerTimeout, match="slow"):
        await overdue(clock, client.answered_late(call("slow", name="one")))
    waiting = asyncio.create_task(client.answered_late(call("slow", name="one")))
    target.answer(await target.request("slow"), "late")
    assert await waiting
    assert not await client.answered_late(call("slow", name="one"))


async def test_a_connection_that_is_lost_ends_the_wait_for_late_answers(pair: Pair, clock: Clock) -> None:
    target, client = pair
    await give_up(clock, client, call("slow"))
    waiting = asyncio.create_task(client.answered_late(call("slow")))
    await target.request("slow")
    await target.drop()
    assert await waiting


@pytest.mark.parametrize("number", [0, 10_000, -1, None, "text", 1.5])
async def test_an_answer_that_nobody_asked_for_is_ignored(pair: Pair, number: object) -> None:
    target, client = pair
    future = client.submit(call())
    request = await target.request("echo")
    target.send({"jsonrpc": "2.0", "id": number, "result": "stray"})
    target.answer(request, "right")
    assert await future == "right"
    assert target.connections == 1


async def test_a_call_whose_deadline_has_passed_is_not_sent(pair: Pair) -> None:
    target, client = pair
    with deadline.limit(0), pytest.raises(errors.DeadlineExceeded):
        await client.call(call("never"))
    target.answers["echo"] = lambda _: True
    await client.call(call("echo"))
    assert target.methods == ["echo"]


async def test_a_lost_connection_leaves_what_was_in_flight_unknown(pair: Pair) -> None:
    target, client = pair
    futures = [client.submit(call("echo")) for _ in range(3)]
    for _ in futures:
        await target.request("echo")
    await target.drop()
    results = await outcomes(*futures)
    assert [type(result) for result in results] == [errors.ConnectionLost] * 3


async def test_a_lost_connection_is_told_and_made_again(pair: Pair) -> None:
    target, client = pair
    told: list[str] = []
    client.on_lost.append(lambda: told.append("lost"))
    client.on_connected.append(lambda: told.append("connected"))
    await target.drop()
    await until(lambda: told == ["lost", "connected"])
    target.answers["echo"] = lambda _: "again"
    assert await client.call(call()) == "again"
    assert target.connections == 2


async def test_a_call_made_while_the_target_is_away_waits_for_it(pair: Pair) -> None:
    target, client = pair
    await target.close()
    await until(lambda: not client.connected)
    waiting = asyncio.create_task(client.call(call()))
    await spin()
    assert not waiting.done()
    target.answers["echo"] = lambda _: "back"
    await target.listen()
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "back"


async def test_a_call_that_was_never_sent_is_unavailable_after_the_grace_time(tmp_path: Path, clock: Clock) -> None:
    client = Client(str(tmp_path / "nobody.sock"), connect_grace_s=HOUR_S)
    await client.start()
    waiting = asyncio.create_task(client.call(call()))
    await until(lambda: "No such file" in client.unavailable().message)
    assert not waiting.done()
    clock.advance(HOUR_S)
    with pytest.raises(errors.Unavailable, match=r"nobody\.sock") as refused:
        await waiting
    assert "No such file" in refused.value.message, "it says why"
    await client.close()


async def test_the_callers_deadline_cuts_the_grace_time_short(tmp_path: Path, clock: Clock) -> None:
    client = Client(str(tmp_path / "nobody.sock"), connect_grace_s=10 * HOUR_S)
    await client.start()
    with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
        await overdue(clock, client.call(call()))
    await client.close()


async def test_submitting_without_a_connection_fails_at_once(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "nobody.sock"))
    with pytest.raises(errors.Unavailable):
        await client.submit(call())


async def test_a_call_that_the_connection_died_before_it_could_be_written_is_a_definite_failure(pair: Pair) -> None:
    target, client = pair
    assert client._connection is not None
    client._connection.close()
    future = client.submit(call("never"))
    (result,) = await outcomes(future)
    assert isinstance(result, errors.Unavailable)
    assert "never" not in target.methods


@pytest.mark.parametrize(
    "garbage", [b"this is not JSON\n", b"[1,2]\n", b'"text"\n', b"5\n", b'{"result":1}\n', b"\xff\n"]
)
async def test_garbage_costs_the_connection_and_it_is_made_again(pair: Pair, garbage: bytes) -> None:
    target, client = pair
    future = client.submit(call())
    await target.request("echo")
    target.send_bytes(garbage)
    (result,) = await outcomes(future)
    assert isinstance(result, errors.ConnectionLost)
    await until(lambda: client.connected and target.connections == 2)


@pytest.mark.parametrize("error", ["text", 5, [], {"code": -1}, {"message": "m"}, {}])
async def test_an_error_of_an_unknown_shape_ends_the_call(pair: Pair, error: object) -> None:
    target, client = pair
    future = client.submit(call())
    request = await target.request("echo")
    target.send({"jsonrpc": "2.0", "id": request["id"], "error": error})
    done, _ = await asyncio.wait([future], timeout=PATIENCE_S)
    assert done, "the caller would wait for ever"
    assert isinstance(future.exception(), SpdkError | errors.BridgeError)


# The handshake


async def test_it_is_not_connected_before_the_framework_is_up(tmp_path: Path) -> None:
    target = ScriptedTarget(tmp_path / "spdk.sock")
    target.up.clear()
    await target.listen()
    client = Client(str(target.path), connect_grace_s=0.05)
    await client.start()
    with pytest.raises(errors.Unavailable):
        await client.call(call("early"))
    assert not client.connected
    with pytest.raises(errors.Unavailable):
        _ = client.release
    target.up.set()
    await until(lambda: client.connected)
    assert target.methods == []
    assert (client.release.number, client.release.methods) == ((26, 9), frozenset(METHODS))
    await client.close()
    await target.close()


async def test_a_handshake_that_fails_is_tried_again_and_its_reason_told(tmp_path: Path) -> None:
    target = ScriptedTarget(tmp_path / "spdk.sock")
    target.handshake = False
    target.answers = {
        "framework_wait_init": lambda _: (-32601, "Method not found"),
        "spdk_get_version": lambda _: (-32601, "Method not found"),
        "rpc_get_methods": lambda _: (-32601, "Method not found"),
    }
    await target.listen()
    client = Client(str(target.path))
    await client.start()
    await until(lambda: "Method not found" in client.unavailable().message)
    with pytest.raises(errors.Unavailable, match="Method not found"):
        await client.ready(0)
    target.handshake = True
    await until(lambda: client.connected)
    assert target.connections > 1
    await client.close()
    await target.close()


async def test_a_connection_lost_during_the_handshake_is_made_again(tmp_path: Path) -> None:
    target = ScriptedTarget(tmp_path / "spdk.sock")
    target.up.clear()
    await target.listen()
    client = Client(str(target.path))
    await client.start()
    await until(lambda: target.connections == 1)
    await target.drop()
    target.up.set()
    await until(lambda: client.connected)
    await client.close()
    await target.close()


async def test_a_target_that_accepts_and_does_not_answer_is_given_up_and_tried_again(
    tmp_path: Path, clock: Clock
) -> None:
    target = ScriptedTarget(tmp_path / "spdk.sock")
    target.handshake = False
    await target.listen()
    client = Client(str(target.path), call_timeout_s=HOUR_S)
    await client.start()
    await until(lambda: len(target.received) == 3)
    with pytest.raises(errors.Unavailable):
        await client.ready(0)
    target.handshake = True
    clock.advance(HOUR_S)
    await until(lambda: client.connected)
    assert target.connections == 2
    await client.close()
    await target.close()


async def test_attempts_to_connect_grow_apart(tmp_path: Path) -> None:
    attempts: list[float] = []

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(time.monotonic())
        writer.close()

    server = await asyncio.start_unix_server(refuse, tmp_path / "spdk.sock")
    client = Client(str(tmp_path / "spdk.sock"))
    started = time.monotonic()
    await client.start()
    await until(lambda: len(attempts) > 5)
    assert attempts[5] - started > 0.01 * (1 + 2 + 4 + 8 + 16), "half of 0.02 s and of twice as much each time"
    await client.close()
    server.close()


@pytest.mark.parametrize("address", ["nowhere", "localhost:port", "spdk.sock", "localhost:99999"])
async def test_an_address_that_cannot_be_one_is_told_as_the_reason(address: str) -> None:
    client = Client(address)
    await client.start()
    await until(lambda: "it has not answered yet" not in client.unavailable().message)
    with pytest.raises(errors.Unavailable):
        await client.ready(0)
    await client.close()


async def test_it_connects_over_tcp_where_the_targets_user_cannot_be_known(pair: Pair) -> None:
    target, client = pair
    assert client.peer_uid == os.geteuid()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(target.path)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    over_tcp = Client(f"127.0.0.1:{port}")
    await over_tcp.start()
    await over_tcp.ready(PATIENCE_S)
    assert over_tcp.peer_uid is None
    await over_tcp.close()
    server.close()
    await until(lambda: len(asyncio.all_tasks()) < 6)


# Cancellation and closing


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_call_leaves_nothing_once_its_answer_has_come(pair: Pair, turns: int) -> None:
    target, client = pair
    task = asyncio.create_task(client.call(call("slow")))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    target.answers["echo"] = lambda _: True
    assert await client.call(call("echo"))
    while not target.requests.empty():
        target.answer(target.requests.get_nowait(), "nobody waits")
    assert await client.call(call("echo"))
    assert in_flight(client) == 0


async def test_a_cancelled_call_that_is_never_answered_is_forgotten_with_its_deadline(pair: Pair, clock: Clock) -> None:
    _, client = pair
    with deadline.limit(HOUR_S):
        task = asyncio.create_task(client.call(call("slow")))
    await spin()
    task.cancel()
    await asyncio.wait([task])
    assert in_flight(client) == 1
    clock.advance(HOUR_S)
    await until(lambda: in_flight(client) == 0)


async def test_closing_fails_what_is_in_flight_and_ends_the_attempts(clock: Clock) -> None:
    async with scripted() as (target, client):
        future = client.submit(call())
        await target.request("echo")
        await client.close()
        (result,) = await outcomes(future)
        assert isinstance(result, errors.ConnectionLost)
        assert not client.connected
        clock.advance(HOUR_S)
        await spin()
        assert target.connections == 1
        with pytest.raises(errors.Unavailable):
            await client.submit(call())


async def test_closing_before_any_connection_is_quick_and_clean(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "nobody.sock"))
    await client.close()
    await client.start()
    await until(lambda: "No such file" in client.unavailable().message)
    closing = asyncio.create_task(client.close())
    await spin()
    assert closing.done(), "it waits for no attempt"
    gc.collect()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "spdk-connection"]
