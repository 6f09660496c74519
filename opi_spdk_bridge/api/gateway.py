"""The HTTP side: every RPC by its google.api.http route, the API's description, health, the page."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.message import Message as ProtoMessage
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opi_spdk_bridge import errors
from opi_spdk_bridge.api import connection, openapi
from opi_spdk_bridge.api.answers import JsonResponse, Refusal, failure_answer, message_answer, status_answer
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.health import Check, healthz, readyz
from opi_spdk_bridge.api.interceptors import Caller, Failed, Requests, request_id, tell
from opi_spdk_bridge.api.policy import Peer, bearer, require_unrestricted
from opi_spdk_bridge.api.routes import Routes
from opi_spdk_bridge.api.transcode import to_request

log = logging.getLogger(__name__)
_REQUEST_ID = "x-request-id"
LISTENER = "listener"
_RPC = "rpc"
_LONGEST_URL = 8 * 1024
LONGEST_HEAD = 64 * 1024
_IDENTITY = "identity"
_LONGEST_CODING = 100
_CHALLENGE = (b"www-authenticate", b"Bearer")
_SAFE = ("GET", "HEAD", "OPTIONS")
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
)


def application(
    methods: Sequence[Method], requests: Requests, checks: Sequence[Check], pages: Sequence[BaseRoute]
) -> ASGIApp:
    """Everything that is served over HTTP."""
    routes = Routes(methods)

    @functools.cache
    def description() -> dict[str, Any]:
        return openapi.describe(routes)

    async def describe(_request: Request) -> Response:
        return JsonResponse(description())

    app = Starlette(
        routes=[
            Route("/openapi.json", describe),
            Route("/healthz", healthz),
            Route("/readyz", readyz(checks)),
            Route("/v1/{path:path}", _Endpoint(_Gateway(routes, requests).answer)),
            *(_Guarded(page, requests) for page in pages),
        ],
        exception_handlers={HTTPException: _http_problem, Refusal: _refused, Exception: _bug},
    )
    app.router.redirect_slashes = False
    return _Edge(app, requests)


class _Endpoint:
    """A function from a request to its answer as an endpoint for every HTTP method."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        await answer(scope, receive, send)


class _Guarded(BaseRoute):
    """The route of a page that shows every resource: for callers who may see every resource."""

    def __init__(self, page: BaseRoute, requests: Requests) -> None:
        self._page = page
        self._requests = requests

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self._page.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            asker = self._requests.authorizer.identify(_connection(request))
            require_unrestricted(asker, request.url.path[:200])
        except errors.BridgeError as problem:
            await status_answer(errors.to_status(problem))(scope, receive, send)
        else:
            await self._page.handle(scope, receive, send)


class _Gateway:
    """Carries out RPCs."""

    def __init__(self, routes: Routes, requests: Requests) -> None:
        self._routes = routes
        self._requests = requests

    async def answer(self, request: Request) -> Response:
        raw_path = request.scope["raw_path"].decode("ascii")
        found = self._routes.find("GET" if request.method == "HEAD" else request.method, raw_path)
        if found is None:
            raise self._no_route(request.method, raw_path)
        route, names = found
        state = request.scope["state"]
        state[_RPC] = route.method.name
        headers, peer = dict(request.headers), _connection(request)
        caller = Caller(_peer(request), state[_REQUEST_ID], None, headers, peer, request.url.path)

        async def read() -> ProtoMessage:
            body = await _plain_body(request, self._requests.limits.message_bytes) if route.body else b""
            return to_request(route, names, request.url.query, body)

        try:
            return message_answer(await self._requests.run(route.method, read, caller, canonical=True))
        except Failed as failure:
            return failure_answer(failure)

    def _no_route(self, http_method: str, raw_path: str) -> Refusal:
        allowed = self._routes.allowed(raw_path)
        if not allowed:
            text = (
                f"{raw_path[:200]} is no path of this API (see /openapi.json); IDs begin and end with a letter or digit"
            )
            return Refusal(404, errors.NotFound(text))
        text = f"{http_method} is not for {raw_path[:200]}, only {', '.join(allowed)}"
        return Refusal(405, errors.Unimplemented(text), {"allow": ", ".join(allowed)})


