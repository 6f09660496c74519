"""Subsystems with their namespaces, hosts, listeners and controllers (lib/nvmf/subsystem.c)."""

import uuid
from collections.abc import Awaitable, Callable, Iterator
from errno import EEXIST, EINVAL, ENOENT, EPERM
from functools import partial
from typing import Any, TypeVar

from ..bdev.layer import BdevLayer
from ..fabric.nqn import is_valid_nqn
from ..fabric.trid import TransportId
from ..keyring import Keyring
from ..reactor import Reactor, Signal, Thread, Work
from ..registry import INTERNAL_ERROR, INVALID_PARAMS, RpcError, errno_error
from .members import Controller, Host, Namespace, NamespaceOptions, SubsystemListener, SubsystemOptions
from .states import State, States

T = TypeVar("T")

CLAIM = "NVMe-oF Target"
GLOBAL_NSID = 2**32 - 1
LISTENERS_MAX = 16
INTERLEAVED_METADATA_MAX = 64
DISCONNECT_POLL_S = 0.005


class Subsystem:
    """One subsystem. Changes to its namespaces and listeners are made while it is paused (states.py)."""

    def __init__(
        self, nqn: str, options: SubsystemOptions, bdevs: BdevLayer, reactor: Reactor, *, discovery: bool = False
    ) -> None:
        self.nqn = nqn
        self.options = options
        self.discovery = discovery
        self.destroying = False
        self.hosts: list[Host] = []
        self.listeners: list[SubsystemListener] = []
        self.controllers: list[Controller] = []
        self._namespaces: dict[int, Namespace] = {}
        self._lowest_free_nsid = 1
        self._next_cntlid = options.min_cntlid
        self._bdevs = bdevs
        self._reactor = reactor
        self._states = States(reactor, State.ACTIVE if discovery else State.INACTIVE, self._update_poll_group)
        self._with_channel: list[Namespace] = []

    def start(self) -> Signal:
        return self._states.request(State.ACTIVE)

    def stop_for_destroy(self) -> Signal:
        """From now on nothing may change. Raises RpcError the second time."""
        if self.destroying:
            raise RpcError(INTERNAL_ERROR, "Subsystem is already being destroyed.")
        self.destroying = True
        return self._states.request(State.INACTIVE)

    def change(self, operation: Callable[[], T | Awaitable[T]], nsid: int = 0) -> Work[T]:
        """Makes a change while the subsystem is paused, and answers what `operation` does once it is resumed.

        An OSError of `operation` becomes "Invalid parameters", as for nearly every cause; a failure is answered before
        the subsystem is resumed. Raises RpcError at once while the subsystem is being deleted; the work fails with it
        when a deletion was asked for meanwhile, though the change was made. `nsid` is the namespace to drain.
        """
        self._check_not_destroying()
        return Work(self._change(operation, nsid))

    async def _change(self, operation: Callable[[], T | Awaitable[T]], nsid: int) -> T:
        await self._states.request(State.PAUSED, drain=nsid != 0)
        try:
            answer = operation()
            result = await answer if isinstance(answer, Awaitable) else answer
        except (OSError, RpcError) as error:
            self._resume()
            raise error if isinstance(error, RpcError) else RpcError(INVALID_PARAMS, "Invalid parameters") from None
        self._check_not_destroying()
        await self._states.request(State.ACTIVE)
        return result

    def look(self, operation: Callable[[], T]) -> Work[T]:
        """What `operation` says of the subsystem while it is paused, answered before it is resumed."""
        self._check_not_destroying()
        return Work(self._look(operation))

    async def _look(self, operation: Callable[[], T]) -> T:
        await self._states.request(State.PAUSED)
        answer = operation()
        self._resume()
        return answer

    def _resume(self) -> None:
        if not self.destroying:
            self._states.request(State.ACTIVE)

    def _update_poll_group(self, state: State) -> None:
        """The poll group has a channel to the bdev of every namespace. It closes one by a message to itself."""
        if state is State.PAUSED:
            return
        wanted = list(self._namespaces.values()) if state is State.ACTIVE else []
        for namespace in wanted:
            if namespace not in self._with_channel:
                self._bdevs.open_channel(namespace.descriptor.bdev)
        for namespace in self._with_channel:
            if namespace not in wanted:
                self._reactor.send(Thread.POLL_GROUP, partial(self._bdevs.close_channel, namespace.descriptor.bdev))
        self._with_channel = wanted

    def _check_not_destroying(self) -> None:
        if self.destroying:
            raise RpcError(INTERNAL_ERROR, "Internal error")

    # Namespaces

    def namespaces(self) -> Iterator[Namespace]:
        return (self._namespaces[nsid] for nsid in sorted(self._namespaces))

    def namespace(self, nsid: int) -> Namespace:
        """Raises OSError: EINVAL for an NSID out of range, ENOENT for a free one."""
        if not 0 < nsid <= self.options.max_namespaces:
            raise errno_error(EINVAL)
        if nsid not in self._namespaces:
            raise errno_error(ENOENT)
        return self._namespaces[nsid]

    def add_namespace(self, bdev_name: str, options: NamespaceOptions) -> int:
        """The NSID of the new namespace. Raises OSError for any of the target's reasons to refuse it."""
        nsid = self._choose_nsid(options.nsid)
        anagrpid = options.anagrpid or nsid
        if anagrpid > self.options.max_namespaces:
            raise errno_error(EINVAL)
        descriptor = self._bdevs.open(bdev_name, writable=True)
        bdev = descriptor.bdev
        try:
            metadata = bdev.metadata
            if metadata.size and (not metadata.interleave or metadata.size > INTERLEAVED_METADATA_MAX):
                raise errno_error(EINVAL)
            if self.options.passthrough and bdev.module != "nvme":
                raise errno_error(EINVAL)
            self._bdevs.claim(descriptor, CLAIM)
        except OSError:
            self._bdevs.close(descriptor)
            raise
        identity = uuid.UUID(bdev.uuid).bytes
        namespace = Namespace(
            nsid,
            descriptor,
            nguid=options.nguid if options.nguid and any(options.nguid) else identity,
            eui64=options.eui64,
            uuid=options.uuid or bdev.uuid,
            anagrpid=anagrpid,
            always_visible=not options.no_auto_visible,
            ptpl_file=options.ptpl_file,
        )
        descriptor.on_remove = partial(self._hot_remove, nsid)
        descriptor.on_resize = self.notify_controllers
        self._namespaces[nsid] = namespace
        self.notify_controllers()
        return nsid

    def _choose_nsid(self, wanted: int) -> int:
        if wanted == 0:
            while self._lowest_free_nsid in self._namespaces:
                self._lowest_free_nsid += 1
            wanted = self._lowest_free_nsid
        if wanted > self.options.max_namespaces or wanted == GLOBAL_NSID or wanted in self._namespaces:
            raise errno_error(EINVAL)
        return wanted

    def remove_namespace(self, nsid: int) -> None:
        """Raises OSError when there is none with this NSID."""
        namespace = self.namespace(nsid)
        del self._namespaces[nsid]
        self._lowest_free_nsid = min(self._lowest_free_nsid, nsid)
        self._bdevs.release(namespace.descriptor)
        self._bdevs.close(namespace.descriptor)
        self.notify_controllers()

    def _hot_remove(self, nsid: int) -> None:
        """Removes the namespace once the subsystem is paused, whichever has the NSID by then."""
        if not self.destroying:
            Work(self._remove_paused(nsid))

    async def _remove_paused(self, nsid: int) -> None:
        await self._states.request(State.PAUSED, drain=True)
        if nsid in self._namespaces:
            self.remove_namespace(nsid)
        self._resume()

    def set_ana_group(self, nsid: int, anagrpid: int) -> None:
        """Raises OSError: no such namespace or group."""
        namespace = self.namespace(nsid)
        if not 0 < anagrpid <= self.options.max_namespaces:
            raise errno_error(EINVAL)
        namespace.anagrpid = anagrpid
        self.notify_controllers()

    def set_visible(self, nsid: int, host: str, *, visible: bool) -> None:
        """Raises OSError, EPERM for a namespace that all hosts see."""
        if not is_valid_nqn(host):
            raise errno_error(EINVAL)
        namespace = self.namespace(nsid)
        if namespace.always_visible:
            raise errno_error(EPERM)
        if visible and host not in namespace.hosts:
            namespace.hosts.insert(0, host)
        elif not visible and host in namespace.hosts:
            namespace.hosts.remove(host)
        self.notify_controllers()

    def notify_controllers(self) -> None:
        for controller in list(self.controllers):
            controller.namespaces_changed()

    # Hosts

    def find_host(self, nqn: str) -> Host | None:
        return next((host for host in self.hosts if host.nqn == nqn), None)

    def host_allowed(self, nqn: str) -> bool:
        return self.options.allow_any_host or self.find_host(nqn) is not None

    def add_host(self, host: Host) -> None:
        """Raises OSError EINVAL: not an NQN, or allowed already."""
        if not is_valid_nqn(host.nqn) or self.find_host(host.nqn):
            raise errno_error(EINVAL)
        self.hosts.insert(0, host)

    def remove_host(self, nqn: str, keyring: Keyring) -> None:
        """Lets go of the host's keys. Raises OSError ENOENT."""
        host = self.find_host(nqn)
        if host is None:
            raise errno_error(ENOENT)
        self.hosts.remove(host)
        for key in host.held_keys():
            keyring.put(key)

    def disconnect_host(self, nqn: str) -> Work[None]:
        """Ends a host's connections; the target looks after its poll period whether they are gone."""
        return Work(self._disconnect_host(nqn))

    async def _disconnect_host(self, nqn: str) -> None:
        await self._reactor.visit(lambda: self._disconnect(lambda controller: controller.hostnqn == nqn))
        await self._reactor.sleep(DISCONNECT_POLL_S)

    def _disconnect(self, chosen: Callable[[Controller], bool]) -> None:
        for controller in list(self.controllers):
            if chosen(controller):
                controller.disconnect()

    # Listeners

    def find_listener(self, trid: TransportId) -> SubsystemListener | None:
        wanted = trid.canonical()
        return next((listener for listener in self.listeners if listener.trid.canonical() == wanted), None)

    def add_listener(self, listener: SubsystemListener) -> None:
        """Raises OSError: listened on already, an address that cannot be had, or too many."""
        if self.find_listener(listener.trid):
            raise errno_error(EEXIST)
        listener.transport.listen(listener.trid, secure=listener.secure)
        if len(self.listeners) >= LISTENERS_MAX:
            listener.transport.stop_listen(listener.trid)
            raise errno_error(EINVAL)
        self.listeners.insert(0, listener)

    def remove_listener(self, trid: TransportId) -> Work[None]:
        """Ends the connections made through it, then gives up the address. Raises OSError ENOENT.

        What asks for the address in between takes over what listens there.
        """
        listener = self.find_listener(trid)
        if listener is None:
            raise errno_error(ENOENT)
        self.listeners.remove(listener)
        return Work(self._stop_listen(listener))

    async def _stop_listen(self, listener: SubsystemListener) -> None:
        address = listener.trid.canonical()
        await self._reactor.visit(
            lambda: self._disconnect(lambda controller: controller.listen_trid.canonical() == address)
        )
        listener.transport.stop_listen(listener.trid)

    def set_ana_state(self, trid: TransportId, state: str, anagrpid: int) -> None:
        """Raises OSError EINVAL: no ANA reporting, no such group or listener."""
        listener = self.find_listener(trid)
        if not self.options.ana_reporting or anagrpid > self.options.max_namespaces or listener is None:
            raise errno_error(EINVAL)
        if anagrpid:
            listener.ana_states[anagrpid] = state
        else:
            listener.ana_state = state
            listener.ana_states.clear()
        self.notify_controllers()

    # Controllers

    def add_controller(self, controller: Controller) -> None:
        """Gives the controller its ID. Raises OSError when there is none left."""
        taken = {other.cntlid for other in self.controllers}
        for _ in range(self.options.max_cntlid - self.options.min_cntlid + 1):
            cntlid, self._next_cntlid = self._next_cntlid, self._next_cntlid + 1
            if self._next_cntlid > self.options.max_cntlid:
                self._next_cntlid = self.options.min_cntlid
            if cntlid not in taken:
                controller.cntlid = cntlid
                self.controllers.append(controller)
                return
        raise errno_error(EINVAL)

    def destroy(self, keyring: Keyring) -> None:
        self._disconnect(lambda controller: True)
        for listener in self.listeners:
            listener.transport.stop_listen(listener.trid)
        self.listeners.clear()
        for host in list(self.hosts):
            self.remove_host(host.nqn, keyring)
        for nsid in list(self._namespaces):
            self.remove_namespace(nsid)

    def describe(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "nqn": self.nqn,
            "subtype": "Discovery" if self.discovery else "NVMe",
            "listen_addresses": [listener.trid.describe() for listener in self.listeners],
            "allow_any_host": self.options.allow_any_host,
            "hosts": [host.describe() for host in self.hosts],
        }
        if self.discovery:
            return info
        options = self.options
        label = {"admin_label": options.admin_label} if options.admin_label else {}
        return {
            **info,
            "serial_number": options.serial_number,
            "model_number": options.model_number,
            **label,
            "max_namespaces": options.max_namespaces,
            "passthrough": options.passthrough,
            "min_cntlid": options.min_cntlid,
            "max_cntlid": options.max_cntlid,
            "dmrsl": options.dmrsl,
            "wzsl": options.wzsl,
            "namespaces": [ns.describe(ana_reporting=options.ana_reporting) for ns in self.namespaces()],
        }
