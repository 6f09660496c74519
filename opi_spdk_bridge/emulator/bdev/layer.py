"""The bdev layer (lib/bdev/bdev.c): names, opening, claims, examination, removal under what stands on a bdev."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EAGAIN, EBUSY, EEXIST, EINVAL, ENODEV, EPERM
from functools import partial

from ..notifications import Notifications
from ..reactor import Hops, Reactor, Thread, Work
from ..registry import errno_error
from ..schema import U32
from .device import RATE_LIMITS, Bdev, Descriptor, Qos, Status

EXAMINE_READS = (32768, 4096, 512)
"""Bytes that the gpt, lvol and raid modules read of every new bdev to see whether it is theirs."""
EXAMINE_LATENCY_TICKS = 100_000
IOS_PER_SEC_STEP = 1000
MBYTES_PER_SEC_MAX = (2**64 - 1) // 2**20


@dataclass(frozen=True)
class LayerOptions:
    """The parameters of bdev_set_options."""

    bdev_io_pool_size: U32 = 65535
    bdev_io_cache_size: U32 = 256
    bdev_auto_examine: bool = True
    iobuf_small_cache_size: U32 = 128
    iobuf_large_cache_size: U32 = 16


def ignore() -> None:
    """For a descriptor whose holder has nothing to do when the bdev goes or grows."""


class BdevLayer:
    """All bdevs of one target. Lookups by name, alias and UUID are dictionary lookups."""

    def __init__(self, notifications: Notifications, reactor: Reactor) -> None:
        self._notifications = notifications
        self.reactor = reactor
        self._by_name: dict[str, Bdev] = {}
        self._devices: dict[str, Bdev] = {}
        self._examining = 0
        self.examiners: list[Callable[[Bdev], None]] = []
        self.options = LayerOptions()
        self.examine_allowed: list[str] = []

    def __iter__(self) -> Iterator[Bdev]:
        """The bdevs in the order of their creation, without those on their way out."""
        return (bdev for bdev in self._devices.values() if bdev.status is Status.READY)

    def find(self, name: str) -> Bdev:
        """The bdev with this name, alias or UUID. Raises OSError ENODEV, also for one that is being removed."""
        bdev = self._by_name.get(name)
        if bdev is None or bdev.status is not Status.READY:
            raise errno_error(ENODEV)
        return bdev

    def register(self, bdev: Bdev) -> None:
        """Adds a bdev and lets the modules look at it. Raises OSError: EINVAL, or EEXIST for its name or UUID."""
        if not bdev.name or not bdev.block_size:
            raise errno_error(EINVAL)
        if bdev.name in self._by_name or bdev.uuid in self._by_name:
            raise errno_error(EEXIST)
        if bdev.uuid != bdev.name:
            bdev.aliases.append(bdev.uuid)
            self._by_name[bdev.uuid] = bdev
        self._by_name[bdev.name] = bdev
        self._devices[bdev.name] = bdev
        if self.options.bdev_auto_examine or bdev.name in self.examine_allowed or bdev.uuid in self.examine_allowed:
            self.examine(bdev)
        Work(self._finish_registration(self._open(bdev, writable=False)))

    async def _finish_registration(self, held: Descriptor) -> None:
        """A new bdev is announced once it is examined, and cannot go before."""
        await self.wait_for_examine()
        self._notifications.send("bdev_register", held.bdev.name)
        self.close(held)

    async def wait_for_examine(self) -> None:
        """Waits until no bdev is being examined."""
        await self.reactor.poll(lambda: not self._examining)

    def examine(self, bdev: Bdev) -> None:
        for examiner in self.examiners:
            examiner(bdev)
        if bdev.claimed_by is None:
            Work(self._read_for_examine(bdev))

    async def _read_for_examine(self, bdev: Bdev) -> None:
        """While modules read a new bdev the application's thread has a channel to it, and to what is below it."""
        self._examining += 1
        self._open_app_channels(bdev)
        for _ in range(bdev.examine_turns):
            await self.reactor.message()
        for size_bytes in EXAMINE_READS:
            read_bytes = max(size_bytes, bdev.block_size)
            if read_bytes <= bdev.block_size * bdev.num_blocks:
                bdev.record("read", 1, read_bytes, EXAMINE_LATENCY_TICKS)
        Work(self._close_app_channels(bdev))
        self._examining -= 1

    def _open_app_channels(self, bdev: Bdev) -> None:
        device: Bdev | None = bdev
        while device is not None:
            device.app_channels += 1
            device = device.below

    async def _close_app_channels(self, bdev: Bdev) -> None:
        """A channel is closed by a message. It gives up the module's channel, and that the one to the device below."""
        device: Bdev | None = bdev
        while device is not None:
            await self.reactor.message()
            device.app_channels -= 1
            self._check_unused(device)
            device = device.below
            if device is not None:
                await self.reactor.message()

    def allow_examine(self, name: str) -> None:
        """Raises OSError: EINVAL while bdevs are examined by themselves, EEXIST for a name already allowed."""
        if self.options.bdev_auto_examine:
            raise errno_error(EINVAL)
        if name in self.examine_allowed:
            raise errno_error(EEXIST)
        self.examine_allowed.append(name)
        if name in self._by_name:
            self.examine(self._by_name[name])

    def open(
        self,
        name: str,
        *,
        writable: bool,
        on_remove: Callable[[], object] = ignore,
        on_resize: Callable[[], object] = ignore,
    ) -> Descriptor:
        """Opens a bdev until `close`. Raises OSError: ENODEV, or EPERM to write what is claimed."""
        bdev = self.find(name)
        if writable and bdev.claimed_by is not None:
            raise errno_error(EPERM)
        self.start_qos(bdev)
        descriptor = self._open(bdev, writable=writable)
        descriptor.on_remove, descriptor.on_resize = on_remove, on_resize
        return descriptor

    def _open(self, bdev: Bdev, *, writable: bool) -> Descriptor:
        descriptor = Descriptor(bdev, writable, ignore, ignore)
        bdev.descriptors.append(descriptor)
        return descriptor

    def claim(self, descriptor: Descriptor, module: str) -> None:
        """Raises OSError EPERM when the bdev is claimed already."""
        if descriptor.bdev.claimed_by is not None:
            raise errno_error(EPERM)
        descriptor.bdev.claimed_by = module

    def release(self, descriptor: Descriptor) -> None:
        descriptor.bdev.claimed_by = None

    def open_channel(self, bdev: Bdev) -> None:
        """Opens an I/O channel; limits that were only noted start to run."""
        bdev.channels += 1
        if bdev.qos:
            bdev.qos.running = True
        if bdev.channels == 1:
            bdev.channel_opened()

    def close_channel(self, bdev: Bdev) -> None:
        """Closes an I/O channel; the last one hands its counters to the bdev."""
        bdev.channels -= 1
        if not bdev.channels:
            bdev.stat.add(bdev.channel_stat)
            bdev.channel_stat.reset("all")
            bdev.channel_closed()
            self._check_unused(bdev)

    def close(self, descriptor: Descriptor) -> None:
        bdev = descriptor.bdev
        bdev.descriptors.remove(descriptor)
        if not bdev.descriptors and bdev.qos:
            bdev.qos.running = False
        self._check_unused(bdev)

    def _check_unused(self, bdev: Bdev) -> None:
        """Tells the removal of a bdev how far it may go: nothing has it open, then nothing has a channel either."""
        if bdev.status is Status.REMOVING and not bdev.descriptors and not bdev.qos_changing:
            bdev.unused.set()
            if not bdev.channels and not bdev.app_channels:
                bdev.idle.set()

    def unregister(self, bdev: Bdev) -> Work[None]:
        """Marks a bdev as going, at once; the work removes what stands on it and ends when it is gone.

        Raises OSError EBUSY when it is going already.
        """
        if bdev.status is not Status.READY:
            raise errno_error(EBUSY)
        bdev.status = Status.UNREGISTERING
        return Work(self._remove(bdev))

    def unregister_soon(self, bdev: Bdev) -> Work[None] | None:
        """Removes a bdev without waiting for it; one that is going already is left to go."""
        return self.unregister(bdev) if bdev.status is Status.READY else None

    def unregister_by_name(self, name: str, module: str) -> Work[None]:
        """As `unregister`. Raises OSError ENODEV, also when the bdev belongs to another module."""
        bdev = self.find(name)
        if bdev.module != module:
            raise errno_error(ENODEV)
        return self.unregister(bdev)

    async def _remove(self, bdev: Bdev) -> None:
        await self.visit_channels(bdev)
        bdev.status = Status.REMOVING
        for descriptor in bdev.descriptors:
            self.reactor.send(Thread.APP, partial(self._tell, descriptor, descriptor.on_remove))
        self._check_unused(bdev)
        await bdev.unused
        for name in (bdev.name, *bdev.aliases):
            del self._by_name[name]
            if name in self.examine_allowed:
                self.examine_allowed.remove(name)
        del self._devices[bdev.name]
        self._notifications.send("bdev_unregister", bdev.name)
        await bdev.idle
        await self.reactor.message()
        bdev.destruct()
        for _ in range(bdev.destruct_turns):
            await self.reactor.message()

    def visit_channels(self, bdev: Bdev) -> Hops:
        """A visit to the threads that have a channel, one after another, and the message back."""
        threads = [Thread.APP] * bool(bdev.app_channels) + [Thread.POLL_GROUP] * bool(bdev.channels) + [Thread.APP]
        return Hops(self.reactor, [(thread, None) for thread in threads])

    def _tell(self, descriptor: Descriptor, event: Callable[[], object]) -> None:
        if descriptor in descriptor.bdev.descriptors:
            event()

    def resize(self, bdev: Bdev, num_blocks: int) -> None:
        """Raises OSError EBUSY to shrink a bdev that something has open."""
        if num_blocks == bdev.num_blocks:
            return
        if bdev.descriptors and num_blocks < bdev.num_blocks:
            raise errno_error(EBUSY)
        self._notifications.send("bdev_resize", bdev.name)
        bdev.num_blocks = num_blocks
        for descriptor in bdev.descriptors:
            self.reactor.send(Thread.APP, partial(self._tell, descriptor, descriptor.on_resize))

    def start_qos(self, bdev: Bdev) -> None:
        """Opening a bdev whose limits are not running tries to start them, which takes the target a turn."""
        if bdev.qos and not bdev.qos.running:
            bdev.qos_changing = True
            Work(self._enable_qos(bdev))

    async def _enable_qos(self, bdev: Bdev) -> None:
        """Raises OSError EAGAIN when a channel finds the bdev going."""
        has_channel = bdev.channels or bdev.app_channels
        await self.visit_channels(bdev)
        going = has_channel and bdev.status is not Status.READY
        if going:
            bdev.qos = None
        elif bdev.qos and has_channel:
            bdev.qos.running = True
        self._end_qos_change(bdev)
        if going:
            raise errno_error(EAGAIN)

    async def _update_qos(self, bdev: Bdev) -> None:
        await Hops(self.reactor, [(Thread.POLL_GROUP, None)])
        self._end_qos_change(bdev)

    def _end_qos_change(self, bdev: Bdev) -> None:
        bdev.qos_changing = False
        self._check_unused(bdev)

    def set_rate_limits(self, bdev: Bdev, limits: dict[str, int | None]) -> Work[None]:
        """Sets limits (None: unchanged, 0: none), rounded up as the target does.

        Raises OSError EAGAIN while a change is under way. That is the case for good on a bdev which has limits and no
        channel: the call's own opening of it starts one (bdev_start_qos).
        """
        if bdev.qos_changing:
            raise errno_error(EAGAIN)
        rounded = {name: _rounded(name, limit) for name, limit in limits.items() if limit is not None}
        current = bdev.qos.limits if bdev.qos else dict.fromkeys(RATE_LIMITS, 0)
        wanted = {**current, **rounded}
        bdev.qos_changing = True
        if any(wanted.values()):
            bdev.qos = bdev.qos or Qos()
            bdev.qos.limits = wanted
            return Work(self._update_qos(bdev) if bdev.qos.running else self._enable_qos(bdev))
        return Work(self._disable_qos(bdev))

    async def _disable_qos(self, bdev: Bdev) -> None:
        if bdev.qos:
            bdev.qos.limits = dict.fromkeys(RATE_LIMITS, 0)
            running = bdev.qos.running
            await self.visit_channels(bdev)
            if running:
                await Hops(self.reactor, [(Thread.POLL_GROUP, None)])
        bdev.qos = None
        self._end_qos_change(bdev)


def _rounded(name: str, limit: int) -> int:
    if name != "rw_ios_per_sec":
        return min(limit, MBYTES_PER_SEC_MAX)
    return -(-limit // IOS_PER_SEC_STEP) * IOS_PER_SEC_STEP
