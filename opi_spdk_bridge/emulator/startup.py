"""Executing a configuration, as save_config writes it, when a target starts."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, Protocol

from .registry import NOT_EMULATED, RpcError

logger = logging.getLogger(__name__)


class Starting(Protocol):
    """The target that a configuration is executed on."""

    def is_due(self, name: str) -> bool: ...

    async def call(self, name: str, params: Any) -> Any: ...


class Configuration:
    """A configuration file. It is executed twice: start-up methods before the target starts, the others after.

    A method that may be called before and after the start is called before only. The calls of one subsystem are made
    in order, those of a batch together.
    """

    def __init__(self, subsystems: list[list[Any]]) -> None:
        self._subsystems = subsystems

    @classmethod
    def read(cls, path: Path) -> "Configuration":
        """Raises OSError or ValueError."""
        subsystems = json.loads(path.read_text()).get("subsystems", [])
        return cls([subsystem["config"] or [] for subsystem in subsystems])

    async def execute(self, target: Starting) -> None:
        """Makes the calls that are due in the target's present state. Raises ValueError when one fails."""
        for config in self._subsystems:
            for entry in config:
                calls = entry if isinstance(entry, list) else [entry]
                due = [call for call in calls if target.is_due(call["method"])]
                await asyncio.gather(*(_execute(target, call) for call in due))


async def _execute(target: Starting, call: dict[str, Any]) -> None:
    try:
        await target.call(call["method"], call.get("params"))
    except RpcError as error:
        if error.code != NOT_EMULATED:
            raise ValueError(f"{call['method']}: {error.message} ({error.code})") from None
        logger.warning("the configuration's %s is left out: it is not emulated", call["method"])
