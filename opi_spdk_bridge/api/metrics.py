"""Prometheus metrics: of the server, of the calls to the target, of the reconciler, of resources and volumes.

The server's names are those of the grpc-prometheus ecosystem. What is read from the target is read at a scrape. An
answer is made at most once in `ttl_s`, and never two at the same time: however many ask, they cost no more than one.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter as Count
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from opi_spdk_bridge import __version__, deadline, errors
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.reconcile import Reconciler
from opi_spdk_bridge.core.samples import TargetSample, VolumeSample
from opi_spdk_bridge.telemetry.observer import Ended

_TYPE = "UNARY"
_READ_S = 5.0  # a target that does not answer costs its own series, not the scrape (10 s, by default)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """An observer that counts and times."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs has no types; nobody asks for timestamps
        self.registry = CollectorRegistry()
        where = self.registry
        method = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started", "RPCs started on the server.", method, registry=where)
        self._handled = Counter(
            "grpc_server_handled", "RPCs completed on the server.", (*method, "grpc_code"), registry=where
        )
        self._received = Counter("grpc_server_msg_received", "Messages received from clients.", method, registry=where)
        self._sent = Counter("grpc_server_msg_sent", "Messages sent to clients.", method, registry=where)
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "Time from start to end of an RPC.",
            method,
            buckets=_SECONDS,
            registry=where,
        )
        self._http = Counter("opi_bridge_http_answers", "HTTP answers, RPCs or not.", ("code",), registry=where)
        self._calls = Histogram(
            "opi_bridge_spdk_call_seconds",
            "Time from sending a JSON-RPC call to its answer.",
            ("method", "outcome"),
            buckets=_SECONDS,
            registry=where,
        )
        self._in_flight = Gauge(
            "opi_bridge_spdk_calls_in_flight", "JSON-RPC calls awaiting their answer.", registry=where
        )
        Info("opi_bridge_build", "The bridge's version.", registry=where).info({"version": __version__})

        self._of_method = functools.cache(self._method_counters)
        self._of_call = functools.cache(self._calls.labels)
        self._of_code = functools.cache(self._handled.labels)

    def _method_counters(self, *labels: str) -> tuple[Counter, Counter, Counter, Histogram]:
        counters = (self._started.labels(*labels), self._received.labels(*labels), self._sent.labels(*labels))
        return (*counters, self._handling.labels(*labels))

    @contextmanager
    def request(self, service: str, method: str, carrier: Mapping[str, str]) -> Iterator[Ended]:
        started, received, sent, handling = self._of_method(_TYPE, service, method)
        started.inc()
        received.inc()
        began = time.perf_counter()

        def ended(code: str) -> None:
            handling.observe(time.perf_counter() - began)
            self._of_code(_TYPE, service, method, code).inc()
            if code == "OK":
                sent.inc()

        yield ended

    def http_answer(self, code: int) -> None:
        self._http.labels(str(code)).inc()

    def spdk_call(self, method: str) -> Ended:
        self._in_flight.inc()
        began = time.perf_counter()

        def ended(outcome: str) -> None:
            self._in_flight.dec()
            self._of_call(method, outcome).observe(time.perf_counter() - began)

        return ended


