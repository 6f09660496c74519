"""An operation on the target as a list of steps: sent in one write, judged one by one, undone exactly.

Steps whose order is all that binds them travel together, so an operation costs one look of the target however many
calls it needs. When one fails for certain, its cause is looked for while everything stands as it did at the failure;
then those that succeeded are taken back in reverse order. When the outcome of one is unknown nothing is taken back:
whoever owns the operation has to look.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opi_spdk_bridge import deadline, errors
from opi_spdk_bridge.spdk.client import Call, Client
from opi_spdk_bridge.spdk.errors import SpdkError, undiagnosed

log = logging.getLogger(__name__)

UNDO_TIMEOUT_S = 10.0
DIAGNOSIS_TIMEOUT_S = 5.0
_NEVER_SENT = (errors.Unavailable, errors.DeadlineExceeded)

Local = Callable[[], Awaitable[Any]]
"""Work that is not one call: a key file, a folder, a call with a second try. Raises BridgeError or SpdkError."""


Learn = Callable[[Any], Any]
"""Makes of what the bridge keeps of a resource what it keeps from then on."""


def gone(error: SpdkError) -> bool:
    """For steps that remove: it was not there."""
    return error.gone


def exists(error: SpdkError) -> bool:
    """For steps that add what is alike whoever made it (a transport): it was there."""
    return error.exists


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to make so.

    says      what is not so yet, in words ("host X may not connect"): the text of drift and of errors
    do        a call, or local work
    undo      what takes it back
    learn     what a call's result changes in what the bridge keeps of the resource
    already   which of the target's errors mean that it was so before; such a step is not undone
    guarded   may reach the target only when the steps before it succeeded (unless the caller vouches)
    """

    says: str
    do: Call[Any] | Local
    undo: Call[Any] | Local | None = None
    learn: Callable[[Any], Learn] | None = None
    already: Callable[[SpdkError], bool] = lambda _error: False
    guarded: bool = False


class StepFailed(Exception):
    """A step failed for certain, and what succeeded before or beside it was taken back."""

    def __init__(self, step: Step, error: SpdkError | errors.BridgeError) -> None:
        super().__init__(f"{step.says}: {error}")
        self.step = step
        self.error = error
        self.cause = self.undiagnosed()
        """The error for the client, by what was found before anything was taken back."""

    def undiagnosed(self) -> errors.BridgeError:
        """The error for the client where no better cause is known."""
        return undiagnosed(self.error) if isinstance(self.error, SpdkError) else self.error


Diagnosis = Callable[[StepFailed], Awaitable[errors.BridgeError]]
"""Looks for the cause of a failed step, on the target as it is before anything is taken back."""


async def carry_out(
    client: Client, steps: Sequence[Step], *, together: bool = True, diagnose: Diagnosis | None = None
) -> list[Learn]:
    """Runs the steps and returns what they taught, in their order.

    `together` vouches for guarded steps: they need not wait for their predecessors. Raises StepFailed, with its cause,
    after undoing, OutcomeUnknown without, and Unavailable or DeadlineExceeded when nothing was sent.
    """
    learnt: list[Learn] = []
    done: list[Step] = []
    for group in _groups(steps, together):
        outcomes = await _run(client, group)
        for step, outcome in zip(group, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                done.append(step)
                if step.learn is not None:
                    learnt.append(step.learn(outcome))
        unknown = [outcome for outcome in outcomes if isinstance(outcome, errors.OutcomeUnknown)]
        if unknown:
            raise unknown[0]
        for step, outcome in zip(group, outcomes, strict=True):
            if not isinstance(outcome, BaseException) or (isinstance(outcome, SpdkError) and step.already(outcome)):
                continue
            failure = _definite(step, outcome)
            if failure is not None and diagnose is not None:
                await _find_cause(failure, diagnose)
            await _undo(client, done)
            raise failure or outcome
    return learnt


def _definite(step: Step, outcome: BaseException) -> StepFailed | None:
    """The failure of a step that was refused; None for one that was not sent, or a mistake of the bridge."""
    if isinstance(outcome, SpdkError | errors.BridgeError) and not isinstance(outcome, _NEVER_SENT):
        return StepFailed(step, outcome)
    return None


async def _find_cause(failure: StepFailed, diagnose: Diagnosis) -> None:
    """What was done must be taken back whatever becomes of this: a look that fails leaves the target's own words."""
    try:
        with deadline.limit(DIAGNOSIS_TIMEOUT_S):
            failure.cause = await diagnose(failure)
    except errors.BridgeError as problem:
        log.debug("the cause of a failure could not be looked for: %s", problem)
    except Exception:
        log.exception("the cause of a failure could not be looked for")


def _groups(steps: Sequence[Step], together: bool) -> list[list[Step]]:
    """Cuts the steps into runs that can travel in one write."""
    groups: list[list[Step]] = []
    for step in steps:
        alone = not isinstance(step.do, Call) or (step.guarded and not together)
        if groups and not alone and isinstance(groups[-1][-1].do, Call):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


async def _run(client: Client, steps: Sequence[Step]) -> list[Any]:
    """The steps' results or errors; raises only when it is cancelled."""
    first = steps[0].do
    if not isinstance(first, Call):
        return [await _outcome(first())]
    try:
        await client.ready()
    except errors.BridgeError as problem:
        return [problem] * len(steps)
    answers = [client.submit(step.do) for step in steps if isinstance(step.do, Call)]
    return [await _outcome(answer) for answer in answers]


async def _outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except Exception as problem:
        return problem


async def _undo(client: Client, done: Sequence[Step]) -> None:
    """Takes back in reverse order; raises OutcomeUnknown where something may have been left."""
    backward = [Step(f"undo: {step.says}", step.undo) for step in reversed(done) if step.undo is not None]
    with deadline.limit(UNDO_TIMEOUT_S):
        for step in backward:  # one by one: a name is free for its old holder only when the new one has gone
            for outcome in await _run(client, [step]):
                if isinstance(outcome, BaseException) and not (isinstance(outcome, SpdkError) and outcome.gone):
                    log.warning("could not take back a step: %s", outcome)
                    raise errors.ConnectionLost(f"a failed operation could not be taken back wholly: {outcome}")
