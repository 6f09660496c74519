"""Bridges that bring their own emulated target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.bridge import Bridge, bridge
from tests.support.patience import PATIENCE_S
from tests.support.target import wait_until


@contextlib.contextmanager
def embedded(folder: Path, **flags: Any) -> Iterator[Bridge]:
    """A started bridge whose emulated target is up."""
    with bridge(folder, **flags) as daemon:
        stub: Any = health_pb2_grpc.HealthStub(daemon.channel)
        wanted = health_pb2.HealthCheckResponse.SERVING

        def serves() -> bool:
            return bool(stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status == wanted)

        wait_until(serves, "the embedded target is up")
        yield daemon
