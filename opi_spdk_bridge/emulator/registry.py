"""The tables of JSON-RPC methods: what a method is called, takes, does, and how it fails.

When it may be called is the catalogue's to say (catalogue.py).
"""

import inspect
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from functools import partial
from typing import Any, Generic, TypeVar

from .reactor import Work
from .schema import DecodeError, Schema

S = TypeVar("S")
P = TypeVar("P")

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
INVALID_STATE = -1
NOT_EMULATED = -EOPNOTSUPP
"""For methods that the target lists and the emulator does not have."""

EMULATOR_PREFIX = "emulator_"
"""What the names of methods begin with that no real target has."""

NULL = object()
"""The result null; None as a result stands for true."""


class RpcError(Exception):
    """A method's error answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def errno_error(number: int) -> OSError:
    """What a method raises to fail with an errno; its family decides which code the answer carries."""
    return OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Failure:
    """How a family of methods answers: parameters that do not decode, and the code of an errno.

    `errno_code` None is the usual case, minus the errno itself.
    """

    code: int
    message: str
    errno_code: int | None = None


BDEV_FAILURE = Failure(INTERNAL_ERROR, "spdk_json_decode_object failed")
NVMF_FAILURE = Failure(INVALID_PARAMS, "Invalid parameters")
ACCEL_FAILURE = Failure(PARSE_ERROR, "spdk_json_decode_object failed")
ERRNO_FAILURE = Failure(INVALID_PARAMS, os.strerror(EINVAL))
VHOST_FAILURE = Failure(INVALID_PARAMS, os.strerror(EINVAL), errno_code=INVALID_PARAMS)


@dataclass(frozen=True)
class Method:
    """One method of one target. `call(params)` answers the result, or a Work or a coroutine when that takes more turns.

    None as a result stands for true, which is what the target answers where there is nothing to say; NULL for null.
    """

    name: str
    call: Callable[[Any], Any]
    failure: Failure

    def start(self, params: Any) -> Any:
        """Starts a call: the result as JSON, or a Work or a coroutine of it. All raise RpcError only."""
        try:
            answer = self.call(params)
        except OSError as error:
            raise self._error(error) from None
        if isinstance(answer, Work):
            return Work(self._completed(answer))
        return self._completed(answer) if inspect.iscoroutine(answer) else self._result(answer)

    async def _completed(self, work: Awaitable[Any]) -> Any:
        try:
            answer = await work
        except OSError as error:
            raise self._error(error) from None
        return self._result(answer)

    @staticmethod
    def _result(answer: Any) -> Any:
        if answer is NULL:
            return None
        return True if answer is None else answer

    def _error(self, error: OSError) -> RpcError:
        number = error.errno or EINVAL
        code = self.failure.errno_code
        return RpcError(-number if code is None else code, os.strerror(number))


class MethodTable(Generic[S]):
    """The methods of one family, filled by its decorators. A handler is given the family's state and the parameters."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure
        self._calls: list[tuple[str, Callable[[S, Any], Any], Failure]] = []

    def of(self, state: S) -> list[Method]:
        """The methods on one target's state."""
        return [Method(name, partial(call, state), failure) for name, call, failure in self._calls]

    def rpc(
        self, name: str, parameters: type[P], *, failure: Failure | None = None, relaxed: bool = False
    ) -> Callable[[Callable[[S, P], Any]], Callable[[S, P], Any]]:
        """Registers a method that takes `parameters`. `relaxed`: unknown parameters are ignored."""
        schema = Schema(parameters)
        return self._register(name, failure, lambda params: schema.decode(params, relaxed=relaxed))

    def partial(
        self, name: str, parameters: type[Any], *, failure: Failure | None = None, relaxed: bool = False
    ) -> Callable[[Callable[[S, dict[str, Any]], Any]], Callable[[S, dict[str, Any]], Any]]:
        """As `rpc`, for a method that keeps what is not given: its handler takes only the given members."""
        schema = Schema(parameters)
        return self._register(name, failure, lambda params: schema.members(params, relaxed=relaxed))

    def _register(
        self, name: str, failure: Failure | None, decode: Callable[[Any], P]
    ) -> Callable[[Callable[[S, P], Any]], Callable[[S, P], Any]]:
        failing = failure or self._failure

        def register(handler: Callable[[S, P], Any]) -> Callable[[S, P], Any]:
            def call(state: S, params: Any) -> Any:
                try:
                    decoded = decode({} if params is None else params)
                except DecodeError:
                    raise RpcError(failing.code, failing.message) from None
                return handler(state, decoded)

            self._calls.append((name, call, failing))
            return handler

        return register

    def plain(self, name: str, refusal: str | None = None) -> Callable[[Callable[[S], Any]], Callable[[S], Any]]:
        """Registers a method without parameters: any are refused with the text `refusal`, or ignored without one."""

        def register(handler: Callable[[S], Any]) -> Callable[[S], Any]:
            def call(state: S, params: Any) -> Any:
                if params is not None and refusal is not None:
                    raise RpcError(INVALID_PARAMS, refusal)
                return handler(state)

            self._calls.append((name, call, self._failure))
            return handler

        return register
