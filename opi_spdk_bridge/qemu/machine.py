"""A virtual machine whose monitor is kept connected: devices are plugged in and out, and the guest is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from qemu.qmp import ConnectError, QMPError

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.qemu.device import Device
from opi_spdk_bridge.qemu.session import Refused, Session

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 0.5
_CONNECT_S = 3.0  # for QEMU to reach a device's socket
_POLL_S = 0.02
_ASK_AGAIN_S = 1.0  # a guest that was not up yet has missed it
_TO_ANSWER_S = 0.5  # of a call's deadline, left for telling the client
_MILLISECONDS_SINCE = (9, 2)  # the release that counts reconnect-ms, not reconnect


class Machine:
    """QEMU at `address` (a Unix socket's path or host:port). Several may ask for the same device, one after the other.

    `on_connected` runs each time the monitor has been connected: after a restart nothing is plugged in.
    """

    def __init__(
        self, address: str, *, connect_grace_s: float, answer_timeout_s: float, unplug_timeout_s: float
    ) -> None:
        self.address = address
        self._place = _place(address)
        self._connect_grace_s = connect_grace_s
        self._answer_timeout_s = answer_timeout_s
        self._unplug_timeout_s = unplug_timeout_s
        self._session: Session | None = None
        self._connected = asyncio.Event()
        self._reason = "it has not answered yet"
        self._runs = True
        self._task: asyncio.Task[None] | None = None
        self.on_connected: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Starts connecting; returns at once."""
        self._task = asyncio.create_task(self._run(), name="qemu-connection")

    async def close(self) -> None:
        """Ends the connection and the attempts to make one."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def has(self, device: Device) -> bool | None:
        """Whether the device is plugged in; None while that is not known."""
        return self._session.devices.get(device.id) == device.driver if self._session is not None else None

    async def plug(self, device: Device) -> None:
        """Plugs the device in unless it is.

        Raises FailedPrecondition (Refused) where QEMU will not or cannot, AlreadyExists where another device has the
        ID, Unavailable while QEMU is away, OutcomeUnknown when it goes in the middle.
        """
        session = await self._ready()
        driver = session.devices.get(device.id)
        if driver == device.driver:
            return
        if driver is not None:
            raise errors.AlreadyExists(
                f"QEMU already has a device {device.id}, a {driver} that this bridge did not make"
            )
        if session.version < device.since:
            needed, has = (".".join(map(str, release)) for release in (device.since, session.version))
            raise errors.FailedPrecondition(
                f"{device.driver} needs QEMU {needed} or later; the one at {self.address} is {has}"
            )
        behind = {"chardev": device.id} if device.chardev else {}
        try:
            if device.chardev:
                await self._attach(session, device)
            await session.execute("device_add", driver=device.driver, id=device.id, **behind, **device.properties)
        except (errors.FailedPrecondition, errors.DeadlineExceeded):
            with deadline.limit(self._answer_timeout_s):
                await self._detach(session, device)
            raise
        session.devices[device.id] = device.driver
        log.info("plugged %s into QEMU", device.id)

    async def unplug(self, device: Device) -> None:
        """Unplugs the device and waits until the guest has let go of it; absent is success.

        A QEMU that does not run has no devices. Raises FailedPrecondition when the guest does not let go in time,
        Unavailable while QEMU is away but may be running, OutcomeUnknown when it goes in the middle.
        """
        try:
            session = await self._ready()
        except errors.Unavailable:
            if self._runs:
                raise
            return
        if session.devices.get(device.id) == device.driver:
            await self._take_out(session, device)
            log.info("unplugged %s from QEMU", device.id)
        await self._detach(session, device)

    async def _take_out(self, session: Session, device: Device) -> None:
        patience_s = max(0.0, deadline.remaining_s(self._unplug_timeout_s + _TO_ANSWER_S) - _TO_ANSWER_S)
        give_up = time.monotonic() + patience_s
        last_words = ""
        while (left_s := give_up - time.monotonic()) > 0:
            try:
                await session.execute("device_del", id=device.id)
            except Refused as refusal:
                if refusal.absent:
                    session.devices.pop(device.id, None)
                last_words = f" ({refusal.message})"
            if await session.left(device.id, min(left_s, _ASK_AGAIN_S)):
                return
        text = f"the guest has not let go of {device.id} within {patience_s:.3g} s{last_words}: it is still plugged in"
        raise errors.FailedPrecondition(text)

    async def _attach(self, session: Session, device: Device) -> None:
        """Makes the device's character device, which connects again by itself when the target has been restarted.

        Waits until it is connected: `device_add` would wait for ever, and the whole machine with it.
        """
        await self._detach(session, device)
        again = {"reconnect-ms": 1000} if session.version >= _MILLISECONDS_SINCE else {"reconnect": 1}
        address = {"type": "unix", "data": {"path": device.chardev}}
        backend = {"type": "socket", "data": {"addr": address, "server": False, **again}}
        await session.execute("chardev-add", id=device.id, backend=backend)
        give_up = time.monotonic() + deadline.remaining_s(_CONNECT_S)
        while (await _chardevs(session)).get(device.id, "").startswith("disconnected:"):
            if time.monotonic() > give_up:
                raise errors.FailedPrecondition(
                    f"QEMU cannot connect to {device.chardev}: it must find the target's socket there"
                )
            await asyncio.sleep(_POLL_S)

    async def _detach(self, session: Session, device: Device) -> None:
        if device.id in await _chardevs(session):
            await session.execute("chardev-remove", id=device.id)

    async def _ready(self) -> Session:
        try:
            async with asyncio.timeout(deadline.remaining_s(self._connect_grace_s)):
                while self._session is None:
                    await self._connected.wait()
        except TimeoutError:
            raise errors.Unavailable(f"QEMU at {self.address} cannot be reached: {self._reason}") from None
        return self._session

    async def _run(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            session = Session(self._answer_timeout_s)
            try:
                if await self._open(session):
                    delay_s = _FIRST_DELAY_S
                    await session.lasts()
                    self._reason = "it has hung up"
                    log.warning("lost the connection to QEMU at %s", self.address)
            finally:
                self._session = None
                self._connected.clear()
                await session.close()
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)

    async def _open(self, session: Session) -> bool:
        try:
            await session.open(self._place)
        except (QMPError, OSError, ValueError) as problem:
            cause = problem.exc if isinstance(problem, ConnectError) else problem
            self._runs = not isinstance(cause, FileNotFoundError | ConnectionRefusedError)
            self._reason = str(cause).partition("\n")[0] or "it hung up"  # the rest is what was received
            if isinstance(cause, TimeoutError):
                self._reason = "it accepts the connection but does not answer: another client may have its monitor"
            return False
        self._runs, self._session = True, session
        self._connected.set()
        log.info("connected to QEMU %d.%d at %s", *session.version, self.address)
        for notify in self.on_connected:
            notify()
        return True


async def _chardevs(session: Session) -> dict[str, str]:
    """Where each character device leads to, by its ID."""
    return {str(item["label"]): str(item["filename"]) for item in await session.execute("query-chardev")}


def _place(address: str) -> str | tuple[str, int]:
    """The address as the library wants it; raises InvalidArgument."""
    if "/" in address:
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise errors.InvalidArgument(
            f"--qmp {address!r} is neither the path of a Unix socket nor host:port", field="qmp"
        )
    return host.strip("[]"), int(port)
