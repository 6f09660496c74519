"""Masks secrets in whatever is logged: the one place that knows what they look like."""

from __future__ import annotations

import logging
import re
from typing import Any

MASK = "[secret]"
_SHORTEST_SECRET = 16

# Parameters of JSON-RPC calls and fields of resources that hold key material themselves (not a key's name).
SECRET_KEYS = frozenset({"key", "key2", "psk", "dhchap_key", "dhchap_ctrlr_key", "master_key", "token", "password"})
_TLS_PSK = re.compile(r"NVMeTLSkey-1:[^\s\"']*")
_DHCHAP = re.compile(r"DHHC-1:[^\s\"']*")
_NAMED = re.compile(
    r"""(?i)(["']?\b(?:key2?|psk|password|token)\b["']?\s*[:=]\s*)"""
    r"""(b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'|[A-Za-z0-9+/=]{16,})"""
)


def text(value: str) -> str:
    """The text with everything that looks like key material masked."""
    if ":" not in value and "=" not in value:
        return value  # all that the patterns look for has one of them
    masked = _DHCHAP.sub(MASK, _TLS_PSK.sub(MASK, value))
    return _NAMED.sub(rf"\1{MASK}", masked)


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def carried(record: logging.LogRecord) -> dict[str, Any]:
    """What was given to a log record as `extra`."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def tree(value: Any) -> Any:
    """A copy of a JSON-like value in which every secret member is masked."""
    if isinstance(value, dict):
        return {k: MASK if k in SECRET_KEYS and isinstance(v, str | bytes) else tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [tree(item) for item in value]
    return text(value) if isinstance(value, str) else value


class RedactingFilter(logging.Filter):
    """Masks the finished message of every record, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a wrong format is no reason to lose what was said
            message = f"{record.msg} {record.args!r}"
        record.msg, record.args = text(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = text(record.exc_text) if record.exc_text else None
        record.stack_info = text(record.stack_info) if record.stack_info else None
        for name, value in carried(record).items():
            if name in SECRET_KEYS:
                record.__dict__[name] = MASK
            elif isinstance(value, str) and len(value) >= _SHORTEST_SECRET:
                record.__dict__[name] = text(value)
        return True
