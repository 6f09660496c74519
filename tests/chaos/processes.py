"""Bridge and targets as the crash test runs them: each start of the bridge with a log of its own."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from tests.support.bridge import Bridge
from tests.support.target import Emulator, wait_until

_SWEPT = re.compile(r"swept \d+ resources")


class ChaosBridge(Bridge):
    """A bridge that is killed and started again on its state, on one port."""

    def __init__(self, folder: Path, **flags: Any) -> None:
        super().__init__(folder, **flags)
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        self._log = self._folder / f"bridge-{self.starts}.log"
        super().start()

    def logs(self) -> list[Path]:
        """The logs of all starts."""
        return sorted(self._folder.glob("bridge-*.log"))

    @property
    def log_size(self) -> int:
        """How far the present log is written, in bytes."""
        return self._log.stat().st_size if self._log.exists() else 0

    def swept_since(self, position: int) -> bool:
        """Whether the present log tells of a sweep over everything behind a position."""
        with self._log.open("rb") as file:
            file.seek(position)
            return _SWEPT.search(file.read().decode(errors="replace")) is not None

    def wait_swept(self, position: int, seconds: float) -> None:
        """Waits for that."""
        wait_until(lambda: self.swept_since(position), "the target was compared with the state", seconds)


class ChaosEmulator(Emulator):
    """An emulated target that may end by itself when a fault tells it to."""

    def start_again(self) -> None:
        """Starts it, empty, after it ended in whatever way."""
        if self.running:
            self.kill()
        elif self._process is not None:
            self._process.wait()
            self._process = None
        Path(self.socket).unlink(missing_ok=True)
        self.start()

    def fault(self, **fault: Any) -> bool:
        """Injects a fault; False when the target is not there to take it."""
        try:
            self.rpc("emulator_inject_fault", **fault)
        except OSError:
            return False
        return True


def until(moment: float) -> None:
    """Sleeps until a point on the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))
