"""Tells systemd how the daemon is: sd_notify(3), a datagram of VARIABLE=VALUE lines to the socket in $NOTIFY_SOCKET.

All of it does nothing where nobody listens: outside systemd, and in a unit that is not of Type=notify.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)

_PINGS_PER_TIMEOUT = 3  # sd_watchdog_enabled(3) asks for two; with three, one may be late


def send(*lines: str) -> bool:
    """Sends assignments such as READY=1 as one message; whether it was taken. Neither raises nor waits."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):  # also "": vsock addresses are for virtual machines
        return False
    where = f"\0{address[1:]}" if address.startswith("@") else address  # "@": in the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), where)
    except OSError as problem:
        log.warning("systemd could not be told %s: %s", ", ".join(lines), problem.strerror or problem)
        return False
    return True


def ready(status: str) -> bool:
    """The daemon serves. `status` is one line that `systemctl status` shows."""
    return send("READY=1", f"STATUS={status}")


def stopping() -> bool:
    """The daemon is going down in good order."""
    return send("STOPPING=1", "STATUS=finishing the requests at work")


def watchdog_timeout_s() -> float | None:
    """How long systemd waits for a sign of life of this process; None where it does not (sd_watchdog_enabled(3))."""
    try:
        timeout_us = int(os.environ.get("WATCHDOG_USEC", "0"))
        process = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        log.warning("the watchdog's variables are no numbers: WATCHDOG_USEC, WATCHDOG_PID")
        return None
    return timeout_us / 1e6 if timeout_us > 0 and process == os.getpid() else None


@asynccontextmanager
async def watchdog(alive: Callable[[], bool] = lambda: True) -> AsyncIterator[None]:
    """While the context lasts, systemd gets signs of life, as often as it asks for, as long as `alive` says so.

    They are sent from the event loop: a loop that hangs sends none, and systemd restarts the daemon. A target that is
    away is no reason to be restarted and not for `alive` to look at.
    """
    timeout_s = watchdog_timeout_s()
    if timeout_s is None:
        yield
        return
    task = asyncio.create_task(_ping(timeout_s / _PINGS_PER_TIMEOUT, alive), name="watchdog")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _ping(interval_s: float, alive: Callable[[], bool]) -> None:
    while True:
        if alive():
            send("WATCHDOG=1")
        await asyncio.sleep(interval_s)
