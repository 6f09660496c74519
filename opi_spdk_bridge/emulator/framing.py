"""Finds where one JSON value ends in a stream of bytes.

A target reads requests from a stream without separators: a value is complete when its outermost bracket closes
(lib/json/json_parse.c). `Scanner` keeps its place between chunks, so each byte is looked at once however the bytes
are cut.
"""

import re

MAX_DEPTH = 64

_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN_STRING_BYTES = re.compile(rb'[^"\\\x00-\x1f]*')
_SCALAR_BYTES = re.compile(rb"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
_NUMBER_START = re.compile(rb"-?(?:0|[1-9][0-9]*)?(?:(?<=[0-9])\.[0-9]*)?(?:(?<=[0-9])[eE][-+]?[0-9]*)?\Z")
_LITERALS = (b"true", b"false", b"null")
_SEPARATORS = frozenset(b" \t\r\n,:]}")

_VALUE, _SEPARATOR, _NAME, _COLON, _DONE = range(5)


class InvalidJsonError(ValueError):
    """The bytes cannot be the start of any JSON value."""


class Scanner:
    """Scans one JSON value across chunks; `scan` returns its end once the buffer holds all of it."""

    def __init__(self) -> None:
        self._position = 0
        self._state = _VALUE
        self._after_comma = False
        self._containers: list[int] = []
        self._in_string = False

    def scan(self, buffer: bytes | bytearray) -> int | None:
        """The offset just behind the value and the white space after it, or None when more bytes are needed.

        `buffer` starts with the value and must be the buffer of the call before, extended. Raises InvalidJsonError
        when no continuation can be valid.
        """
        while self._state != _DONE:
            if self._in_string:
                if not self._finish_string(buffer):
                    return None
                continue
            self._position = _end(_SPACE, buffer, self._position)
            if self._position == len(buffer):
                return None
            if not self._token(buffer, buffer[self._position]):
                return None
        return _end(_SPACE, buffer, self._position)

    def _token(self, buffer: bytes | bytearray, byte: int) -> bool:
        """Consumes one token; False when the buffer ends within it."""
        if byte in b"{[":
            self._open(byte)
        elif byte in b"}]":
            self._close(byte)
        elif byte == ord(","):
            self._expect(_SEPARATOR)
            self._state = _VALUE if self._containers[-1] == ord("[") else _NAME
            self._after_comma = True
        elif byte == ord(":"):
            self._expect(_COLON)
            self._state = _VALUE
        elif byte == ord('"'):
            if self._state not in (_VALUE, _NAME):
                raise InvalidJsonError("a string where none may be")
            self._in_string = True
        else:
            return self._scalar(buffer)
        self._position += 1
        return True

    def _expect(self, state: int) -> None:
        if self._state != state:
            raise InvalidJsonError("an unexpected separator")

    def _open(self, byte: int) -> None:
        self._expect(_VALUE)
        if len(self._containers) == MAX_DEPTH:
            raise InvalidJsonError("nested too deeply")
        self._containers.append(byte)
        self._state = _NAME if byte == ord("{") else _VALUE
        self._after_comma = False

    def _close(self, byte: int) -> None:
        opening, first = (ord("{"), _NAME) if byte == ord("}") else (ord("["), _VALUE)
        if self._after_comma or not self._containers or self._state not in (first, _SEPARATOR):
            raise InvalidJsonError("an unexpected closing bracket")
        if self._containers.pop() != opening:
            raise InvalidJsonError("brackets that do not match")
        self._ended()

    def _ended(self) -> None:
        self._state = _SEPARATOR if self._containers else _DONE
        self._after_comma = False

    def _finish_string(self, buffer: bytes | bytearray) -> bool:
        while True:
            self._position = _end(_PLAIN_STRING_BYTES, buffer, self._position)
            if self._position == len(buffer):
                return False
            byte = buffer[self._position]
            if byte == ord("\\"):
                if self._position + 1 == len(buffer):
                    return False
                self._position += 2
            elif byte == ord('"'):
                self._position += 1
                self._in_string = False
                if self._state == _NAME:
                    self._state = _COLON
                    self._after_comma = False
                else:
                    self._ended()
                return True
            else:
                raise InvalidJsonError("a control character in a string")

    def _scalar(self, buffer: bytes | bytearray) -> bool:
        end = _end(_SCALAR_BYTES, buffer, self._position)
        text = bytes(buffer[self._position : end])
        if self._state != _VALUE or not text:
            raise InvalidJsonError("an unexpected character")
        complete = text in _LITERALS or _NUMBER.match(text) is not None
        if end == len(buffer) and not (complete and not self._containers):
            if complete or _NUMBER_START.match(text) or any(literal.startswith(text) for literal in _LITERALS):
                return False
            raise InvalidJsonError("an unexpected word")
        if not complete or (self._containers and buffer[end] not in _SEPARATORS):
            raise InvalidJsonError("an unexpected word")
        self._position = end
        self._ended()
        return True


def _end(pattern: re.Pattern[bytes], buffer: bytes | bytearray, start: int) -> int:
    match = pattern.match(buffer, start)
    return match.end() if match else start