async def _plain_body(request: Request, most_bytes: int) -> bytes:
    """The whole body; raises Refusal where it is too large, too slow, or encoded (RFC 9110, section 15.5.16)."""
    body = await _body(request, most_bytes)
    named = ",".join(request.headers.getlist("content-encoding")).split(",")
    unknown = [coding for coding in (name.strip() for name in named) if coding and coding.lower() != _IDENTITY]
    if unknown:
        text = f"the body is encoded as {', '.join(unknown)[:_LONGEST_CODING]}: send it as it is"
        problem = errors.InvalidArgument(text, field="body")
        raise Refusal(415, problem, {"accept-encoding": _IDENTITY})
    return body


async def _body(request: Request, most_bytes: int) -> bytes:
    """The whole body; raises Refusal where it is too large or too slow."""
    text = f"the body is larger than {most_bytes} bytes"
    too_large = Refusal(413, errors.InvalidArgument(text, field="body"), {"connection": "close"})
    if int(request.headers.get("content-length", 0)) > most_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(connection.SLOWEST_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise too_large
    except TimeoutError:
        slow = connection.TooSlow(f"the body took longer than {connection.SLOWEST_S:g} seconds", field="body")
        raise Refusal(408, slow, {"connection": "close"}) from None
    return bytes(body)


def _connection(request: Request) -> Peer:
    """What the connection tells of who asks."""
    state = request.scope["state"]
    token = bearer(request.headers.get("authorization", ""))
    return Peer(state.get(connection.CERTIFIED, ()), state[LISTENER], token)


def _peer(request: Request) -> str:
    return connection.peer(request.scope["client"])


class _Edge:
    """What holds for every request: its ID is echoed, its URL has a limit, web pages of others change nothing here.

    Each answer is counted by its code. What is no RPC has its line in the log here: at level debug where nothing is
    wrong with it, since probes, scrapes and the page come every few seconds.
    """

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        identity = request_id(request.headers.get(_REQUEST_ID))
        scope.setdefault("state", {})[_REQUEST_ID] = identity
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._account(request, message["status"], started)
                identified = (_REQUEST_ID.encode(), identity.encode())
                challenge = [_CHALLENGE] if message["status"] == 401 else []
                message["headers"] = [*message.get("headers", ()), identified, *challenge, *_SECURITY]
            await send(message)

        try:
            _require_short_url(scope)
            _require_same_origin(request)
        except Refusal as refusal:
            await failure_answer(refusal)(scope, receive, send_with_id)
        else:
            await self._app(scope, receive, send_with_id)

    def _account(self, request: Request, code: int, started: float) -> None:
        self._requests.observer.http_answer(code)
        state = request.scope["state"]
        if _RPC not in state:
            level = logging.INFO if code >= 400 else logging.DEBUG
            path = request.url.path
            tell(request.method, path, str(code), started, _peer(request), state[_REQUEST_ID], level)


def _require_short_url(scope: Scope) -> None:
    length = len(scope["raw_path"]) + len(scope["query_string"])
    if length > _LONGEST_URL:
        text = f"the URL has {length} characters; {_LONGEST_URL} are the most"
        raise Refusal(414, errors.InvalidArgument(text, field="url"))


def _require_same_origin(request: Request) -> None:
    """Bodies are JSON whatever their type, so any web page could send one: browsers say from where (Origin)."""
    origin = request.headers.get("origin")
    if request.method in _SAFE or origin is None or urlsplit(origin).netloc == request.headers.get("host"):
        return
    raise Refusal(403, errors.PermissionDenied("changes from web pages of other origins are not accepted"))


async def _refused(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Refusal)
    return failure_answer(problem)


async def _http_problem(request: Request, problem: Exception) -> Response:
    """What Starlette's router refuses, as a google.rpc.Status."""
    assert isinstance(problem, HTTPException)
    path = request.url.path[:200]
    if problem.status_code == 405:
        cause: errors.BridgeError = errors.Unimplemented(f"{request.method} is not for {path}")
    else:
        cause = errors.NotFound(f"there is nothing at {path}; the API is described at /openapi.json")
    return failure_answer(Refusal(problem.status_code, cause, _headers(problem)))


def _headers(problem: HTTPException) -> Mapping[str, str]:
    return problem.headers or {}


async def _bug(_request: Request, problem: Exception) -> Response:
    return status_answer(errors.to_status(problem))
