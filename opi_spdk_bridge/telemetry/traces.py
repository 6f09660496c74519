"""Traces by OpenTelemetry (the extra `otel`): a span for each request, a child for each call to the target.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set. Spans carry names and outcomes, never payloads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opi_spdk_bridge import __version__
from opi_spdk_bridge.telemetry.observer import Ended, Observer

log = logging.getLogger(__name__)
_FLUSH_S = 2.0
"""How long a shutdown waits for what is still to be sent: a collector that is away does not hold it up."""


def observer() -> tuple[Observer, Callable[[], None]] | None:
    """The observer that makes spans, and what flushes and ends it; None where traces are off, or not installed."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set but traces need: pip install 'opi-spdk-bridge[otel]'")
        return None
    about = Resource({SERVICE_NAME: "opi-spdk-bridge", SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=about, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def finish() -> None:
        flushing = threading.Thread(target=provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)

    return Traces(provider.get_tracer("opi-spdk-bridge", __version__)), finish


class Traces:
    """Makes a server span for each request, in the trace that its carrier names (W3C Trace Context)."""

    def __init__(self, tracer: Any) -> None:
        from opentelemetry import propagate, trace

        self._tracer = tracer
        self._extract = propagate.extract
        self._kinds = trace.SpanKind
        self._failed = trace.Status(trace.StatusCode.ERROR)

    @contextmanager
    def request(self, service: str, method: str, carrier: Mapping[str, str]) -> Iterator[Ended]:
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            self._extract(carrier),
            self._kinds.SERVER,
            attributes,
            record_exception=False,  # its message tells of the request
            set_status_on_exception=False,  # what failed by the client's fault is no error of the server
        ) as span:

            def ended(code: str) -> None:
                span.set_attribute("rpc.response.status_code", code)
                if code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
                    span.set_status(self._failed)

            yield ended

    def http_answer(self, code: int) -> None:
        """Spans are of RPCs."""

    def spdk_call(self, method: str) -> Ended:
        attributes = {"rpc.system": "jsonrpc", "rpc.service": "spdk", "rpc.method": method}
        span = self._tracer.start_span(method, kind=self._kinds.CLIENT, attributes=attributes)

        def ended(outcome: str) -> None:
            if outcome != "ok":
                span.set_status(self._failed)
            span.end()

        return ended
