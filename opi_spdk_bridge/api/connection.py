"""A connection of the HTTP server: uvicorn's, with limits for many and slow clients, refusing in google.rpc.Status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import h11
from google.rpc import code_pb2
from uvicorn.protocols.http.h11_impl import H11Protocol

from opi_spdk_bridge import errors
from opi_spdk_bridge.api.answers import Refusal, failure_answer

SLOWEST_S = 20.0
"""How long a client may take for the head of a request, for its body, and to take what it is sent, in seconds."""


CERTIFIED = "certified"
"""In a request's state: the names in the client's certificate."""


def certified(certificate: Mapping[str, Any]) -> list[str]:
    """The subject alternative names and common names of a certificate as ssl gives it."""
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return [value for _, value in certificate.get("subjectAltName", ())] + common


def peer(client: tuple[str, int] | None) -> str:
    """A peer's address, as gRPC would have it for Unix sockets."""
    return f"{client[0]}:{client[1]}" if client is not None else "unix:"


class TooSlow(errors.BridgeError):
    """The client did not send its request in time."""

    code = code_pb2.DEADLINE_EXCEEDED
    reason = "REQUEST_TIMEOUT"


class Stopped(errors.OutcomeUnknown):
    """The bridge stops and waits no more for the request."""

    code = code_pb2.UNAVAILABLE


class Connection(H11Protocol):
    """One client's connection; `told` is told of each refusal: its HTTP code, when it began, and the peer."""

    def __init__(self, most: int, told: Callable[[int, float, str], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._most = most
        self._told = told
        self._began_at = time.monotonic()
        self._head_limit: asyncio.TimerHandle | None = None
        self._taking_limit: asyncio.TimerHandle | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.app_state = {**self.app_state, CERTIFIED: certified(certificate)}
        if len(self.connections) > self._most:
            text = f"{self._most} connections are open here, as many as the bridge takes: try again"
            self._refuse(Refusal(503, errors.ResourceExhausted(text)))
            self.transport.close()
        else:
            self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for limit in (self._head_limit, self._taking_limit):
            if limit is not None:
                limit.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._begun = False
            if self._head_limit is not None:
                self._head_limit.cancel()
                self._head_limit = None
        else:
            self._begun = True
            if self._head_limit is None:
                self._limit_head()

    def _limit_head(self) -> None:
        self._began_at = time.monotonic()
        self._head_limit = self.loop.call_later(SLOWEST_S, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._begun:
            self._refuse(Refusal(408, TooSlow(f"the head of the request took longer than {SLOWEST_S:g} seconds")))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, errors.InvalidArgument("this is not HTTP/1.1, or its head is over the limit")))
        self._let_go()
        self.transport.close()

    def end(self) -> None:
        """Hangs up, whatever is at work for this connection; its client is told where it has no answer yet."""
        if self.cycle is not None and not self.cycle.response_complete:
            if not self.cycle.response_started:
                self._refuse(Refusal(503, Stopped("the bridge stops; whether this has been carried out is not known")))
            self._let_go()
        self.transport.close()

    def _let_go(self) -> None:
        """Has a request that is at work for this connection answered to nobody, as if the client had gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _refuse(self, refusal: Refusal) -> None:
        """Sends an answer that no request handler stands behind, where none has been begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        self._told(refusal.http_code, self._began_at, peer(self.client))
        answer = failure_answer(refusal)
        head = h11.Response(status_code=answer.status_code, headers=[*answer.raw_headers, (b"connection", b"close")])
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking_limit = self.loop.call_later(SLOWEST_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking_limit is not None:
            self._taking_limit.cancel()
            self._taking_limit = None
