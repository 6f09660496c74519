"""Typed decoding of a method's parameters, as strict as lib/json/json_util.c.

A method declares its parameters as a frozen dataclass: a field without a default is required, its annotation says how
the value is decoded. An unknown member, a member given twice, a value of another type or out of range fails the whole
object; the target does not say which one it was.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

Decoder = Callable[[Any], Any]
T = TypeVar("T")


class DecodeError(ValueError):
    """The parameters do not decode."""


class RepeatedMembers(dict[str, Any]):
    """A JSON object in which a member's name occurs more than once."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A JSON number with a fraction or an exponent, as it was written."""

    text: str

    def whole(self) -> int:
        """The integer it denotes (1e3 is 1000). Raises DecodeError when it denotes none."""
        value = float(self.text)
        if not value.is_integer():
            raise DecodeError(self.text)
        return int(value)


@dataclasses.dataclass(frozen=True)
class IntegerRange:
    lowest: int
    highest: int

    def __call__(self, value: Any) -> int:
        number = value.whole() if type(value) is Number else value
        if type(number) is not int or not self.lowest <= number <= self.highest:
            raise DecodeError(repr(value))
        return number


def _string(value: Any) -> str:
    if type(value) is not str or "\0" in value:
        raise DecodeError(repr(value))
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise DecodeError(repr(value))
    return value


_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
NIL_UUID = "00000000-0000-0000-0000-000000000000"


def parse_uuid(value: Any) -> str | None:
    """The canonical form of a UUID; the nil UUID means that none was given. Raises DecodeError."""
    text = _string(value)
    if not _UUID.match(text):
        raise DecodeError(text)
    return None if text == NIL_UUID else text.lower()


U8 = Annotated[int, IntegerRange(0, 2**8 - 1)]
U16 = Annotated[int, IntegerRange(0, 2**16 - 1)]
U32 = Annotated[int, IntegerRange(0, 2**32 - 1)]
U64 = Annotated[int, IntegerRange(0, 2**64 - 1)]
I32 = Annotated[int, IntegerRange(-(2**31), 2**31 - 1)]
Uuid = Annotated[str | None, parse_uuid]


class Schema(Generic[T]):
    """The decoder of one dataclass of parameters."""

    def __init__(self, parameters: type[T]) -> None:
        hints = typing.get_type_hints(parameters, include_extras=True)
        fields = dataclasses.fields(cast(Any, parameters))
        self._make = parameters
        self._decoders = {field.name: _decoder(hints[field.name]) for field in fields}
        self._required = frozenset(
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )

    def decode(self, value: Any, *, relaxed: bool = False) -> T:
        """The parameters in `value`. `relaxed` lets unknown members pass. Raises DecodeError."""
        return self._make(**self.members(value, relaxed=relaxed))

    def members(self, value: Any, *, relaxed: bool = False) -> dict[str, Any]:
        """The members that `value` has, decoded: for options that keep what is not given. Raises DecodeError."""
        if type(value) is not dict:
            raise DecodeError(repr(value))
        decoded = {}
        for name, member in value.items():
            decoder = self._decoders.get(name)
            if decoder is not None:
                decoded[name] = decoder(member)
            elif not relaxed:
                raise DecodeError(name)
        if not self._required <= decoded.keys():
            raise DecodeError("a required member is missing")
        return decoded


def _decoder(hint: Any) -> Decoder:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return typing.cast("Decoder", hint.__metadata__[0])
    if origin in (types.UnionType, typing.Union):
        return _decoder(next(member for member in typing.get_args(hint) if member is not types.NoneType))
    if origin is Literal:
        return _choice(frozenset(typing.get_args(hint)))
    if origin is list:
        return _list(_decoder(typing.get_args(hint)[0]))
    if dataclasses.is_dataclass(hint):
        return Schema(typing.cast("type[Any]", hint)).decode
    return {str: _string, bool: _boolean, object: lambda value: value}[hint]


def _choice(names: frozenset[str]) -> Decoder:
    def decode(value: Any) -> str:
        if _string(value) not in names:
            raise DecodeError(value)
        return typing.cast("str", value)

    return decode


def _list(element: Decoder) -> Decoder:
    def decode(value: Any) -> list[Any]:
        if type(value) is not list:
            raise DecodeError(repr(value))
        return [element(member) for member in value]

    return decode
