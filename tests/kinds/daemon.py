"""A bridge that many tests use, its state in a file that can be thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from tests.support.bridge import Bridge


class KeptBridge(Bridge):
    """Started while the context lasts."""

    def __init__(self, folder: Path, **flags: Any) -> None:
        self._state = folder / "state.sqlite"
        super().__init__(folder, state=f"sqlite:{self._state}", **flags)

    @property
    def shared(self) -> Path:
        """The folder that it shares with the target."""
        return self._state.parent / "shared"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()

    def forget(self) -> None:
        """Throws the state away; the bridge must not run."""
        for file in self._state.parent.glob(f"{self._state.name}*"):
            if file.suffix != ".key":
                file.unlink()
