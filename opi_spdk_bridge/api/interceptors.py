"""What happens around every request: its deadline, its place among others, its log line, its errors."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.api.bind import Method
from opi_spdk_bridge.api.naming import legacy_names
from opi_spdk_bridge.api.policy import READS, Authorizer, Everyone, Peer, require_allowed, visible
from opi_spdk_bridge.observer import NoObserver, Observer

log = logging.getLogger("opi_spdk_bridge.requests")
audit = logging.getLogger("opi_spdk_bridge.audit")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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


def request_id(given: str | None) -> str:
    """The client's request ID where it is usable, else a fresh one."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class Failed(Exception):
    """The request ended in an error; `status` is for the client."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Requests:
    """Runs requests; at most `most_at_once` at a time, each for at most `timeout_s` unless its caller gives less."""

    def __init__(
        self,
        most_at_once: int,
        timeout_s: float,
        legacy: bool,
        observer: Observer | None = None,
        authorizer: Authorizer | None = None,
    ) -> None:
        self.authorizer: Authorizer = authorizer or Everyone()
        """May be replaced while requests are at work."""
        self._observer = observer or NoObserver()
        self._most_at_once = most_at_once
        self._timeout_s = timeout_s
        self._legacy = legacy
        self._at_work = 0

    async def run(self, method: Method, request: Message, caller: Caller, *, canonical: bool = False) -> Message:
        """Carries out the request; raises Failed. `canonical`: names in the answer are so in any setting."""
        started = time.monotonic()
        code = "OK"
        with self._observer.request(method.service, method.name, caller.carrier) as ended:
            try:
                answer = await self._admitted(method, request, caller)
                return legacy_names(answer) if self._legacy and not canonical else answer
            except Failed as failure:
                code = code_pb2.Code.Name(failure.status.code)
                raise
            except BaseException:
                code = "CANCELLED"
                raise
            finally:
                ended(code)
                log.info(
                    "request",
                    extra={
                        "method": method.name,
                        "resource": subject(request),
                        "code": code,
                        "duration_ms": round(1e3 * (time.monotonic() - started), 2),
                        "peer": caller.peer,
                        "request_id": caller.request_id,
                    },
                )

    async def _admitted(self, method: Method, request: Message, caller: Caller) -> Message:
        if self._at_work >= self._most_at_once:
            text = f"the bridge is at work on {self._at_work} requests, as many as it takes: try again"
            raise Failed(errors.to_status(errors.ResourceExhausted(text)))
        self._at_work += 1
        try:
            given_s = self._timeout_s if caller.timeout_s is None else caller.timeout_s
            with deadline.limit(min(self._timeout_s, given_s)):
                return await self._authorized(method, request, caller)
        except errors.BridgeError as problem:
            raise Failed(errors.to_status(problem)) from problem
        except Exception as problem:
            log.exception("%s %s failed: this is a bug", method.name, caller.request_id)
            raise Failed(errors.to_status(problem)) from problem
        finally:
            self._at_work -= 1

    async def _authorized(self, method: Method, request: Message, caller: Caller) -> Message:
        """Lets the caller do what the policy allows, and says who changed what."""
        asker, code = self.authorizer.identify(caller.connection), "UNKNOWN"
        try:
            require_allowed(asker, method.name, request)
            answer = visible(asker, await method.call(request))
            code = "OK"
            return answer
        except errors.BridgeError as problem:
            code = problem.reason
            raise
        finally:
            if not method.name.startswith(READS):
                told = {"who": asker.name, "method": method.name, "resource": subject(request), "result": code}
                audit.info("change", extra={**told, "request_id": caller.request_id})


def subject(request: Message) -> str:
    """The resource name that a request is about, as far as the request tells; fit for one line of a log."""
    return "".join(character if character.isprintable() else "?" for character in _subject(request))


def _subject(request: Message) -> str:
    for part in request.DESCRIPTOR.fields:
        if part.name in ("name", "parent"):
            value = getattr(request, part.name)
            if value:
                return str(value)[:200]
        elif part.name.endswith("_id") and part.message_type is None:
            return str(getattr(request, part.name))[:200] or "(new)"
        elif part.message_type is not None and "name" in part.message_type.fields_by_name:
            name = getattr(getattr(request, part.name), "name", "")
            if name:
                return str(name)[:200]
    return "-"
