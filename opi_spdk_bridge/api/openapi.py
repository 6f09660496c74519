"""The description of the HTTP API, OpenAPI 3.1, made from the routes and the service descriptors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from google.api import field_behavior_pb2

from opi_spdk_bridge import __version__
from opi_spdk_bridge.api.comments import comments
from opi_spdk_bridge.api.routes import Route, Routes, Template, descriptor
from opi_spdk_bridge.api.schemas import RESOURCE_ID, Schema, Schemas, behaviors, described

_ANY = "*"
_JSON = "application/json"
# Every operation can end in these; 429: as many requests at work as the bridge takes; 408, 413, 414: limits;
# 415: a body that is compressed.
_ERRORS = (400, 401, 403, 404, 408, 409, 413, 414, 415, 429, 500, 503, 504)
_ABOUT = (
    "The storage API of the Open Programmable Infrastructure project for SPDK, over HTTP/JSON. Field names may also"
    " be given as in the contract (`blocks_count`); bodies are read as JSON whatever their Content-Type, but not"
    " compressed. 64-bit integers are strings in answers and either in requests. A PATCH without updateMask changes"
    " the fields that its body names. Answers also show what is not set (an empty string or list, 0, false, the"
    " enum's first value), but for messages, wrappers and members of a oneof, and for keys, which no answer has."
)


def describe(routes: Routes) -> dict[str, Any]:
    """The description as a JSON-like value."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = _health()
    names: Counter[str] = Counter()
    for route in routes:
        names[route.method.name] += 1
        number = names[route.method.name]
        operation = _operation(route, schemas)
        operation["operationId"] = route.method.name if number == 1 else f"{route.method.name}{number}"
        paths.setdefault(_path(route.template), {})[route.http_method.lower()] = operation
    services = dict.fromkeys(route.method.service for route in routes)
    return {
        "openapi": "3.1.0",
        "info": {"title": "OPI SPDK bridge", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": _short(service), **described(service)} for service in services] + [{"name": "Health"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {f"Error{code}": _error(code) for code in _ERRORS},
        },
    }


def _operation(route: Route, schemas: Schemas) -> dict[str, Any]:
    method = descriptor(route.method)
    text = comments().get(method.full_name, "")
    operation: dict[str, Any] = {
        "tags": [_short(route.method.service)],
        **({"summary": f"{text.partition('. ')[0].rstrip('.')}.", "description": text} if text else {}),
        "parameters": [*_path_parameters(route.template), *_query_parameters(route, schemas)],
        "responses": {
            "200": {"description": "OK", "content": {_JSON: {"schema": schemas.answer(method.output_type)}}},
            **{str(code): {"$ref": f"#/components/responses/Error{code}"} for code in _ERRORS},
        },
    }
    if route.body:
        operation["requestBody"] = _body(route, schemas)
    return operation


def _body(route: Route, schemas: Schemas) -> dict[str, Any]:
    message = route.method.request.DESCRIPTOR
    if route.body == _ANY:
        bound = {variable.field for variable in route.template.variables}
        fields = [field for field in message.fields if field.name not in bound]
        properties = {field.json_name: schemas.value(field) for field in fields}
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return {"content": {_JSON: {"schema": schema}}}
    resource = message.fields_by_name[route.body].message_type
    schema = schemas.message(resource, create=route.http_method == "POST")
    return {"required": True, "content": {_JSON: {"schema": schema}}}


def _path(template: Template) -> str:
    names = iter(_wildcards(template))
    parts = [f"{{{next(names)}}}" if segment == _ANY else segment for segment in template.segments]
    verb = f":{template.verb}" if template.verb else ""
    return "/" + "/".join(parts) + verb


def _wildcards(template: Template) -> list[str]:
    """A name for each `*` of a template, after the collection before it: `nvmeSubsystems/*` is {nvmeSubsystem}."""
    seen: Counter[str] = Counter()
    names = []
    for before, segment in zip(("", *template.segments), template.segments, strict=False):
        if segment == _ANY:
            name = before.removesuffix("s")
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}{seen[name]}")
    return names


def _path_parameters(template: Template) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": RESOURCE_ID} for name in _wildcards(template)]


def _query_parameters(route: Route, schemas: Schemas) -> Iterator[dict[str, Any]]:
    """The fields of the request that neither the path nor the body gives; a parent that is in no path is ignored."""
    bound = {variable.field for variable in route.template.variables} | {route.body}
    if route.body == _ANY:
        return
    for field in route.method.request.DESCRIPTOR.fields:
        if field.name in bound:
            continue
        yield {
            "name": field.json_name,
            "in": "query",
            "required": field_behavior_pb2.REQUIRED in behaviors(field) and field.name != "parent",
            "schema": schemas.value(field),
            **described(field.full_name),
        }


def _error(code: int) -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Status"}}}
    return {"description": HTTPStatus(code).phrase, "content": content}


def _short(service: str) -> str:
    return service.rpartition(".")[2]


def _health() -> dict[str, dict[str, Any]]:
    ok = {"type": "boolean", "description": "Whether everything holds."}
    check = {
        "type": "object",
        "required": ["name", "ok"],
        "properties": {"name": {"type": "string"}, "ok": {"type": "boolean"}, "reason": {"type": "string"}},
    }
    checks = {"type": "array", "items": check}
    alive = {"type": "object", "required": ["ok"], "properties": {"ok": ok}}
    ready = {"type": "object", "required": ["ok", "checks"], "properties": {"ok": ok, "checks": checks}}
    return {
        "/healthz": {"get": _probe("IsAlive", "Whether the process is alive.", {"200": alive})},
        "/readyz": {"get": _probe("IsReady", "Whether changes can be carried out.", {"200": ready, "503": ready})},
    }


def _probe(name: str, summary: str, answers: dict[str, Schema]) -> dict[str, Any]:
    responses = {
        code: {"description": HTTPStatus(int(code)).phrase, "content": {_JSON: {"schema": schema}}}
        for code, schema in answers.items()
    }
    refusal = {"414": {"$ref": "#/components/responses/Error414"}}
    return {"operationId": name, "tags": ["Health"], "summary": summary, "responses": {**responses, **refusal}}
