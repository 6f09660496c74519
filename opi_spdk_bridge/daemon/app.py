"""The composition root: builds the daemon from its parts, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.routing import Route

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.bind import bind
from opi_spdk_bridge.api.extras import extras
from opi_spdk_bridge.api.health import Check
from opi_spdk_bridge.api.http_server import HttpServer
from opi_spdk_bridge.api.interceptors import Requests
from opi_spdk_bridge.api.limits import Limits, allow_files
from opi_spdk_bridge.api.metrics import Metrics, Scrape
from opi_spdk_bridge.api.page import Page, TargetState
from opi_spdk_bridge.api.policy import Authorizer, Everyone, Policy
from opi_spdk_bridge.api.server import GrpcServer
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.engine import Engine
from opi_spdk_bridge.core.journal import in_order
from opi_spdk_bridge.core.reconcile import Reconciler
from opi_spdk_bridge.core.registry import Registry
from opi_spdk_bridge.daemon import embedded, guest, inventory, listening
from opi_spdk_bridge.daemon import systemd as notify
from opi_spdk_bridge.daemon.resources import resources, services
from opi_spdk_bridge.daemon.settings import Settings, default_state, state_folder
from opi_spdk_bridge.daemon.statistics import Statistics
from opi_spdk_bridge.spdk.client import Client
from opi_spdk_bridge.spdk.errors import SpdkError
from opi_spdk_bridge.spdk.shared import SharedFolder
from opi_spdk_bridge.spdk.target import Target
from opi_spdk_bridge.store.base import Store
from opi_spdk_bridge.store.open import open_store, sqlite_path
from opi_spdk_bridge.targets.spdk.hotplug import Host
from opi_spdk_bridge.targets.spdk.remote_namespaces import RemoteNamespaces
from opi_spdk_bridge.telemetry import traces
from opi_spdk_bridge.telemetry.observer import Observer, Observers

log = logging.getLogger(__name__)

_EMULATOR_START_S = 120.0
_FEW = 4000  # records whose subsystems fit an answer of about 1 MB
_TARGET = "target"  # the setting in the store: the address of the target that the state is for


@dataclass(frozen=True)
class Serving:
    """A daemon that is up: where it listens, which services it offers, and how it reaches the target."""

    listen: list[str]
    http: list[str]
    services: list[str]
    spdk: str
    state: str
    state_lost: asyncio.Event
    requests: Requests
    emulated: bool


async def serve(settings: Settings, ready: Callable[[Serving], None], reload: Callable[[], Settings | None]) -> None:
    """Runs the daemon until SIGTERM or SIGINT; `ready` is called once it serves.

    On SIGHUP `reload` gives the settings as they are now (None: they are wrong), and what can change is changed.

    Raises BridgeError when it cannot start, or when another bridge takes its state over.
    """
    allow_files(settings.max_connections * (len(settings.listen) + len(settings.http)))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as serving:
        loop.add_signal_handler(signal.SIGHUP, lambda: _apply(reload(), serving))
        ready(serving)
        notify.ready(f"serves gRPC on {', '.join(serving.listen)}")
        async with _background(_set_when(serving.state_lost, stop), "state-lost"), notify.watchdog():
            await stop.wait()
        notify.stopping()
        log.info("stopping: finishing the requests at work")
    if serving.state_lost.is_set():
        raise errors.FailedPrecondition(f"another bridge has taken over the state in {serving.state}")


def _apply(fresh: Settings | None, serving: Serving) -> None:
    """Takes over a changed policy; one with an error leaves the old one in force."""
    if fresh is None:
        return
    if fresh.policy is None and isinstance(serving.requests.authorizer, Policy):
        log.error("SIGHUP: the policy stays in force; to do without one, start the bridge anew")
        return
    try:
        serving.requests.authorizer = _authorizer(fresh)
    except errors.FailedPrecondition as problem:
        log.error("SIGHUP: the policy stays as it is: %s", problem)
    else:
        log.info("SIGHUP: settings and policy have been read again")


def _authorizer(settings: Settings) -> Authorizer:
    return Policy.load(settings.policy) if settings.policy is not None else Everyone()


async def _set_when(cause: asyncio.Event, effect: asyncio.Event) -> None:
    await cause.wait()
    effect.set()


@dataclass(frozen=True)
class _Core:
    """Everything between the listeners and the target."""

    client: Client
    target: Target
    registry: Registry
    catalog: Catalog
    engine: Engine
    reconciler: Reconciler
    requests: Requests
    metrics: Metrics
    store: Store


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Serving]:
    """The daemon, while the context lasts."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opi-spdk-bridge-")))
        address = (
            settings.spdk if settings.spdk is not None else await stack.enter_async_context(embedded.emulator(scratch))
        )
        store, folder = _store(settings, scratch)
        await store.open()
        stack.push_async_callback(store.close)
        await _require_same_target(store, address, settings)
        shared = SharedFolder.parse(settings.spdk_shared_dir or str(folder / "shared"))
        shared.prepare()
        metrics = Metrics()
        host = guest.host(settings)
        core = await _core(settings, address, store, shared, host, metrics, _observer(metrics, stack))
        server, http = _servers(settings, core)

        await core.client.start()
        stack.push_async_callback(core.client.close)
        await host.start(core.reconciler.target_came)
        stack.push_async_callback(host.close)
        if settings.spdk is None:
            await core.client.ready(_EMULATOR_START_S)
        stack.push_async_callback(core.engine.drain)
        core.reconciler.start()
        stack.push_async_callback(core.reconciler.close)
        listen = await server.start()
        stack.push_async_callback(server.stop, settings.drain_s)
        http_listen = await http.start()
        stack.push_async_callback(http.stop, settings.drain_s)
        await stack.enter_async_context(_background(_follow_target(core, server), "follow-target"))
        yield Serving(
            listen=listen,
            http=http_listen,
            services=server.services,
            spdk=address,
            state=store.address,
            state_lost=store.lost,
            requests=core.requests,
            emulated=settings.spdk is None,
        )


