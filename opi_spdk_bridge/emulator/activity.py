"""What the target was asked, a layer: a method that no real target has, and counts of the calls that pass."""

from dataclasses import dataclass, field
from typing import Any

from .dispatch import Handler
from .registry import EMULATOR_PREFIX, NVMF_FAILURE, MethodTable

methods = MethodTable["Activity"](NVMF_FAILURE)


@dataclass
class Traffic:
    """What went over the JSON-RPC sockets. A look is one pass over the sockets that found something to read."""

    looks: int = 0
    answers: int = 0
    answer_bytes: int = 0
    longest_answer_bytes: int = 0

    def count_answer(self, size_bytes: int) -> None:
        self.answers += 1
        self.answer_bytes += size_bytes
        self.longest_answer_bytes = max(self.longest_answer_bytes, size_bytes)


@dataclass
class Activity:
    """Calls by method, and the traffic, since the start or the last reset."""

    calls: dict[str, int] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)

    def layer(self, name: str, params: Any, below: Handler) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        return below(name, params)

    def reset(self) -> None:
        self.calls, self.traffic = {}, Traffic()


@dataclass(frozen=True)
class CallCounts:
    reset: bool = False


@methods.rpc("emulator_call_counts", CallCounts)
def call_counts(activity: Activity, params: CallCounts) -> dict[str, Any]:
    """Without the emulator_* calls themselves."""
    calls = {method: count for method, count in activity.calls.items() if not method.startswith(EMULATOR_PREFIX)}
    answer = {"calls": calls, **vars(activity.traffic)}
    if params.reset:
        activity.reset()
    return answer