class Scrape:
    """Answers /metrics."""

    def __init__(
        self,
        metrics: Metrics,
        catalog: Catalog,
        reconciler: Reconciler,
        target: Callable[[], tuple[bool, int, float]],
        read: Callable[[], Awaitable[TargetSample]],
        ttl_s: float,
    ) -> None:
        self._registry = metrics.registry
        self._read = read
        self._ttl_s = ttl_s
        self._making = asyncio.Lock()
        self._made_at = float("-inf")
        self._made: dict[str, bytes] = {}  # by content type
        self._bridge = _Bridge(catalog, reconciler, target)
        self._registry.register(self._bridge)

    async def answer(self, request: Request) -> Response:
        """The metrics in the format that the scraper asks for."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        async with self._making:
            if time.monotonic() - self._made_at >= self._ttl_s:
                await self._refresh()
            if content_type not in self._made:
                self._made[content_type] = await asyncio.to_thread(encode, self._registry)
            return Response(self._made[content_type], media_type=content_type)

    async def _refresh(self) -> None:
        try:
            with deadline.limit(_READ_S):
                self._bridge.sample = await self._read()
        except errors.BridgeError:
            self._bridge.sample = TargetSample()  # series of a target that is away end; its absence is a metric
        self._made.clear()
        self._made_at = time.monotonic()


class _Bridge(Collector):
    """What is counted elsewhere, or read from the target, as metric families."""

    def __init__(self, catalog: Catalog, reconciler: Reconciler, target: Callable[[], tuple[bool, int, float]]) -> None:
        self._catalog = catalog
        self._reconciler = reconciler
        self._of_target = target
        self.sample = TargetSample()

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing to read while being registered

    def collect(self) -> Iterable[Metric]:
        yield from self._target()
        yield from self._reconciling()
        yield self._resources()
        yield from _volumes(self.sample.volumes)
        yield _paths(self.sample.paths)

    def _target(self) -> Iterator[Metric]:
        connected, count, silent_s = self._of_target()
        text = "Whether the target is connected and answers."
        yield GaugeMetricFamily("opi_bridge_spdk_connected", text, float(connected))
        text = "For how long nothing has come from a connected target although a call is waiting."
        yield GaugeMetricFamily("opi_bridge_spdk_silent_seconds", text, silent_s)
        text = "Connections made to the target since the start."
        yield CounterMetricFamily("opi_bridge_spdk_connections", text, float(count))

    def _reconciling(self) -> Iterator[Metric]:
        tally = self._reconciler.tally
        for name, value, text in (
            ("sweeps", tally.sweeps, "Sweeps completed."),
            ("restored", tally.restored, "Resources made again after the target had come back."),
            ("drifted", tally.drifted, "Resources found other than asked, and put right."),
            ("finished", tally.finished, "Changes left in the middle and driven to their end."),
            ("repair_failures", tally.failed, "Attempts to put a resource right that failed."),
            ("data_losses", tally.data_losses, "Volumes in the target's memory that came back empty."),
        ):
            yield CounterMetricFamily(f"opi_bridge_reconciler_{name}", text, float(value))
        lag = time.monotonic() - tally.last_sweep_at if tally.sweeps else float("nan")
        yield GaugeMetricFamily("opi_bridge_reconciler_lag_seconds", "Time since the last completed sweep.", lag)
        text = "How long the last sweep took."
        yield GaugeMetricFamily("opi_bridge_reconciler_last_sweep_seconds", text, tally.last_sweep_s)

    def _resources(self) -> Metric:
        family = GaugeMetricFamily("opi_bridge_resources", "Resources by kind and phase.", labels=("kind", "phase"))
        for (kind, phase), count in Count((record.kind, record.phase.value) for record in self._catalog).items():
            family.add_metric((kind, phase), count)
        return family


def _volumes(samples: Iterable[VolumeSample]) -> Iterator[Metric]:
    volume = ("name", "kind", "nqn")
    moved = CounterMetricFamily("opi_bridge_volume_bytes", "Bytes moved, by operation.", labels=(*volume, "operation"))
    done = CounterMetricFamily("opi_bridge_volume_operations", "I/O operations.", labels=(*volume, "operation"))
    text = "Sum of the latencies of all operations, in seconds."
    latency = CounterMetricFamily("opi_bridge_volume_latency_seconds", text, labels=(*volume, "operation"))
    failed = CounterMetricFamily("opi_bridge_volume_errors", "I/O errors, by status.", labels=(*volume, "status"))
    for sample in samples:
        labels = (sample.name, sample.kind, sample.nqn)
        for family, values in (
            (moved, sample.size_bytes),
            (done, sample.operations),
            (latency, sample.latency_s),
            (failed, sample.failures),
        ):
            for what, value in values.items():
                family.add_metric((*labels, what), value)
    yield from (moved, done, latency, failed)


def _paths(paths: Mapping[str, str]) -> Metric:
    family = GaugeMetricFamily("opi_bridge_path_state", "1 for the state a path is in.", labels=("name", "state"))
    for name, state in paths.items():
        family.add_metric((name, state), 1.0)
    return family
