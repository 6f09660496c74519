"""Whether the bridge in this container is well: exit status 0 if so, else 1 and why. Standard library only.

    healthcheck.py [PATH] [--at HOST:PORT | --at unix:SOCKET]

PATH is /healthz (is the process alive; the default) or /readyz (can changes be carried out). Where HTTP is served with
TLS, give the bridge a Unix listener for this: --http=unix:SOCKET. $OPI_BRIDGE_HEALTH_AT is the default of --at.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import sys


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def main(arguments: list[str]) -> int:
    """Asks once."""
    parser = argparse.ArgumentParser(description="Whether the bridge in this container is well.")
    parser.add_argument("path", nargs="?", default="/healthz")
    parser.add_argument("--at", default=os.environ.get("OPI_BRIDGE_HEALTH_AT", "127.0.0.1:8082"))
    parser.add_argument("--timeout-s", type=float, default=4.0)
    given = parser.parse_args(arguments)
    if given.at.startswith("unix:"):
        connection: http.client.HTTPConnection = _UnixConnection(given.at.removeprefix("unix:"), given.timeout_s)
    else:
        connection = http.client.HTTPConnection(given.at, timeout=given.timeout_s)
    try:
        connection.request("GET", given.path)
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as problem:
        print(f"{given.at}{given.path}: {problem!r}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if answer.status == 200:
        return 0
    print(f"{given.at}{given.path}: {answer.status} {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
