"""Logging of the daemon: one line a record, as JSON or for people, secrets masked in one place."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from opi_spdk_bridge import redact

Format = Literal["auto", "console", "json"]


def configure(level: str, style: Format = "auto") -> None:
    """Sends records of at least `level` (debug, info, warning, error) to standard error; again to change it.

    `auto` is for people on a terminal and JSON elsewhere.
    """
    people = sys.stderr.isatty() if style == "auto" else style == "console"
    handler = logging.StreamHandler()
    handler.addFilter(redact.RedactingFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _masked,
                structlog.dev.ConsoleRenderer(colors=people and sys.stderr.isatty())
                if people
                else structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _masked(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last step before rendering: whatever a record carries, its secrets stay here."""
    masked: MutableMapping[str, Any] = redact.tree(dict(event))
    return masked
