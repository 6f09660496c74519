"""How a call comes to its method: through layers, each of which may answer in place of those below.

Faults, a release's catalogue of methods and further families of methods are layers; what they lie over knows of none.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from .reactor import Work
from .registry import Method

Handler = Callable[[str, Any], Any]
"""Starts a call, given by its method and parameters: the result, or a Work or a coroutine of it.

Raises RpcError, or HangUpError; so does the Work or the coroutine.
"""
Layer = Callable[[str, Any, Handler], Any]
"""A Handler that is also given what lies below it."""


class HangUpError(Exception):
    """The connection that the call came over is to end, without an answer."""


def layered(*layers: Layer, below: Handler) -> Handler:
    """The layers over `below`; the first is the topmost."""
    for layer in reversed(layers):
        below = _over(layer, below)
    return below


def _over(layer: Layer, below: Handler) -> Handler:
    return lambda name, params: layer(name, params, below)


def answering(*families: Iterable[Method]) -> Layer:
    """A layer that answers the methods of these families."""
    known = {method.name: method for family in families for method in family}

    def answer(name: str, params: Any, below: Handler) -> Any:
        method = known.get(name)
        return below(name, params) if method is None else method.start(params)

    return answer


async def outcome(answer: Any) -> Any:
    """The result of a call that a Handler started."""
    if isinstance(answer, Work):
        return await answer.outcome()
    return await answer if inspect.iscoroutine(answer) else answer
