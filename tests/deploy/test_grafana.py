"""Dashboard and alert rules name only metrics that a served bridge exposes, with labels that they have."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from opi_spdk_bridge.api.metrics import Metrics
from tests.deploy.files import DOCKER, GRAFANA, document, output_of, tool
from tests.http.web import Web, web
from tests.support.array import set_up_array
from tests.support.bridge import CallError
from tests.support.target import Emulator, wait_until

DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "opi-spdk-bridge.json").read_text())
ALERTS = GRAFANA / "alerts.yaml"
RULES: list[dict[str, Any]] = [rule for group in document(ALERTS)["groups"] for rule in group["rules"]]
FROM_PROMETHEUS = {"up": {"job", "instance"}}
ADDED_BY_PROMETHEUS = {"instance", "job"}
_NAME = re.compile(r"\b(?:grpc_server|opi_bridge)_\w+|\bup\b")
_SELECTOR = re.compile(r"\b((?:grpc_server|opi_bridge)_\w+|up)\s*\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_SHOWN = re.compile(r"\$labels\.(\w+)|\{\{(\w+)\}\}")


def panels() -> Iterator[dict[str, Any]]:
    """All panels with queries."""
    return (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def expressions() -> list[tuple[str, str]]:
    """Every PromQL expression, with where it stands and what is shown of its labels."""
    from_panels = [
        (target["expr"], target.get("legendFormat", "")) for panel in panels() for target in panel["targets"]
    ]
    from_variables = [(variable["definition"], "") for variable in DASHBOARD["templating"]["list"]]
    from_annotations = [(annotation["expr"], "") for annotation in DASHBOARD["annotations"]["list"]]
    from_rules = [(rule["expr"], " ".join(rule["annotations"].values())) for rule in RULES]
    return [*from_panels, *from_variables, *from_annotations, *from_rules]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, set[str]]]:
    """What a bridge answers at /metrics after some calls, and its series' names with their labels."""
    folder = tmp_path_factory.mktemp("grafana")
    near, far = Emulator(folder, "near"), Emulator(folder, "far")
    near.start()
    far.start()
    try:
        near.rpc("nvmf_create_transport", trtype="TCP")
        path = set_up_array(far, folder).path()
        with web(folder, spdk=near.socket, state="memory:", metrics_ttl_s=0) as bridge:
            text = _scraped(bridge, near, path)
    finally:
        near.kill()
        far.kill()
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return text, names


def _scraped(bridge: Web, near: Emulator, path: dict[str, Any]) -> str:
    bridge.call(
        "CreateMallocVolume", {"malloc_volume_id": "m0", "malloc_volume": {"block_size": 512, "blocks_count": 131072}}
    )
    remote = {"multipath": "NVME_MULTIPATH_MULTIPATH"}
    bridge.call("CreateNvmeRemoteController", {"nvme_remote_controller_id": "r0", "nvme_remote_controller": remote})
    request = {"parent": "nvmeRemoteControllers/r0", "nvme_path_id": "p0", "nvme_path": path}
    bridge.call("CreateNvmePath", request)
    with pytest.raises(CallError, match="NOT_FOUND"):
        bridge.call("GetNullVolume", {"name": "nullVolumes/none"})

    near.rpc("emulator_run_io", name="m0", failures=1)

    def complete() -> bool:
        text = bridge.http.get("/metrics").text
        return "opi_bridge_path_state{" in text and "opi_bridge_reconciler_sweeps_total 0" not in text

    wait_until(complete, "the target has been read")
    return bridge.http.get("/metrics").text


@pytest.fixture(scope="module")
def known(exposed: tuple[str, dict[str, set[str]]]) -> dict[str, set[str]]:
    """All series: those scraped, and those that are there only once something has happened."""
    known = {name: set(labels) for name, labels in exposed[1].items()}
    metrics = Metrics()
    with metrics.request("service", "method", {}) as ended:
        ended("OK")
    metrics.spdk_call("method")("ok")
    for family in metrics.registry.collect():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return {**known, **FROM_PROMETHEUS}


def test_every_metric_that_is_named_exists(known: dict[str, set[str]]) -> None:
    for expression, _ in expressions():
        named = _NAME.findall(expression)
        assert named, expression
        assert set(named) <= set(known), expression


def test_every_label_that_is_selected_exists(known: dict[str, set[str]]) -> None:
    for expression, _ in expressions():
        for name, matchers in _SELECTOR.findall(expression):
            assert set(_MATCHER.findall(matchers)) <= known[name] | ADDED_BY_PROMETHEUS, expression


def test_every_label_that_is_grouped_by_or_shown_exists(known: dict[str, set[str]]) -> None:
    for expression, shown in expressions():
        there = set().union(*(known[name] for name in _NAME.findall(expression))) | ADDED_BY_PROMETHEUS
        groupings = [{label.strip() for label in group.split(",")} for group in _GROUPING.findall(expression)]
        assert all(group <= there for group in groupings), expression
        kept = set().union(*groupings) if groupings else there
        assert {first or second for first, second in _SHOWN.findall(shown)} <= kept, expression


def test_every_metric_of_the_bridge_is_used_somewhere(exposed: tuple[str, dict[str, set[str]]]) -> None:
    used = {name for expression, _ in expressions() for name in _NAME.findall(expression)}
    ours = {family.name for family in text_string_to_metric_families(exposed[0]) if family.name[:4] == "opi_"}
    unused = {name for name in ours if not any(each.startswith(name) for each in used)}
    assert unused == set()


def test_the_dashboard_is_sound() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
    assert all(place["x"] + place["w"] <= 24 for place in places)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for expression, _ in expressions():
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}


def test_grafana_finds_the_dashboard_and_its_source() -> None:
    (provider,) = document(GRAFANA / "provisioning" / "dashboards" / "bridge.yaml")["providers"]
    mounts = document(DOCKER / "compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
    (source,) = document(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    used = {panel["datasource"]["uid"] for panel in panels()}
    used |= {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    assert used == {source["uid"]}


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


class TestPromtool:
    """By Prometheus's own checker."""

    def test_metrics(self, exposed: tuple[str, dict[str, set[str]]], tmp_path: Path) -> None:
        promtool = tool("promtool", "the Debian package prometheus has it")
        (tmp_path / "metrics").write_text(exposed[0])
        assert output_of("/bin/sh", "-c", f"{promtool} check metrics < {tmp_path}/metrics 2>&1") == ""

    def test_rules_and_their_scenarios(self) -> None:
        promtool = tool("promtool", "the Debian package prometheus has it")
        assert f"{len(RULES)} rules found" in output_of(promtool, "check", "rules", str(ALERTS))
        assert "SUCCESS" in output_of(promtool, "test", "rules", str(GRAFANA / "alerts.test.yaml"))

    def test_the_configuration(self, tmp_path: Path) -> None:
        promtool = tool("promtool", "the Debian package prometheus has it")
        shutil.copy(DOCKER / "prometheus" / "prometheus.yaml", tmp_path)
        shutil.copy(ALERTS, tmp_path)
        assert "SUCCESS" in output_of(promtool, "check", "config", str(tmp_path / "prometheus.yaml"))
