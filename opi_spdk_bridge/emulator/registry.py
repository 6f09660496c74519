"""The table of JSON-RPC methods: what a method is called, takes, when it may be called, and how it fails."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, TypeVar

from .schema import DecodeError, Schema

if TYPE_CHECKING:
    from .target import Target

P = TypeVar("P")

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
INVALID_STATE = -1
NOT_EMULATED = -EOPNOTSUPP
"""For methods that the target lists and the emulator does not have."""


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
    """One method. `call(target, params)` answers the result, or a coroutine when the target needs more turns for it.

    None as a result stands for true, which is what the target answers where there is nothing to say; NULL for null.
    """

    name: str
    call: Callable[["Target", Any], Any]
    startup: bool
    runtime: bool
    failure: Failure

    def result(self, answer: Any) -> Any:
        """The JSON value that `call` answered."""
        if answer is NULL:
            return None
        return True if answer is None else answer

    def error(self, error: RpcError | OSError) -> RpcError:
        if isinstance(error, RpcError):
            return error
        number = error.errno or EINVAL
        code = self.failure.errno_code
        return RpcError(-number if code is None else code, os.strerror(number))


class MethodTable:
    """The methods of one family, filled by its decorators."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure
        self.methods: list[Method] = []

    def rpc(
        self,
        name: str,
        parameters: type[P],
        *,
        failure: Failure | None = None,
        relaxed: bool = False,
        startup: bool = False,
        runtime: bool = True,
    ) -> Callable[[Callable[["Target", P], Any]], Callable[["Target", P], Any]]:
        """Registers a method that takes `parameters`. `relaxed`: unknown parameters are ignored."""
        schema = Schema(parameters)
        return self._register(name, failure, startup, runtime, lambda params: schema.decode(params, relaxed=relaxed))

    def partial(
        self,
        name: str,
        parameters: type[Any],
        *,
        failure: Failure | None = None,
        relaxed: bool = False,
        startup: bool = False,
        runtime: bool = True,
    ) -> Callable[[Callable[["Target", dict[str, Any]], Any]], Callable[["Target", dict[str, Any]], Any]]:
        """As `rpc`, for a method that keeps what is not given: its handler takes only the given members."""
        schema = Schema(parameters)
        return self._register(name, failure, startup, runtime, lambda params: schema.members(params, relaxed=relaxed))

    def _register(
        self, name: str, failure: Failure | None, startup: bool, runtime: bool, decode: Callable[[Any], P]
    ) -> Callable[[Callable[["Target", P], Any]], Callable[["Target", P], Any]]:
        failing = failure or self._failure

        def register(handler: Callable[["Target", P], Any]) -> Callable[["Target", P], Any]:
            def call(target: "Target", params: Any) -> Any:
                try:
                    decoded = decode({} if params is None else params)
                except DecodeError:
                    raise RpcError(failing.code, failing.message) from None
                return handler(target, decoded)

            self.methods.append(Method(name, call, startup, runtime, failing))
            return handler

        return register

    def plain(
        self, name: str, refusal: str | None = None, *, startup: bool = False, runtime: bool = True
    ) -> Callable[[Callable[["Target"], Any]], Callable[["Target"], Any]]:
        """Registers a method without parameters: any are refused with the text `refusal`, or ignored without one."""

        def register(handler: Callable[["Target"], Any]) -> Callable[["Target"], Any]:
            def call(target: "Target", params: Any) -> Any:
                if params is not None and refusal is not None:
                    raise RpcError(INVALID_PARAMS, refusal)
                return handler(target)

            self.methods.append(Method(name, call, startup, runtime, self._failure))
            return handler

        return register
