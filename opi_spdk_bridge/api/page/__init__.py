"""The page at `/`: what the bridge manages as a live tree, its health, the throughput of its volumes.

The tree is sent as far as it is open: `/page/state?open=nvmeSubsystems&open=nvmeSubsystems/s0`. What is open is either
a collection at the top or a resource, below which are its children and what it stands on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from opi_spdk_bridge import __version__, deadline, errors
from opi_spdk_bridge.api.answers import JsonResponse
from opi_spdk_bridge.api.health import Check, report
from opi_spdk_bridge.api.protojson import shown
from opi_spdk_bridge.core.catalog import Catalog
from opi_spdk_bridge.core.engine import Engine
from opi_spdk_bridge.core.line import Said
from opi_spdk_bridge.core.record import AnyRecord
from opi_spdk_bridge.core.registry import Entry, Registry
from opi_spdk_bridge.core.side import Counters

_ASSETS = Path(__file__).parent / "assets"
_TIMEOUT_S = 5.0
_MOST_OPEN = 200
_ROWS = 100
_MOST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class TargetState:
    """The target as the page shows it; while it is away without a version, but with what is wrong with it."""

    address: str
    connected: bool
    version: str = ""
    trouble: str = ""


class Page:
    """The page and what it asks for."""

    def __init__(
        self,
        registry: Registry,
        catalog: Catalog,
        engine: Engine,
        checks: Sequence[Check],
        target: Callable[[], TargetState],
        counters: Callable[[Sequence[AnyRecord]], Awaitable[Mapping[str, Counters]]],
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._engine = engine
        self._checks = checks
        self._target = target
        self._counters = counters

    def routes(self) -> list[BaseRoute]:
        """The routes of the page."""
        return [
            Route("/", _index),
            Route("/page/state", self._state),
            Mount("/page", StaticFiles(directory=_ASSETS)),
        ]

    async def _state(self, request: Request) -> Response:
        given = request.query_params
        asked = list(dict.fromkeys(given.getlist("open")))[:_MOST_OPEN]
        rows = given.get("rows", "")
        most = min(int(rows), _MOST_ROWS) if rows.isdecimal() and rows.isascii() and int(rows) else _ROWS
        with deadline.limit(_TIMEOUT_S):
            opened = dict(zip(asked, await asyncio.gather(*(self._below(key, most) for key in asked)), strict=True))
            await self._measure(opened.values())
        return JsonResponse(
            {
                "version": __version__,
                "target": asdict(self._target()),
                "checks": report(self._checks),
                "at_s": time.monotonic(),
                "groups": self._groups(),
                "open": {key: branch for key, branch in opened.items() if branch is not None},
            }
        )

    def _groups(self) -> list[dict[str, Any]]:
        """The collections at the top with their number of resources, front ends first."""
        counts = Counter(record.kind for record in self._catalog)
        top = [entry for entry in self._registry.values() if len(entry.names.collections) == 1]
        top.sort(key=lambda entry: not entry.kind.front_end)
        return [
            {"key": entry.names.collections[0], "title": entry.kind.title, "count": counts[entry.singular]}
            for entry in top
        ]

    async def _below(self, key: str, most: int) -> dict[str, Any] | None:
        """What is below a collection or a resource; None where there is no such thing."""
        found = _Branch(most)
        try:
            if "/" not in key:
                await self._list((key,), "", found)
                return found.answer() if found.known else None
            record = self._catalog.visible(key)
            if record is None:
                return None
            await self._list(self._registry[record.kind].names.collections, key, found)
            for name in record.stands_on:
                if name != record.parent:
                    await self._get(name, found)
        except errors.BridgeError:
            return None
        return found.answer()

    async def _list(self, collections: tuple[str, ...], parent: str, found: _Branch) -> None:
        """The resources of a collection at the top, or the children of a resource."""
        for entry in self._registry.values():
            own = entry.names.collections
            if (own[:-1] == collections) if parent else (own == collections):
                page = await self._engine.list(entry, parent, found.most, "")
                found.known = True
                found.more = found.more or bool(page.next_token)
                found.nodes += [self._node(entry, resource) for resource in page.items]

    async def _get(self, name: str, found: _Branch) -> None:
        record = self._catalog.visible(name)
        if record is not None:
            entry = self._registry[record.kind]
            found.nodes.append(self._node(entry, await self._engine.get(entry, name)))

    def _node(self, entry: Entry, resource: Message) -> dict[str, Any]:
        answer = shown(resource)
        record = self._catalog.visible(answer["name"])
        nests = any(other.names.collections[:-1] == entry.names.collections for other in self._registry.values())
        below = record is not None and any(name != record.parent for name in record.stands_on)
        line = entry.kind.line(resource)
        facts = [part.in_short or str(part) if isinstance(part, Said) else part for part in line.parts]
        said = {"facts": facts, "state": line.state, "good": line.good}
        return {"name": answer["name"], "kind": entry.singular, "resource": answer, "opens": nests or below, **said}

    async def _measure(self, branches: Iterable[dict[str, Any] | None]) -> None:
        """Puts the counters of what hosts read and write into the nodes, as far as the target tells them."""
        nodes = [node for branch in branches if branch is not None for node in branch["nodes"]]
        found = [self._catalog.visible(node["name"]) for node in nodes]
        try:
            measured = await self._counters([record for record in found if record is not None])
        except errors.BridgeError:
            return
        for node in nodes:
            counters = measured.get(node["name"])
            if counters is not None:
                node["counters"] = {
                    "bytes": counters.read_bytes_count + counters.write_bytes_count,
                    "operations": counters.read_ops_count + counters.write_ops_count,
                }


class _Branch:
    """The nodes below something, at most `most` of each kind."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.known = False
        self.more = False
        self.nodes: list[dict[str, Any]] = []

    def answer(self) -> dict[str, Any]:
        return {"nodes": self.nodes, "more": self.more}


async def _index(_request: Request) -> Response:
    return FileResponse(_ASSETS / "index.html")
