"""What happens around every request: its deadline, its place among others, its log line, its errors.

`Requests.run` is the one way to an RPC. It begins where its name is known: what is wrong with how a request came (no
JSON, too large, too slow) is counted and logged as the end of an RPC like any other.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.limits import Limits, require_short
from opi_spdk_bridge.api.naming import legacy_names
from opi_spdk_bridge.api.policy import Authorizer, Everyone, Peer, Subject, require_allowed, visible
from opi_spdk_bridge.telemetry.observer import NoObserver, Observer

log = logging.getLogger("opi_spdk_bridge.requests")
audit = logging.getLogger("opi_spdk_bridge.audit")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_LONGEST_SUBJECT = 200

Read = Callable[[], Awaitable[Message]]
"""Makes the request's message of what came; raises BridgeError or Failed where that is none."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the peer's address, the request's ID, and the time it gives in seconds (None: no limit)."""

    peer: str
    request_id: str
    timeout_s: float | None
    carrier: Mapping[str, str] = field(default_factory=dict)
    """The client's metadata or headers, which may name a trace."""
    connection: Peer = field(default_factory=Peer)
    """What the connection tells of who asks."""
    about: str = "-"
    """What the request is about, for the log where its message cannot be read."""

    @property
    def origin(self) -> tuple[str, str]:
        """What counts as one peer: the listener's identity, and the address without its port."""
        return self.connection.listener, self.peer.removeprefix("ipv4:").rpartition(":")[0]


def request_id(given: str | None) -> str:
    """The client's request ID where it is usable, else a fresh one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


class Failed(Exception):
    """The request ended in an error; `status` is for the client."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Requests:
    """Runs requests, within the limits."""

    def __init__(
        self,
        limits: Limits,
        legacy: bool = False,
        observer: Observer | None = None,
        authorizer: Authorizer | None = None,
    ) -> None:
        self.authorizer: Authorizer = authorizer or Everyone()
        """May be replaced while requests are at work."""
        self.observer: Observer = observer or NoObserver()
        self.limits = limits
        self._legacy = legacy
        self._at_work: Counter[tuple[str, str]] = Counter()

    async def run(self, method: Method, read: Read, caller: Caller, *, canonical: bool = False) -> Message:
        """Reads and carries out the request; raises Failed. `canonical`: names in the answer are so in any setting."""
        started = time.monotonic()
        code, about, who = "OK", caller.about, "-"
        with self.observer.request(method.service, method.name, caller.carrier) as ended:
            try:
                asker = self._identified(caller)
                who = asker.name
                request = await self._read(read)
                about = subject(request)
                answer = await self._admitted(method, request, caller, asker)
                return legacy_names(answer) if self._legacy and not canonical else answer
            except Failed as failure:
                code = code_pb2.Code.Name(failure.status.code)
                raise
            except BaseException:
                code = "CANCELLED"
                raise
            finally:
                ended(code)
                by = who if method.changes else None
                tell(method.name, about, code, started, caller.peer, caller.request_id, changed_by=by)

    def _identified(self, caller: Caller) -> Subject:
        try:
            return self.authorizer.identify(caller.connection)
        except errors.BridgeError as problem:
            raise Failed(errors.to_status(problem)) from problem

    async def _read(self, read: Read) -> Message:
        try:
            request = await read()
            require_short(request, self.limits.field_bytes)
        except errors.BridgeError as problem:
            raise Failed(errors.to_status(problem)) from problem
        return request

    async def _admitted(self, method: Method, request: Message, caller: Caller, asker: Subject) -> Message:
        origin = caller.origin
        try:
            self._require_room(origin)
        except errors.ResourceExhausted as problem:
            raise Failed(errors.to_status(problem)) from problem
        self._at_work[origin] += 1
        try:
            most_s = self.limits.request_s
            with deadline.limit(most_s if caller.timeout_s is None else min(most_s, caller.timeout_s)):
                require_allowed(asker, method.name, request)
                return visible(asker, await method.call(request))
        except errors.BridgeError as problem:
            raise Failed(errors.to_status(problem)) from problem
        except Exception as problem:
            log.exception("%s %s failed: this is a bug", method.name, caller.request_id)
            raise Failed(errors.to_status(problem)) from problem
        finally:
            self._at_work[origin] -= 1
            if not self._at_work[origin]:
                del self._at_work[origin]

    def _require_room(self, origin: tuple[str, str]) -> None:
        """Raises ResourceExhausted where as many requests are at work as may be."""
        if self._at_work.total() >= self.limits.requests:
            text = f"the bridge is at work on {self.limits.requests} requests, as many as it takes: try again"
            raise errors.ResourceExhausted(text)
        if self._at_work[origin] >= self.limits.requests_of_peer:
            text = f"the bridge is at work on {self.limits.requests_of_peer} requests of this peer, as many as it takes"
            raise errors.ResourceExhausted(f"{text}: try again")


def tell(
    method: str,
    resource: str,
    code: str,
    started: float,
    peer: str,
    request_id: str,
    level: int = logging.INFO,
    changed_by: str | None = None,
) -> None:
    """Logs the one line of a request that began at `started` (monotonic seconds) and ends now.

    `changed_by`: who asked for a change, whose line is one of the audit.
    """
    took_ms = round(1e3 * (time.monotonic() - started), 2)
    told = {"method": method, "resource": printable(resource), "code": code, "duration_ms": took_ms}
    told |= {"peer": peer, "request_id": request_id}
    if changed_by is None:
        log.log(level, "request", extra=told)
    else:
        audit.log(level, "change", extra={"who": changed_by, **told})


def subject(request: Message) -> str:
    """The resource name that a request is about, as far as the request tells; fit for one line of a log."""
    return printable(_subject(request))


def printable(text: str) -> str:
    """The text's beginning without what would break a line of a log."""
    text = text[:_LONGEST_SUBJECT]
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def _subject(request: Message) -> str:
    for part in request.DESCRIPTOR.fields:
        if part.name in ("name", "parent"):
            value = getattr(request, part.name)
            if value:
                return str(value)
        elif part.name.endswith("_id") and part.message_type is None:
            return str(getattr(request, part.name)) or "(new)"
        elif part.message_type is not None and "name" in part.message_type.fields_by_name:
            name = getattr(getattr(request, part.name), "name", "")
            if name:
                return str(name)
    return "-"
