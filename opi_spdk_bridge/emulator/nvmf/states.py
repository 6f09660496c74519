"""The states of a subsystem (nvmf_subsystem_state_change): changed one after another, each by a visit to the poll
group.

A subsystem that is in the wanted state already changes at once, without a visit; only a pause that must drain a
namespace visits again. So of several changes that arrive together, the first pauses, the others find it paused, and
the resumptions come last.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial

from ..reactor import Reactor, Signal


class State(Enum):
    INACTIVE = "inactive"
    ACTIVE = "active"
    PAUSED = "paused"


class _Change(Signal):
    def __init__(self, state: State, drain: bool) -> None:
        super().__init__()
        self.state = state
        self.drain = drain


class States:
    """One subsystem's state; `on_poll_group` is done when the poll group is visited for a change to a state."""

    def __init__(self, reactor: Reactor, state: State, on_poll_group: Callable[[State], None]) -> None:
        self._reactor = reactor
        self._state = state
        self._on_poll_group = on_poll_group
        self._changes: list[_Change] = []

    def request(self, state: State, *, drain: bool = False) -> Signal:
        """Asks for a state; the signal tells when the subsystem is in it."""
        change = _Change(state, drain)
        self._changes.append(change)
        if self._changes[0] is change:
            self._begin(change)
        return change

    def _begin(self, change: _Change) -> None:
        if self._state is change.state and not (change.state is State.PAUSED and change.drain):
            self._end(change)
        else:
            visit = self._reactor.visit(partial(self._on_poll_group, change.state))
            visit.then(partial(self._end, change))

    def _end(self, change: _Change) -> None:
        self._state = change.state
        self._changes.remove(change)
        following = self._changes[0] if self._changes else None
        change.set()
        if following is not None:
            self._begin(following)
