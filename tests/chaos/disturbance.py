"""What happens to bridge, target and connection while the clients are at work."""

from __future__ import annotations

import inspect
import random
import threading
import time

from opi_spdk_bridge.spdk import methods
from tests.chaos.ledger import Ledger
from tests.chaos.processes import ChaosBridge, ChaosEmulator
from tests.support.patience import PATIENCE_S

_RECOVERY_LIMIT_S = PATIENCE_S
_CALLS = [name for name, each in inspect.getmembers(methods, inspect.isfunction) if each.__module__ == methods.__name__]
_DIE = 0.3  # so many of the target's deaths are in the middle of a call


class Disturbance:
    """Kills and restarts the bridge and the target, and injects faults in between, in two threads of its own."""

    def __init__(self, bridge: ChaosBridge, target: ChaosEmulator, ledger: Ledger, seed: str, pause_s: float) -> None:
        self._bridge = bridge
        self._target = target
        self._ledger = ledger
        self._killing = random.Random(f"{seed} kills")
        self._faulting = random.Random(f"{seed} faults")
        self._pause_s = pause_s
        self._mutations = [name for name in _CALLS if name in target.methods and "_get_" not in name]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in (self._kill, self._fault)]
        self.broken: list[BaseException] = []
        self.bridge_kills = 0
        self.target_kills = 0
        self.faults: dict[str, int] = {}
        self.recoveries_s: list[float] = []

    def start(self) -> None:
        """Begins."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends with everything up again; raises what went wrong with it."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.broken:
            raise self.broken[0]

    def _run(self, work: object) -> None:
        try:
            assert callable(work)
            while not self._stop.is_set():
                work()
        except BaseException as problem:
            self.broken.append(problem)

    def _kill(self) -> None:
        if self._stop.wait(self._killing.uniform(0.2, 2 * self._pause_s)):
            return
        self._ledger.disturbed_at = time.monotonic()
        luck = self._killing.random()
        both = luck > 0.92
        if luck < 0.62 or both:
            self._bridge.kill()
            self.bridge_kills += 1
        if luck >= 0.62:
            if self._killing.random() < _DIE and not both:
                self._let_it_die()
            else:
                self._target.kill()
            self.target_kills += 1
        time.sleep(self._killing.choice([0.0, 0.0, 0.1, 0.5, 1.5]))
        self._restart(late_target=both and self._killing.random() < 0.5)

    def _let_it_die(self) -> None:
        """Has the target end by itself in one of the next calls."""
        when = self._killing.choice(["before", "after"])
        self._target.fault(action="die", when=when, skip=self._killing.randint(0, 40), count=1)
        limit = time.monotonic() + 2.0
        while self._target.running and time.monotonic() < limit:
            time.sleep(0.005)

    def _restart(self, *, late_target: bool) -> None:
        started = time.monotonic()
        position = self._bridge.log_size if self._bridge.running else 0
        target_ended = not self._target_up()
        if target_ended and not late_target:
            self._target.start_again()
        if not self._bridge.running:
            self._bridge.start()
            position = 0
        if target_ended and late_target:
            self._target.start_again()
        self._await_recovery(started, position)
        self._ledger.disturbed_at = time.monotonic()

    def _target_up(self) -> bool:
        return self._target.running

    def _await_recovery(self, started: float, position: int) -> None:
        """Measures the time to the end of the first sweep; sometimes the next blow falls before it."""
        patience_s = self._killing.choice([0.3, _RECOVERY_LIMIT_S, _RECOVERY_LIMIT_S, _RECOVERY_LIMIT_S])
        while time.monotonic() < started + patience_s:
            if not self._target.running:  # a fault of before the kill has struck late
                return
            if self._bridge.swept_since(position):
                self.recoveries_s.append(time.monotonic() - started)
                return
            time.sleep(0.005)
        if patience_s == _RECOVERY_LIMIT_S:
            raise AssertionError(f"no sweep was completed within {patience_s} s of a restart")

    def _fault(self) -> None:
        if self._stop.wait(self._faulting.uniform(0.05, 0.6)):
            return
        kind = self._faulting.choice(["delay", "delay", "error", "error", "drop"])
        method = self._faulting.choice(["*", self._faulting.choice(self._mutations)])
        when = self._faulting.choice(["before", "after"])
        fault: dict[str, object] = {"action": kind, "method": method, "count": 1, "when": when}
        if kind == "delay":
            # After carrying it out: a real target starts a call when it reads it, so none is overtaken by calls of a
            # connection made later, while one that waits before it would be, once its own connection is lost.
            fault |= {"when": "after"}
            fault |= {"delay_ms": self._faulting.randint(10, 400), "count": self._faulting.randint(1, 5)}
        elif kind == "error":  # only of calls that change something, and only in place of carrying them out
            code = self._faulting.choice([-32603, -12, -5, -11])
            fault |= {"method": self._faulting.choice(self._mutations), "when": "before", "code": code}
            fault |= {"message": "Injected fault"}
        self._ledger.disturbed_at = time.monotonic()
        if self._target.fault(**fault):
            self.faults[kind] = self.faults.get(kind, 0) + 1
