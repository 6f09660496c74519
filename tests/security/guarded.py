"""A bridge process with a policy and several listeners, and what it logged."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx

from tests.support.bridge import Bridge
from tests.support.patience import PATIENCE_S


class Guarded(Bridge):
    """`serve` with listeners from its configuration file: more than one of each kind."""

    def __init__(self, folder: Path, listen: list[str], http: list[str], **flags: Any) -> None:
        config = folder / "config.toml"
        config.write_text(f"listen = {json.dumps(listen)}\nhttp = {json.dumps(http)}\n")
        super().__init__(folder, config=config, log_format="json", state="memory:", **flags)
        del self._flags["listen"], self._flags["http"]

    def addresses(self, protocol: str) -> list[str]:
        """Where it serves gRPC or HTTP."""
        found = re.findall(rf"serves {protocol} on ([^\n\"]+)", self.log)
        return str(found[-1]).split(", ")

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of that event."""
        parsed = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    def hang_up(self) -> None:
        """Has it read its settings and policy again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)


def over(socket: Path) -> httpx.Client:
    """A client of HTTP on a Unix socket."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://bridge", timeout=PATIENCE_S)
