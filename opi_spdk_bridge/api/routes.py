"""HTTP routes, compiled from the google.api.http rules of the service descriptors (google/api/http.proto).

The syntax that the contract uses: literals, `*`, `{field}`, `{field=literal/*}` and a custom verb (`:stats`) at the
end. A verb is cut off before anything else is looked at, so `x:stats` is never an ID.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.api import annotations_pb2, resource_pb2

from opi_spdk_bridge.api.bind import Method

ID = re.compile(r"[A-Za-z0-9](?:[^/:]*[A-Za-z0-9])?")
_TEMPLATE = re.compile(r"(?P<path>(?:/(?:\{[^{}]+\}|[^/{}:]+))+)(?::(?P<verb>\w+))?")
_PART = re.compile(r"/(?:\{(?P<field>[^{}=]+)(?:=(?P<pattern>[^{}]+))?\}|(?P<plain>[^/{}:]+))")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Variable:
    """A field of the request that is bound to the segments from `start` to before `end`."""

    field: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Template:
    """A path template: its segments (literals or `*`), its custom verb ("" for none) and its variables."""

    segments: tuple[str, ...]
    verb: str
    variables: tuple[Variable, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Compiles a template; raises ValueError for what is not in the syntax above."""
        found = _TEMPLATE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a path template")
        segments: list[str] = []
        variables = []
        for part in _PART.finditer(found["path"]):
            inner = (part["pattern"] or _ANY).split("/") if part["field"] else [part["plain"]]
            if any((_ANY in segment and segment != _ANY) or not segment for segment in inner):
                raise ValueError(f"{text!r}: a segment is either a literal or '*'")
            if part["field"]:
                variables.append(Variable(part["field"], len(segments), len(segments) + len(inner)))
            segments += inner
        return cls(tuple(segments), found["verb"] or "", tuple(variables))

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The values of the variables, by field path, where the segments of a path fit; None where they do not."""
        if len(segments) != len(self.segments):
            return None
        for given, wanted in zip(segments, self.segments, strict=True):
            if not (ID.fullmatch(given) if wanted == _ANY else given == wanted):
                return None
        return {item.field: "/".join(segments[item.start : item.end]) for item in self.variables}


@dataclass(frozen=True, slots=True)
class Route:
    """One way to reach an RPC over HTTP; `body` is "", "*" or the field of the request that the body is."""

    http_method: str
    template: Template
    body: str
    method: Method


class Routes:
    """Every route; of two that are the same the one declared first counts."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._routes: dict[tuple[str, tuple[str, ...], str], Route] = {}
        self._by_shape: defaultdict[tuple[str, int, str], list[Route]] = defaultdict(list)
        declared = [(method, list(_declared(method))) for method in methods]
        for _, routes in declared:
            self._add(routes)
        for method, routes in declared:
            self._add(_in_own_collection(method, routes))

    def _add(self, routes: Iterable[Route]) -> None:
        for route in routes:
            template = route.template
            key = (route.http_method, template.segments, template.verb)
            if key not in self._routes:
                self._routes[key] = route
                self._by_shape[route.http_method, len(template.segments), template.verb].append(route)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def find(self, http_method: str, raw_path: str) -> tuple[Route, dict[str, str]] | None:
        """The route for a path as it was sent (percent-encoded), with the values of its variables."""
        *segments, last = raw_path.removeprefix("/").split("/")
        last, colon, verb = last.rpartition(":") if ":" in last else (last, "", "")
        if colon and not verb:
            return None
        decoded = [unquote(segment) for segment in (*segments, last)]
        for route in self._by_shape.get((http_method, len(decoded), verb), ()):
            values = route.template.match(decoded)
            if values is not None:
                return route, values
        return None

    def allowed(self, raw_path: str) -> list[str]:
        """The HTTP methods that this path has a route for."""
        known = sorted({route.http_method for route in self})
        return [http_method for http_method in known if self.find(http_method, raw_path) is not None]


def descriptor(method: Method) -> Any:
    """The descriptor of an RPC."""
    return method.request.DESCRIPTOR.file.pool.FindMethodByName(f"{method.service}.{method.name}")


def _declared(method: Method) -> Iterator[Route]:
    rule = descriptor(method).GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        kind = binding.WhichOneof("pattern")
        if kind is not None:
            yield Route(kind.upper(), Template.parse(getattr(binding, kind)), binding.body, method)


def _in_own_collection(method: Method, declared: Iterable[Route]) -> Iterator[Route]:
    """A list of resources also stands at their own collection: two of the contract's share `/v1/{parent=volumes}`."""
    for field in method.response.DESCRIPTOR.fields:
        if field.is_repeated and field.message_type is not None:
            pattern = field.message_type.GetOptions().Extensions[resource_pb2.resource].pattern
            collection, *more = pattern[0].split("/") if pattern else ("", "", "")
            for route in declared:
                if len(more) == 1:
                    template = Template((route.template.segments[0], collection), "", ())
                    yield Route(route.http_method, template, route.body, method)
