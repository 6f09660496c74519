"""Ports for targets and programs to listen on, each given to one test of one process.

A port that is looked up with a bind to 0 and let go again may be anybody's by the time it is listened on: the kernel
gives it to another listener, or to a connection as its near end. So these come from outside the range that the kernel
chooses from, in blocks that a process keeps for as long as it lives.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

_FIRST, _LAST, _BLOCK = 10_000, 65_535, 256
_kept: list[int] = []
"""A socket for each block, whose name is the lock: nobody else in these ports' network namespace can have it."""


def free_ports(number: int) -> list[int]:
    """So many TCP ports that nothing listens on, all different and given to no other test process."""
    return list(itertools.islice(_ports, number))


def _unused() -> Iterator[int]:
    mine: list[int] = []
    for block in _blocks():
        if _keep(block):
            mine += block
            yield from filter(_is_free, block)
    while any(map(_is_free, mine)):  # other processes have the rest: those of tests long over come round again
        yield from filter(_is_free, mine)
    raise AssertionError("the ports are used up")


def _blocks() -> list[range]:
    """Those that the kernel does not choose from; all, where it chooses from all."""
    chosen = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first, last = map(int, chosen)
    blocks = [range(start, start + _BLOCK) for start in range(_FIRST, _LAST - _BLOCK, _BLOCK)]
    return [block for block in blocks if block[-1] < first or block[0] > last] or blocks


def _keep(block: range) -> bool:
    """Whether the block is this process's now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        try:
            lock.bind(f"\0opi-spdk-bridge-tests-ports-{block.start}")
        except OSError:
            return False
        _kept.append(lock.detach())
        return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


_ports = _unused()
