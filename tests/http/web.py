"""A bridge that serves HTTP, and a client for it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.bridge import Bridge
from tests.support.patience import PATIENCE_S


class Web(Bridge):
    """A bridge process with HTTP on a port of its own; `http` talks to it."""

    def __init__(self, folder: Path, **flags: Any) -> None:
        super().__init__(folder, http="127.0.0.1:0", **flags)
        self.http = httpx.Client(timeout=PATIENCE_S)

    def start(self) -> None:
        """Starts it and waits until it serves."""
        super().start()
        if self.http.is_closed:
            self.http = httpx.Client(timeout=PATIENCE_S)
        self.http.base_url = httpx.URL(self.url)

    @property
    def url(self) -> str:
        """Where HTTP is."""
        found: list[str] = re.findall(r"serves HTTP on ([\w.:]+)", self.log)
        return f"http://{found[-1]}"

    @property
    def place(self) -> tuple[str, int]:
        """The same as host and port."""
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def stop(self, *args: Any) -> int:
        """Ends it."""
        self.http.close()
        return super().stop(*args)


@contextlib.contextmanager
def web(folder: Path, **flags: Any) -> Iterator[Web]:
    """A started bridge with HTTP; flags are those of `serve` with underscores."""
    daemon = Web(folder, **flags)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.running:
            daemon.kill()


def problem_of(answer: httpx.Response) -> tuple[int, int, str]:
    """(HTTP code, gRPC code, field) of an answer that is an error; fails where it is no google.rpc.Status."""
    assert answer.headers["content-type"] == "application/json"
    status = answer.json()
    assert {"code", "message"} <= set(status) <= {"code", "message", "details"}
    assert status["message"]
    violations = [detail["fieldViolations"] for detail in status["details"] if "fieldViolations" in detail]
    return answer.status_code, status["code"], violations[0][0]["field"] if violations else ""
