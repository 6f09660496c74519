"""/metrics of a served bridge, and what a scrape costs the target."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from opi_spdk_bridge import __version__
from tests.http.web import Web, web
from tests.support.array import Array, set_up_array
from tests.support.bridge import CallError
from tests.support.patience import HOUR_S
from tests.support.target import Emulator, emulator, wait_until

NULL = {"block_size": 512, "blocks_count": 2048}
MIB = 1 << 20
MANY = 1200


class Scraped:
    """One answer of /metrics."""

    def __init__(self, bridge: Web) -> None:
        answer = bridge.http.get("/metrics")
        assert answer.status_code == 200, answer.text
        self.text = answer.text
        families = text_string_to_metric_families(self.text)
        self.samples = [sample for family in families for sample in family.samples]

    def all(self, name: str, /, **labels: str) -> list[tuple[dict[str, str], float]]:
        """The series of that name that have these labels, and their values."""
        return [
            (sample.labels, sample.value)
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, /, **labels: str) -> float:
        """The value of the one series of that name with these labels; 0 without one."""
        found = self.all(name, **labels)
        assert len(found) <= 1, found
        return found[0][1] if found else 0.0


def make(bridge: Web, name: str) -> None:
    bridge.call("CreateNullVolume", {"null_volume_id": name, "null_volume": NULL})


def delete(bridge: Web, name: str) -> None:
    bridge.call("DeleteNullVolume", {"name": f"nullVolumes/{name}"})


@pytest.fixture(scope="module")
def array(folder: Path) -> Iterator[tuple[Emulator, Array]]:
    with emulator(folder, "far") as far:
        yield far, set_up_array(far, folder)


class TestServer:
    def test_calls_are_counted_by_service_method_and_code(self, observed: Web) -> None:
        service = "opi_api.storage.v1.NullVolumeService"
        method = {"grpc_type": "UNARY", "grpc_service": service, "grpc_method": "GetNullVolume"}
        before = Scraped(observed)
        started = time.monotonic()
        make(observed, "counted")
        observed.call("GetNullVolume", {"name": "nullVolumes/counted"})
        assert observed.http.get("/v1/nullVolumes/counted").status_code == 200
        with pytest.raises(CallError, match="NOT_FOUND"):
            observed.call("GetNullVolume", {"name": "nullVolumes/none"})
        took_s = time.monotonic() - started
        delete(observed, "counted")
        after = Scraped(observed)

        def moved(name: str, **labels: str) -> float:
            return after.value(name, **method, **labels) - before.value(name, **method, **labels)

        assert moved("grpc_server_started_total") == 3
        assert moved("grpc_server_handled_total", grpc_code="OK") == 2
        assert moved("grpc_server_handled_total", grpc_code="NOT_FOUND") == 1
        assert moved("grpc_server_msg_received_total") == 3
        assert moved("grpc_server_msg_sent_total") == 2
        assert moved("grpc_server_handling_seconds_count") == 3
        assert moved("grpc_server_handling_seconds_bucket", le="+Inf") == 3
        assert 0 < moved("grpc_server_handling_seconds_sum") < took_s

    def test_what_is_refused_before_it_is_carried_out_is_counted_too(self, observed: Web) -> None:
        handled, answers = "grpc_server_handled_total", "opi_bridge_http_answers_total"
        create = {"grpc_method": "CreateNullVolume", "grpc_code": "INVALID_ARGUMENT"}
        unknown = {"grpc_service": "unknown", "grpc_method": "unknown", "grpc_code": "UNIMPLEMENTED"}
        before = Scraped(observed)
        assert observed.http.post("/v1/nullVolumes", content=b"{").status_code == 400
        assert observed.http.get("/v1/nothing").status_code == 404
        assert observed.http.put("/v1/nullVolumes").status_code == 405
        absent: Any = observed.channel.unary_unary("/x.Service/Method")
        with pytest.raises(grpc.RpcError):
            absent(b"")
        after = Scraped(observed)
        for name, labels in ((handled, create), (handled, unknown), *((answers, {"code": c}) for c in ("404", "405"))):
            assert after.value(name, **labels) - before.value(name, **labels) == 1, labels
        assert after.value(answers, code="200") > before.value(answers, code="200")

    def test_the_build_is_told(self, observed: Web) -> None:
        assert Scraped(observed).value("opi_bridge_build_info", version=__version__) == 1


class TestTarget:
    def test_calls_to_the_target_are_timed_by_method_and_outcome(self, observed: Web, near: Emulator) -> None:
        count, call = "opi_bridge_spdk_call_seconds_count", {"method": "bdev_null_create"}
        before = Scraped(observed)
        make(observed, "timed")
        near.rpc("emulator_inject_fault", action="error", method="bdev_null_create", count=1, code=-12, message="no")
        with pytest.raises(CallError):
            make(observed, "refused")
        delete(observed, "timed")
        after = Scraped(observed)
        for outcome in ("ok", "error"):
            assert after.value(count, outcome=outcome, **call) - before.value(count, outcome=outcome, **call) == 1
        assert after.value("opi_bridge_spdk_connected") == 1
        assert after.value("opi_bridge_spdk_connections_total") == 1

    def test_calls_in_flight_are_counted_while_they_are(self, observed: Web, near: Emulator) -> None:
        near.rpc("emulator_inject_fault", action="hold", method="bdev_null_create", count=1)
        with ThreadPoolExecutor(1) as pool:
            making = pool.submit(make, observed, "slow")
            wait_until(lambda: Scraped(observed).value("opi_bridge_spdk_calls_in_flight") >= 1, "a call is in flight")
            near.rpc("emulator_clear_faults")
            making.result()
        wait_until(lambda: Scraped(observed).value("opi_bridge_spdk_calls_in_flight") == 0, "none is in flight")
        delete(observed, "slow")

    def test_a_target_that_is_away_costs_its_series_and_nothing_else(self, tmp_path: Path) -> None:
        with (
            emulator(tmp_path) as own,
            web(tmp_path, spdk=own.socket, state="memory:", metrics_ttl_s=0, connect_grace_s=0.1) as bridge,
        ):
            make(bridge, "v")
            assert Scraped(bridge).all("opi_bridge_volume_bytes_total", name="nullVolumes/v")
            own.kill()
            wait_until(lambda: Scraped(bridge).value("opi_bridge_spdk_connected") == 0, "the target is away")
            without = Scraped(bridge)
            assert not without.all("opi_bridge_volume_bytes_total")
            assert without.value("opi_bridge_resources", kind="nullVolume", phase="ready") == 1
            own.start()
            wait_until(lambda: Scraped(bridge).all("opi_bridge_volume_bytes_total") != [], "the series are back")
            again = Scraped(bridge)
            assert again.value("opi_bridge_spdk_connections_total") == 2
            wait_until(lambda: Scraped(bridge).value("opi_bridge_reconciler_restored_total") == 1, "it is counted")


def _wait_for_more(bridge: Web, metric: str, before: Scraped) -> None:
    wait_until(lambda: Scraped(bridge).value(metric) > before.value(metric), f"{metric} has moved")


class TestReconciler:
    def test_sweeps_are_counted_and_their_age_is_told(self, observed: Web) -> None:
        started = time.monotonic()
        before = Scraped(observed).value("opi_bridge_reconciler_sweeps_total")
        wait_until(lambda: Scraped(observed).value("opi_bridge_reconciler_sweeps_total") > before, "another sweep")
        after = Scraped(observed)
        assert 0 <= after.value("opi_bridge_reconciler_lag_seconds") < time.monotonic() - started
        assert after.value("opi_bridge_reconciler_last_sweep_seconds") > 0

    def test_what_is_put_right_is_counted_and_lost_data_too(self, observed: Web, near: Emulator) -> None:
        volume = {"malloc_volume_id": "lost", "malloc_volume": NULL}
        observed.call("CreateMallocVolume", volume)
        before = Scraped(observed)
        near.rpc("bdev_malloc_delete", name="lost")
        for name in ("drifted", "data_losses"):
            _wait_for_more(observed, f"opi_bridge_reconciler_{name}_total", before)
        assert near.bdev("lost") is not None
        observed.call("DeleteMallocVolume", {"name": "mallocVolumes/lost"})

    def test_repairs_that_fail_are_counted(self, observed: Web, near: Emulator) -> None:
        make(observed, "broken")
        metric = "opi_bridge_reconciler_repair_failures_total"
        before = Scraped(observed).value(metric)
        near.rpc("emulator_inject_fault", action="error", method="bdev_null_create", count=1, code=-12, message="no")
        near.rpc("bdev_null_delete", name="broken")
        wait_until(lambda: Scraped(observed).value(metric) > before, "the failure is counted")
        wait_until(lambda: near.bdev("broken") is not None, "the next attempt succeeds")
        delete(observed, "broken")


class TestResources:
    def test_they_are_counted_by_kind_and_phase(self, observed: Web, near: Emulator) -> None:
        ready = {"kind": "nullVolume", "phase": "ready"}
        assert Scraped(observed).value("opi_bridge_resources", **ready) == 0
        make(observed, "one")
        make(observed, "two")
        assert Scraped(observed).value("opi_bridge_resources", **ready) == 2
        near.rpc("emulator_inject_fault", action="hold", method="bdev_null_create", count=1)
        with ThreadPoolExecutor(1) as pool:
            making = pool.submit(make, observed, "three")
            phase = {"kind": "nullVolume", "phase": "creating"}
            wait_until(lambda: Scraped(observed).value("opi_bridge_resources", **phase) == 1, "one is being made")
            near.rpc("emulator_clear_faults")
            making.result()
        for name in ("one", "two", "three"):
            delete(observed, name)
        assert not Scraped(observed).all("opi_bridge_resources", kind="nullVolume")


class TestVolumes:
    def test_io_moves_the_counters_of_the_volume_with_the_nqn_it_is_shown_under(
        self, observed: Web, near: Emulator
    ) -> None:
        make(observed, "busy")
        nqn = "nqn.2022-09.io.spdk:busy"
        observed.call("CreateNvmeSubsystem", {"nvme_subsystem_id": "s", "nvme_subsystem": {"spec": {"nqn": nqn}}})
        namespace = {"spec": {"volume_name_ref": "nullVolumes/busy"}}
        request = {"parent": "nvmeSubsystems/s", "nvme_namespace_id": "n", "nvme_namespace": namespace}
        observed.call("CreateNvmeNamespace", request)
        before = Scraped(observed)  # the target itself has read it, looking for partitions
        near.rpc("emulator_run_io", name="busy", reads=10, writes=5, unmaps=2, blocks=8, latency_us=1000)
        after = Scraped(observed)

        def moved(what: str, labels: dict[str, str]) -> float:
            name = f"opi_bridge_volume_{what}_total"
            return after.value(name, **labels) - before.value(name, **labels)

        volume = {"name": "nullVolumes/busy", "kind": "nullVolume", "nqn": nqn}
        expected = {"read": 10, "write": 5, "unmap": 2}
        for operation, count in expected.items():
            labels = {**volume, "operation": operation}
            assert moved("operations", labels) == count
            assert moved("bytes", labels) == count * 8 * 512
            assert moved("latency_seconds", labels) == pytest.approx(count * 1e-3)
        observed.call("DeleteNvmeNamespace", {"name": "nvmeSubsystems/s/nvmeNamespaces/n"})
        observed.call("DeleteNvmeSubsystem", {"name": "nvmeSubsystems/s"})
        assert Scraped(observed).all("opi_bridge_volume_bytes_total", name="nullVolumes/busy", nqn="")
        delete(observed, "busy")

    def test_io_that_fails_moves_the_errors_by_status(self, observed: Web, near: Emulator) -> None:
        make(observed, "frail")
        make(observed, "sound")
        errors, status = "opi_bridge_volume_errors_total", {"status": "failed"}
        assert not Scraped(observed).all(errors)
        for count, total in ((3, 3), (4, 7)):
            near.rpc("emulator_run_io", name="frail", failures=count)
            assert Scraped(observed).value(errors, name="nullVolumes/frail", kind="nullVolume", **status) == total
        assert not Scraped(observed).all(errors, name="nullVolumes/sound")
        delete(observed, "frail")
        delete(observed, "sound")
        assert not Scraped(observed).all(errors)

    def test_counters_beyond_32_bits_are_whole(self, observed: Web, near: Emulator) -> None:
        make(observed, "much")
        which = {"name": "nullVolumes/much", "operation": "read"}
        before = Scraped(observed).value("opi_bridge_volume_bytes_total", **which)
        near.rpc("emulator_run_io", name="much", reads=3_000_000, blocks=2048)
        after = Scraped(observed).value("opi_bridge_volume_bytes_total", **which)
        assert after - before == 3_000_000 * MIB
        delete(observed, "much")

    def test_a_volume_that_is_not_the_bridges_is_told_as_a_bdev(self, observed: Web, near: Emulator) -> None:
        near.rpc("bdev_null_create", name="foreign", num_blocks=2048, block_size=512)
        subsystem = {"spec": {"nqn": "nqn.2022-09.io.spdk:foreign"}}
        observed.call("CreateNvmeSubsystem", {"nvme_subsystem_id": "f", "nvme_subsystem": subsystem})
        namespace = {"spec": {"volume_name_ref": "foreign"}}
        request = {"parent": "nvmeSubsystems/f", "nvme_namespace_id": "n", "nvme_namespace": namespace}
        observed.call("CreateNvmeNamespace", request)
        nqn = "nqn.2022-09.io.spdk:foreign"
        assert Scraped(observed).all("opi_bridge_volume_bytes_total", name="foreign", kind="bdev", nqn=nqn)
        observed.call("DeleteNvmeNamespace", {"name": "nvmeSubsystems/f/nvmeNamespaces/n"})
        observed.call("DeleteNvmeSubsystem", {"name": "nvmeSubsystems/f"})
        function = {"port_id": 0, "physical_function": 1, "virtual_function": 0}
        device = {"pcie_id": function, "volume_name_ref": "foreign"}
        observed.call("CreateVirtioBlk", {"virtio_blk_id": "b", "virtio_blk": device})
        assert Scraped(observed).all("opi_bridge_volume_bytes_total", name="foreign", kind="bdev", nqn="")
        observed.call("DeleteVirtioBlk", {"name": "virtioBlks/b"})
        near.rpc("bdev_null_delete", name="foreign")
        assert not Scraped(observed).all("opi_bridge_volume_bytes_total", name="foreign")

    def test_a_volume_that_is_gone_from_the_target_costs_only_its_own_series(self, tmp_path: Path) -> None:
        quiet: dict[str, Any] = {"state": "memory:", "notifications_s": HOUR_S, "sweep_interval_s": HOUR_S}
        with emulator(tmp_path) as own, web(tmp_path, spdk=own.socket, metrics_ttl_s=0, **quiet) as bridge:
            for number in range(5):
                make(bridge, f"v{number}")
            wait_until(lambda: Scraped(bridge).value("opi_bridge_reconciler_sweeps_total") >= 1, "the first sweep")
            own.rpc("bdev_null_delete", name="v2")
            seen = {labels["name"] for labels, _ in Scraped(bridge).all("opi_bridge_volume_bytes_total")}
            assert seen == {f"nullVolumes/v{number}" for number in (0, 1, 3, 4)}

    def test_the_series_of_a_removed_volume_go_away(self, observed: Web) -> None:
        make(observed, "brief")
        assert "nullVolumes/brief" in Scraped(observed).text
        delete(observed, "brief")
        assert "brief" not in Scraped(observed).text


class TestPaths:
    def test_the_state_of_each_path_is_told(self, observed: Web, array: tuple[Emulator, Array]) -> None:
        far, place = array
        remote = {"multipath": "NVME_MULTIPATH_MULTIPATH"}
        observed.call(
            "CreateNvmeRemoteController", {"nvme_remote_controller_id": "r", "nvme_remote_controller": remote}
        )
        request = {"parent": "nvmeRemoteControllers/r", "nvme_path_id": "p", "nvme_path": place.path()}
        observed.call("CreateNvmePath", request)
        name = "nvmeRemoteControllers/r/nvmePaths/p"
        assert Scraped(observed).all("opi_bridge_path_state", name=name) == [({"name": name, "state": "enabled"}, 1.0)]
        far.kill()

        def told() -> str:
            return Scraped(observed).all("opi_bridge_path_state", name=name)[0][0]["state"]

        wait_until(lambda: told() != "enabled", "the path is not enabled any more")
        observed.call("DeleteNvmePath", {"name": name})
        observed.call("DeleteNvmeRemoteController", {"name": "nvmeRemoteControllers/r"})
        assert not Scraped(observed).all("opi_bridge_path_state")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Web]]:
    """A bridge with many volumes that asks its target for nothing but what it is asked itself."""
    folder = tmp_path_factory.mktemp("many")
    quiet: dict[str, Any] = {"state": "memory:", "notifications_s": 3600, "sweep_interval_s": 3600}
    with emulator(folder) as own, web(folder, spdk=own.socket, metrics_ttl_s=3600, **quiet) as bridge:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda number: make(bridge, f"v{number}"), range(MANY)))
        yield own, bridge


class TestCost:
    """Against a target with many volumes, which the test itself asks how often it was asked."""

    def test_a_scrape_takes_few_calls_and_answers_of_a_megabyte_at_most(self, many: tuple[Emulator, Web]) -> None:
        own, bridge = many
        own.rpc("emulator_call_counts", reset=True)
        with ThreadPoolExecutor(4) as pool:
            both = list(pool.map(lambda _: Scraped(bridge), range(4)))
        asked = own.rpc("emulator_call_counts")
        assert len({scraped.text for scraped in both}) == 1, "one answer was made for all of them"
        assert len(both[0].all("opi_bridge_volume_bytes_total")) == 3 * MANY
        assert both[0].all("opi_bridge_volume_bytes_total") == both[1].all("opi_bridge_volume_bytes_total")
        assert asked["calls"]["bdev_get_iostat"] == 2, "a thousand volumes a call, and both scrapes read once"
        assert 100_000 < asked["longest_answer_bytes"] <= MIB

    def test_what_was_read_is_good_for_a_while(self, many: tuple[Emulator, Web]) -> None:
        own, bridge = many
        before = Scraped(bridge)
        own.rpc("emulator_run_io", name="v7", reads=1)
        own.rpc("emulator_call_counts", reset=True)
        after = Scraped(bridge)
        name = "opi_bridge_volume_operations_total"
        assert after.all(name) == before.all(name)
        assert own.rpc("emulator_call_counts")["calls"] == {}

    def test_the_page_asks_once_for_the_throughput_of_all_that_it_shows(self, many: tuple[Emulator, Web]) -> None:
        own, bridge = many
        own.rpc("emulator_call_counts", reset=True)
        state = bridge.http.get("/page/state", params={"open": "nullVolumes", "rows": 1000}).json()
        asked = own.rpc("emulator_call_counts")
        assert asked["calls"] == {"bdev_get_iostat": 1}
        assert asked["longest_answer_bytes"] <= MIB
        assert len([node for node in state["open"]["nullVolumes"]["nodes"] if "counters" in node]) == 1000


def test_requests_are_served_during_a_scrape(observed: Web, near: Emulator) -> None:
    make(observed, "asked")

    def served() -> bool:
        near.rpc("emulator_inject_fault", action="hold", method="bdev_get_iostat")
        near.rpc("emulator_call_counts", reset=True)
        with ThreadPoolExecutor(1) as pool:
            scraping = pool.submit(Scraped, observed)
            wait_until(lambda: near.rpc("emulator_call_counts")["calls"].get("bdev_get_iostat"), "the scrape waits")
            for _ in range(5):
                observed.call("GetNullVolume", {"name": "nullVolumes/asked"})
            during = not scraping.done()
            near.rpc("emulator_clear_faults")
        return during

    wait_until(served, "requests are served before a scrape gives up")
    delete(observed, "asked")


def test_a_target_that_does_not_answer_does_not_hold_the_scrape(observed: Web, near: Emulator) -> None:
    make(observed, "stuck")
    near.rpc("emulator_inject_fault", action="hold", method="bdev_get_iostat")
    answer = observed.http.get("/metrics")
    near.rpc("emulator_clear_faults")
    assert answer.status_code == 200
    assert "opi_bridge_volume_bytes_total{" not in answer.text
    delete(observed, "stuck")