async def _core(
    settings: Settings,
    address: str,
    store: Store,
    shared: SharedFolder,
    host: Host,
    metrics: Metrics,
    observer: Observer,
) -> _Core:
    client = Client(
        address,
        connect_grace_s=settings.connect_grace_s,
        call_timeout_s=settings.call_timeout_s,
        silence_s=settings.spdk_silence_s,
        observer=observer,
    )
    target = Target(client, shared)
    registry, catalog, journal = resources(target, store, host, settings.max_resources)
    for record in in_order(await journal.recover(await asyncio.to_thread(inventory.boot_id)), list(registry)):
        catalog.put(record)
    engine = Engine(registry, catalog, journal, target)
    reconciler = Reconciler(registry, catalog, engine, target, settings.sweep_interval_s, settings.notifications_s)
    limits = Limits(
        requests=settings.max_requests,
        requests_of_peer=settings.max_requests_per_peer,
        request_s=settings.request_timeout_s,
        message_bytes=settings.max_message_bytes,
        field_bytes=settings.max_field_bytes,
        connections=settings.max_connections,
    )
    requests = Requests(
        limits,
        legacy=settings.resource_names == "legacy",
        observer=observer,
        authorizer=_authorizer(settings),
    )
    return _Core(client, target, registry, catalog, engine, reconciler, requests, metrics, store)


def _servers(settings: Settings, core: _Core) -> tuple[GrpcServer, HttpServer]:
    """The northern side: the contract's methods over gRPC and HTTP, and what HTTP serves besides."""
    grpc_listeners, http_listeners, tls = listening.listeners(settings)
    remote = RemoteNamespaces(core.target, core.catalog)
    others = extras(remote, lambda: asyncio.to_thread(inventory.read))
    methods = bind(services(), core.engine, core.registry, others)
    checks = _checks(core)
    statistics = Statistics(core.target, core.catalog, core.registry)
    target_state = functools.partial(_target_state, core.client)
    page = Page(core.registry, core.catalog, core.engine, checks, target_state, statistics.counters)
    scrape = Scrape(
        core.metrics,
        core.catalog,
        core.reconciler,
        lambda: (core.client.connected, core.client.connections, core.client.silent_s),
        statistics.read,
        settings.metrics_ttl_s,
    )
    pages = [*page.routes(), Route("/metrics", scrape.answer)]
    return (
        GrpcServer(methods, core.requests, grpc_listeners, tls),
        HttpServer(methods, core.requests, http_listeners, checks, pages, tls),
    )


def _observer(metrics: Metrics, stack: AsyncExitStack) -> Observer:
    """Metrics, and traces where they are on; what is still to be sent goes out when the stack unwinds."""
    tracing = traces.observer()
    if tracing is None:
        return metrics
    observer, finish = tracing
    stack.push_async_callback(asyncio.to_thread, finish)
    return Observers([metrics, observer])


def _checks(core: _Core) -> list[Check]:
    """What must hold for changes to be carried out."""
    client, store, reconciler = core.client, core.store, core.reconciler
    return [
        Check("target connected", lambda: client.connected, f"the SPDK target at {client.address} does not answer"),
        Check("state open", lambda: not store.lost.is_set(), f"another bridge has taken over {store.address}"),
        Check("first sweep done", reconciler.swept.is_set, "the target has not been compared with the state yet"),
    ]


def _target_state(client: Client) -> TargetState:
    if client.connected:
        return TargetState(client.address, True, client.release.version)
    return TargetState(client.address, False, trouble=client.trouble)


def _store(settings: Settings, scratch: Path) -> tuple[Store, Path]:
    """The store that the settings ask for, and the folder beside which other files of the state live."""
    address = settings.state or ("memory:" if settings.spdk is None else default_state())
    path = sqlite_path(address)
    folder = scratch if address == "memory:" else path.parent if path is not None else state_folder()
    return open_store(address, folder, settings.master_key_file), folder


async def _require_same_target(store: Store, address: str, settings: Settings) -> None:
    """A state belongs to one target: applied to another it would be as if someone had asked for all of it there."""
    known = await store.get_setting(_TARGET)
    if known not in (None, address) and not settings.adopt_target:
        raise errors.FailedPrecondition(
            f"the state in {store.address} is for the target at {known}, not {address}:"
            " give another --state, or --adopt-target to apply it to this one"
        )
    if known != address:
        await store.put_setting(_TARGET, address)


async def _follow_target(core: _Core, server: GrpcServer) -> None:
    """Keeps health in step with the target, and has it compared with the state whenever it comes or answers again."""
    came = asyncio.Event()

    def tell() -> None:
        server.set_serving(core.client.connected)
        if core.client.connected:
            core.reconciler.swept.clear()  # at once: it has not been compared since, and looking around takes time
            came.set()

    core.client.on_connected.append(tell)
    core.client.on_lost.append(tell)
    tell()
    while True:
        await came.wait()
        came.clear()
        with contextlib.suppress(errors.BridgeError, SpdkError):
            await core.target.look_around(subsystems=len(core.catalog) < _FEW)
        try:
            core.target.shared.require_readable(core.target.uid)
        except errors.FailedPrecondition as problem:
            log.error("%s", problem)
        core.reconciler.target_came()


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    """A task that ends with the context."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
