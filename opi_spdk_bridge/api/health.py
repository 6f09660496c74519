"""Health over HTTP: /healthz is about the process alone, /readyz about whether changes can be carried out, and why not.

A daemon whose target is away is alive: nothing would be better for restarting it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from opi_spdk_bridge.api.answers import JsonResponse


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold for the bridge to be ready, and what it means when it does not."""

    name: str
    holds: Callable[[], bool]
    reason: str


def report(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks with their outcome; a reason only where one does not hold."""
    outcomes = [(check, check.holds()) for check in checks]
    return [
        {"name": check.name, "ok": holds, **({} if holds else {"reason": check.reason})} for check, holds in outcomes
    ]


async def healthz(_request: Request) -> Response:
    """Answers as long as the process does."""
    return JsonResponse({"ok": True})


def readyz(checks: Sequence[Check]) -> Callable[[Request], Awaitable[Response]]:
    """200 when every check holds, else 503, with the outcomes either way."""

    async def answer(_request: Request) -> Response:
        outcomes = report(checks)
        ready = all(outcome["ok"] for outcome in outcomes)
        return JsonResponse({"ok": ready, "checks": outcomes}, 200 if ready else 503)

    return answer
