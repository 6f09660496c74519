"""What was asked and acknowledged: for each name the states in which it may be, and which errors make sense."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.slots import Resource, Slot, references
from tests.support.patience import PATIENCE_S

State = Resource | None
"""The resource as last asked for; None: it is not there."""

_DEFINITE = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
_TRANSIENT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"}
_SETTLING_S = PATIENCE_S  # so long after a disturbance something may not be on the target yet, or still


@dataclass
class Entry:
    """A name: the states that it may be in (one, unless an answer was lost), and who is at work on it."""

    slot: Slot
    possible: list[State] = field(default_factory=lambda: [None])
    busy: bool = False
    touched_at: float = 0.0

    @property
    def known(self) -> State:
        """The state if it is known, else the likeliest: the last one asked for."""
        return self.possible[-1]

    def may_be_absent(self, since: float) -> bool:
        """Whether it was, or may have been, absent at some moment since then."""
        return None in self.possible or self.busy or self.touched_at >= since

    def may_refer_to(self, name: str, since: float) -> bool:
        """Whether it stands, or may have stood, on `name` since then."""
        if self.slot.parent == name or self.busy or self.touched_at >= since:
            return True
        return any(name in references(state) for state in self.possible if state is not None)


class Outcome:
    """How a call ended. `reason` is the ErrorInfo's: without one the bridge itself did not answer."""

    def __init__(self, code: str = "OK", message: str = "", reason: str = "") -> None:
        self.code = code
        self.message = message
        self.reason = reason

    @property
    def acknowledged(self) -> bool:
        return self.code == "OK"

    @property
    def unknown(self) -> bool:
        """Whether it may have been carried out all the same."""
        return not self.acknowledged and self.reason in ("", "OUTCOME_UNKNOWN")


class Ledger:
    """All names; handed out to one client at a time."""

    def __init__(self, slots: list[Slot]) -> None:
        self._lock = threading.Lock()
        self.entries = {slot.name: Entry(slot) for slot in slots}
        self.calm = False
        """Whether nothing disturbs the bridge: then no error is to be expected but those that the requests deserve."""
        self.disturbed_at = 0.0
        self.operations = 0
        self.acknowledged = 0
        self.unknown = 0
        self.refused = 0
        self.unexplained: list[str] = []

    def take(self, rng: random.Random) -> Entry:
        """A name that no other client is at work on."""
        with self._lock:
            while True:
                entry = rng.choice(list(self.entries.values()))
                if not entry.busy:
                    entry.busy, entry.touched_at = True, time.monotonic()
                    return entry

    def release(self, entry: Entry) -> None:
        """Ends the work on a name."""
        with self._lock:
            entry.busy, entry.touched_at = False, time.monotonic()

    def likely(self, nouns: tuple[str, ...]) -> list[str]:
        """Names of those kinds at which something is likely to be."""
        with self._lock:
            return [e.slot.name for e in self.entries.values() if e.slot.noun in nouns and e.known is not None]

    def record(self, entry: Entry, verb: str, wanted: State, outcome: Outcome, started: float) -> None:
        """Takes down how a change to `wanted` ended; a repeated request is recorded as one of its own."""
        with self._lock:
            self.operations += 1
            if outcome.acknowledged:
                self.acknowledged += 1
                entry.possible = [wanted]
                return
            if not self._explains(entry, verb, wanted, outcome, started):
                said = f"{verb} {entry.slot.name}: {outcome.code} ({outcome.reason}) {outcome.message}"
                self.unexplained.append(f"{time.strftime('%H:%M:%S')} {said}")
            if outcome.unknown:
                self.unknown += 1
                entry.possible = [state for state in entry.possible if state != wanted] + [wanted]
                return
            self.refused += 1
            if outcome.code == "NOT_FOUND" and f"{entry.slot.name} does not exist" in outcome.message:
                entry.possible = [None]

    def _explains(self, entry: Entry, verb: str, wanted: State, outcome: Outcome, since: float) -> bool:
        """Whether the error is one that the request, or a disturbance, deserves."""
        if outcome.code == "ABORTED" and "is being deleted" in outcome.message:
            on = [*references(wanted or {}), *([entry.slot.parent] if entry.slot.parent else [])]
            return any(self.entries[name].may_be_absent(since) for name in on)
        if outcome.code in _TRANSIENT:
            return not self.calm or (outcome.reason == "PEER_UNREACHABLE" and self._wants_tls(entry.slot.parent, since))
        if outcome.code not in _DEFINITE:
            return False
        if "Injected fault" in outcome.message:
            return self._unsettled(since)
        on = [*references(wanted or {}), *([entry.slot.parent] if entry.slot.parent else [])]
        missing = "nvmeRemoteNamespaces" in outcome.message or "not on the target" in outcome.message
        if missing and (self._unsettled(since) or self._unreachable(on, since)):
            return True
        if outcome.code == "NOT_FOUND":
            itself = verb != "create" and None in entry.possible
            return itself or any(self.entries[name].may_be_absent(since) for name in on)
        if outcome.code == "ALREADY_EXISTS":
            return verb == "create" and any(state is not None for state in entry.possible)
        if outcome.code == "RESOURCE_EXHAUSTED":
            return entry.slot.noun == "VirtioScsiLun"
        return outcome.code == "FAILED_PRECONDITION" and self._in_the_way(entry, on, since)

    def _wants_tls(self, array: str, since: float) -> bool:
        """Whether a remote controller has, or may have had, a key: the array's addresses are without TLS."""
        entry = self.entries[array]
        keys = [state for state in entry.possible if state is not None and "psk" in state["tcp"]]
        return bool(keys) or entry.may_be_absent(since)

    def _unreachable(self, on: list[str], since: float) -> bool:
        """Whether one of these is a remote controller that may have been without a path, and so without volumes."""
        arrays = [
            name for name in on if name in self.entries and self.entries[name].slot.noun == "NvmeRemoteController"
        ]
        paths = {name: [e for e in self.entries.values() if e.slot.parent == name] for name in arrays}
        return any(all(path.may_be_absent(since) for path in paths[name]) for name in arrays)

    def _unsettled(self, since: float) -> bool:
        return self.disturbed_at + _SETTLING_S > since

    def _in_the_way(self, entry: Entry, on: list[str], since: float) -> bool:
        """Whether another resource may forbid it: one that stands on it, or on what it wants to stand on."""
        others = [other for other in self.entries.values() if other is not entry]
        wanted = (entry.slot.name, *on)
        return any(other.may_refer_to(name, since) for other in others for name in wanted)


def describe(state: State) -> Any:
    """A state for a report, without its secrets."""
    if state is None:
        return "absent"
    return {
        key: "…" if key in ("key", "psk") else describe(v) if isinstance(v, dict) else v for key, v in state.items()
    }
