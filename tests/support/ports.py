"""Ports that nothing has, for targets to listen on."""

from __future__ import annotations

import socket


def free_ports(number: int) -> list[int]:
    """So many TCP ports of 127.0.0.1, all different."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
