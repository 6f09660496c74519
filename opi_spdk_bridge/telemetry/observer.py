"""Who wants to know of requests and of calls to the target: metrics, traces, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

Ended = Callable[[str], None]
"""Told how it ended: a gRPC code's name for a request, `ok`, `error` or `unknown` for a call."""


class Observer(Protocol):
    """Told of each request and each call when it starts; what it returns is told when it ends. Never raises."""

    def request(self, service: str, method: str, carrier: Mapping[str, str]) -> AbstractContextManager[Ended]:
        """A request is being served while the context lasts; `carrier` has the client's metadata or headers."""

    def http_answer(self, code: int) -> None:
        """An HTTP answer of that code goes out, whether or not its request got as far as an RPC."""

    def spdk_call(self, method: str) -> Ended:
        """A JSON-RPC call has been sent to the target."""


class NoObserver:
    """Wants to know nothing."""

    @contextmanager
    def request(self, service: str, method: str, carrier: Mapping[str, str]) -> Iterator[Ended]:
        yield _ignore

    def http_answer(self, code: int) -> None:
        pass

    def spdk_call(self, method: str) -> Ended:
        return _ignore


class Observers:
    """Tells several."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    @contextmanager
    def request(self, service: str, method: str, carrier: Mapping[str, str]) -> Iterator[Ended]:
        with ExitStack() as stack:
            told = [stack.enter_context(each.request(service, method, carrier)) for each in self._observers]
            yield _all(told)

    def http_answer(self, code: int) -> None:
        for each in self._observers:
            each.http_answer(code)

    def spdk_call(self, method: str) -> Ended:
        return _all([each.spdk_call(method) for each in self._observers])


def _all(told: Sequence[Ended]) -> Ended:
    def ended(how: str) -> None:
        for tell in told:
            tell(how)

    return ended


def _ignore(_how: str) -> None:
    pass
