"""The HTTP server: uvicorn on each listener, with what the gateway serves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import uvicorn
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from opi_spdk_bridge.api import connection
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.gateway import LISTENER, LONGEST_HEAD, application
from opi_spdk_bridge.api.health import Check
from opi_spdk_bridge.api.interceptors import Requests, request_id, tell
from opi_spdk_bridge.api.listeners import Listener
from opi_spdk_bridge.api.tls import Tls

log = logging.getLogger(__name__)
_BACKLOG = 1024  # connections that wait to be accepted
_LAST_WORDS_S = 1.0  # for what is told to clients when a stop waits no more


class HttpServer:
    """Serves the methods as HTTP/JSON on the given listeners; `pages` are routes besides the API's, for
    callers that may see every resource.

    With TLS all of them are encrypted but for Unix sockets. Each listener has a server of its own, so that a request
    tells through which one it came.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        requests: Requests,
        listeners: Sequence[Listener],
        checks: Sequence[Check],
        pages: Sequence[BaseRoute] = (),
        tls: Tls | None = None,
    ) -> None:
        self._listeners = listeners
        app = application(methods, requests, checks, pages)
        accept = functools.partial(connection.Connection, requests.limits.connections, _refused_early(requests))
        self._servers = [_Server(_config(app, accept, listener, tls)) for listener in listeners]
        self._serving: list[asyncio.Task[None]] = []

    async def start(self) -> list[str]:
        """Starts listening and returns the addresses with their real ports; raises CannotListen."""
        with contextlib.ExitStack() as opened:
            sockets = [opened.enter_context(await _listen(listener)) for listener in self._listeners]
            opened.pop_all()
        listen = [_address(listening) for listening in sockets]
        for server, listening in zip(self._servers, sockets, strict=True):
            self._serving.append(asyncio.create_task(server.serve([listening]), name="http-server"))
        if listen:
            log.info("serves HTTP on %s", ", ".join(listen))
        return listen

    async def stop(self, grace_s: float) -> None:
        """Takes no more requests, and waits for those at work for at most `grace_s`."""
        if not self._serving:
            return
        for server in self._servers:
            server.should_exit = True
        await asyncio.wait(self._serving, timeout=grace_s)
        for server in self._servers:
            server.end()
        _, waiting = await asyncio.wait(self._serving, timeout=_LAST_WORDS_S)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


def _config(app: ASGIApp, accept: Any, listener: Listener, tls: Tls | None) -> uvicorn.Config:
    async def through(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][LISTENER] = listener.identity
        with contextlib.suppress(asyncio.CancelledError):  # of a request that outlasts a stop: its client has been told
            await app(scope, receive, send)

    config = uvicorn.Config(
        through,
        http=accept,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=LONGEST_HEAD,
    )
    config.load()
    if tls is not None and listener.path is None:
        config.ssl = tls.http_context()
    return config


class _Server(uvicorn.Server):
    """uvicorn's server without signal handlers (signals are the daemon's), and with a limit for slow TLS handshakes."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        accept = functools.partial(
            cast(Any, self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": connection.SLOWEST_S}
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(accept, sock=listening, backlog=_BACKLOG, **tls) for listening in sockets or ()
        ]
        self.started = True

    def end(self) -> None:
        """Waits no more for requests at work: their clients are told so."""
        self.force_exit = True
        for open_one in list(self.server_state.connections):
            cast(connection.Connection, open_one).end()
        for task in list(self.server_state.tasks):
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _listen(listener: Listener) -> socket.socket:
    if listener.path is None:
        return await asyncio.to_thread(listener.bound)  # it may ask for a host's address
    await asyncio.to_thread(listener.make_way)
    with listener.closed():
        listening = listener.bound()
    await asyncio.to_thread(listener.let_in)
    return listening


def _address(listening: socket.socket) -> str:
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused_early(requests: Requests) -> Callable[[int, float, str], None]:
    """Accounts for what is refused before it is a request: too many connections, slow heads, what is not HTTP."""

    def told(code: int, started: float, peer: str) -> None:
        requests.observer.http_answer(code)
        tell("-", "-", str(code), started, peer, request_id(None))

    return told
