from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.api.bind import Method, bind
from opi_spdk_bridge.api.interceptors import Caller, Failed, Read, Requests, request_id, subject
from opi_spdk_bridge.api.limits import Limits
from opi_spdk_bridge.api.naming import legacy_names
from opi_spdk_bridge.pb.storage import backend_null_pb2 as null
from opi_spdk_bridge.pb.storage import frontend_nvme_pb2 as nvme
from opi_spdk_bridge.spdk.errors import SpdkError
from tests.support.patience import HOUR_S

from .fakes import Bridge

CALLER = Caller("ipv4:127.0.0.1:1", "request-1", None)


def methods(bridge: Bridge) -> dict[str, Method]:
    service = null.DESCRIPTOR.services_by_name["NullVolumeService"]
    return {method.name: method for method in bind([service], bridge.engine, bridge.registry, {})}


def method(call: Callable[[Any], Awaitable[Any]]) -> Method:
    return Method("a.Service", "GetNullVolume", null.GetNullVolumeRequest, null.NullVolume, call)


def requests(most_at_once: int = 10, timeout_s: float = 60, legacy: bool = False) -> Requests:
    return Requests(Limits(requests=most_at_once, request_s=timeout_s), legacy)


def reading(message: Message) -> Read:
    async def read() -> Message:
        return message

    return read


# Methods bound from the contract


async def test_the_six_verbs_are_bound_from_the_contract() -> None:
    bound = methods(Bridge())
    disk = null.NullVolume(block_size=512, blocks_count=8)
    made: Any = await bound["CreateNullVolume"].call(null.CreateNullVolumeRequest(null_volume=disk, null_volume_id="d"))
    assert made.name == "nullVolumes/d"
    got: Any = await bound["GetNullVolume"].call(null.GetNullVolumeRequest(name="nullVolumes/d"))
    assert got == made
    listed: Any = await bound["ListNullVolumes"].call(null.ListNullVolumesRequest(page_size=1))
    assert list(listed.null_volumes) == [made]
    change = null.UpdateNullVolumeRequest(null_volume=null.NullVolume(name="volumes/d", blocks_count=9))
    change.update_mask.paths.append("blocks_count")
    updated: Any = await bound["UpdateNullVolume"].call(change)
    assert updated.blocks_count == 9
    deleted = await bound["DeleteNullVolume"].call(null.DeleteNullVolumeRequest(name="nullVolumes/d"))
    assert deleted == empty_pb2.Empty()
    gone = await bound["DeleteNullVolume"].call(null.DeleteNullVolumeRequest(name="nullVolumes/d", allow_missing=True))
    assert gone == empty_pb2.Empty()
    assert bound["GetNullVolume"].path == "/opi_api.storage.v1.NullVolumeService/GetNullVolume"


async def test_counters_above_what_the_contract_holds_saturate() -> None:
    bridge = Bridge()
    await bridge.create_disk("d")
    answer: Any = await methods(bridge)["StatsNullVolume"].call(null.StatsNullVolumeRequest(name="nullVolumes/d"))
    assert (answer.stats.read_bytes_count, answer.stats.read_ops_count) == (2**31 - 1, 7)


def test_a_method_of_no_registered_kind_is_an_error_at_the_start() -> None:
    bridge = Bridge()
    service = nvme.DESCRIPTOR.services_by_name["FrontendNvmeService"]
    with pytest.raises(LookupError, match="NvmeController"):
        bind([service], bridge.engine, bridge.registry, {})


# Around every request


async def run(runner: Requests, call: Callable[[Any], Awaitable[Any]], caller: Caller = CALLER) -> Any:
    return await runner.run(method(call), reading(null.GetNullVolumeRequest(name="nullVolumes/d")), caller)


async def answer(_: Any) -> null.NullVolume:
    return null.NullVolume(name="nullVolumes/d")


async def test_an_error_of_the_bridge_becomes_its_status() -> None:
    async def fail(_: Any) -> null.NullVolume:
        raise errors.NotFound("it is not there", resource="nullVolumes/d")

    with pytest.raises(Failed) as failed:
        await run(requests(), fail)
    assert (failed.value.status.code, failed.value.status.message) == (code_pb2.NOT_FOUND, "it is not there")


@pytest.mark.parametrize("bug", [KeyError("secret"), SpdkError("m", -1, "secret")])
async def test_any_other_error_is_internal_and_logged_as_a_bug(
    bug: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: Any) -> null.NullVolume:
        raise bug

    with pytest.raises(Failed) as failed:
        await run(requests(), fail)
    assert failed.value.status.code == code_pb2.INTERNAL
    assert "secret" not in failed.value.status.message
    assert "this is a bug" in caplog.text


