"""A collector of traces: OTLP over HTTP, as real ones speak it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """What has been received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []
        self.resources: list[dict[str, str]] = []
        self._spans: list[Any] = []

    def receive(self, body: bytes) -> None:
        """Takes an export."""
        self.bodies.append(body)
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({item.key: item.value.string_value for item in part.resource.attributes})
            for scope in part.scope_spans:
                self._spans += scope.spans

    def spans(self, name: str) -> list[Any]:
        """The spans whose name ends so."""
        return [span for span in self._spans if span.name.endswith(name)]

    def children(self, parent: Any) -> list[str]:
        """The names of the spans below it."""
        return [span.name for span in self._spans if span.parent_span_id == parent.span_id]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector that listens."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            if self.path == "/v1/traces":
                received.receive(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    received = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
