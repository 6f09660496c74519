"""Logging of the daemon: one line a record, as JSON or for people, secrets masked in one place."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from opi_spdk_bridge.telemetry import redact

Format = Literal["auto", "console", "json"]


def configure(level: str, style: Format = "auto") -> None:
    """Sends records of at least `level` (debug, info, warning, error) to standard error; again to change it.

    `auto` is for people on a terminal and JSON elsewhere.
    """
    people = sys.stderr.isatty() if style == "auto" else style == "console"
    handler = logging.StreamHandler()
    handler.addFilter(redact.RedactingFilter())
    handler.setFormatter(ConsoleFormatter() if people else JsonFormatter())
    _collect_only_what_is_shown()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _collect_only_what_is_shown() -> None:
    """Spares every record what no format here shows: thread, process, task and source line ("Optimization" in the
    logging HOWTO of Python's documentation)."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time (UTC), level, logger, event, and whatever it carries besides."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **redact.carried(record),
        }
        if record.exc_text:
            line["exception"] = record.exc_text
        return orjson.dumps(line, default=str).decode()


class ConsoleFormatter(logging.Formatter):
    """A record as a line for people; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name of what it overrides)
        carried = " ".join(f"{name}={value}" for name, value in redact.carried(record).items())
        return f"{super().formatMessage(record)} {carried}".rstrip()