@pytest.mark.parametrize(
    ("given", "longest", "left"), [(None, 60, 60), (5.0, 60, 5), (300.0, 60, 60), (0.0, 60, 0), (-1.0, 60, 0)]
)
async def test_a_request_has_its_callers_time_and_at_most_the_bridges(
    given: float | None, longest: float, left: float
) -> None:
    """In hours, of which a test takes none."""

    async def tell(_: Any) -> null.NullVolume:
        return null.NullVolume(blocks_count=round(deadline.remaining_s(1000 * HOUR_S) / HOUR_S))

    callers = None if given is None else given * HOUR_S
    told = await run(requests(timeout_s=longest * HOUR_S), tell, Caller("peer", "id", callers))
    assert told.blocks_count == left


async def test_more_requests_than_the_bridge_takes_are_told_so_at_once() -> None:
    runner, release = requests(most_at_once=2), asyncio.Event()

    async def wait(_: Any) -> null.NullVolume:
        await release.wait()
        return null.NullVolume()

    working = [asyncio.create_task(run(runner, wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Failed) as failed:
        await run(runner, answer)
    assert failed.value.status.code == code_pb2.RESOURCE_EXHAUSTED
    working[0].cancel()
    await asyncio.wait([working[0]])
    assert await run(runner, answer), "a request that was cancelled makes room"
    release.set()
    await working[1]


async def test_every_request_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(requests(), answer)
    (record,) = caplog.records
    told = [getattr(record, name) for name in ("method", "resource", "code", "request_id")]
    assert told == ["GetNullVolume", "nullVolumes/d", "OK", "request-1"]
    assert "127.0.0.1" in record.__dict__["peer"]
    assert record.__dict__["duration_ms"] >= 0


async def test_a_cancelled_request_is_logged_as_that(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def wait(_: Any) -> null.NullVolume:
        await asyncio.Event().wait()
        return null.NullVolume()

    task = asyncio.create_task(run(requests(), wait))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert [record.__dict__["code"] for record in caplog.records] == ["CANCELLED"]


@pytest.mark.parametrize(("legacy", "canonical", "name"), [
    (False, False, "nullVolumes/d"), (True, False, "volumes/d"), (True, True, "nullVolumes/d"),
])  # fmt: skip
async def test_names_in_answers_are_of_the_style_that_was_set(legacy: bool, canonical: bool, name: str) -> None:
    request = null.GetNullVolumeRequest(name="nullVolumes/d")
    told: Any = await requests(legacy=legacy).run(method(answer), reading(request), CALLER, canonical=canonical)
    assert told.name == name


def test_legacy_names_reach_the_items_of_a_list_and_leave_the_nvme_front_end() -> None:
    listed: Any = legacy_names(null.ListNullVolumesResponse(null_volumes=[null.NullVolume(name="nullVolumes/d")]))
    assert listed.null_volumes[0].name == "volumes/d"
    subsystem: Any = legacy_names(nvme.NvmeSubsystem(name="nvmeSubsystems/s"))
    assert subsystem.name == "nvmeSubsystems/s"


# Log lines


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (null.GetNullVolumeRequest(name="nullVolumes/d"), "nullVolumes/d"),
        (null.CreateNullVolumeRequest(null_volume_id="d"), "d"),
        (null.CreateNullVolumeRequest(), "(new)"),
        (null.UpdateNullVolumeRequest(null_volume=null.NullVolume(name="nullVolumes/d")), "nullVolumes/d"),
        (nvme.ListNvmeNamespacesRequest(parent="nvmeSubsystems/s"), "nvmeSubsystems/s"),
        (null.ListNullVolumesRequest(), "-"),
    ],
)
def test_the_subject_of_a_request_is_the_name_it_gives(request_: Any, told: str) -> None:
    assert subject(request_) == told


@pytest.mark.parametrize("name", ["x\nINFO forged line", "x\r\ny", "x\x1b[31m", "x\u2028y"])
def test_a_name_cannot_forge_a_line_of_the_log(name: str) -> None:
    assert subject(null.GetNullVolumeRequest(name=name)).isprintable()


def test_the_callers_request_id_is_used_where_it_can_stand_in_a_line() -> None:
    assert request_id("abc-1") == "abc-1"
    for unusable in (None, "", "a b", "a\nb", "x" * 129, "é"):
        made = request_id(unusable)
        assert made != unusable
        assert len(made) == 32
