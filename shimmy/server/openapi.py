"""The OpenAPI document, from the routes and from the types that their bodies are read into, so that it says what is
served. Imported when it is first asked for."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from starlette.routing import Route

from shimmy import __version__
from shimmy.core.errors import ShimmyError
from shimmy.core.operation import JSON, TEXT, Operation

# Of a path, the name of the protocol whose errors it has, and the body of one of them.
ErrorOf = Callable[[str], tuple[str, bytes]]
_OWN = {
    "/health": Operation("Whether this process answers."),
    "/readyz": Operation("Whether it can serve; 503 while it cannot."),
    "/openapi.json": Operation("This document."),
    "/metrics": Operation(
        "Counts and times, as JSON or, where the client accepts that, for Prometheus.", media=(JSON, TEXT)
    ),
    "/diag": Operation("What this server is and runs on."),
}
_REFS = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_STRICT = {
    "name": "strict",
    "in": "query",
    "required": False,
    "description": "Unknown fields are an error that names them, instead of a header. The header x-shimmy-strict says "
    "the same.",
    "schema": {"type": "boolean"},
}
_IGNORED = {
    "description": "Fields of the request that are unknown, and were ignored.",
    "schema": {"type": "string"},
}


def document(routes: Iterable[Route], operations: Mapping[str, Operation], error_of: ErrorOf) -> bytes:
    """OpenAPI 3.1 in JSON. A route of which nothing is said in `operations` is there with its methods alone."""
    known = {**_OWN, **operations}
    structs = {kind for each in known.values() for kind in (each.body, each.answer) if kind is not None}
    ordered = sorted(structs, key=lambda kind: f"{kind.__module__}.{kind.__name__}")
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REFS)
    by_type = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    errors: dict[str, Any] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        protocol, error = error_of(route.path)
        errors[f"{protocol}Error"] = _shape(msgspec.json.decode(error))
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(
                path, method, known.get(path), by_type, f"{protocol}Error"
            )
    codes = ", ".join(f"{code} ({status})" for status, code in sorted(_codes(ShimmyError)))
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Shimmy", "version": __version__, "description": "Local models over HTTP."},
            "paths": paths,
            "components": {
                "schemas": {**components, **errors},
                "responses": {
                    name: {
                        "description": f"An error; codes and their statuses: {codes}.",
                        "content": {JSON: {"schema": {"$ref": _REFS.format(name=name)}}},
                    }
                    for name in errors
                },
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            # With no keys set, none is needed.
            "security": [{}, {"bearer": []}, {"key": []}],
        }
    )


def _operation(path: str, method: str, known: Operation | None, schemas: dict[Any, Any], error: str) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    media = {name: {"schema": {"type": "string"} if name == TEXT else {}} for name in (known or Operation("")).media}
    answer: dict[str, Any] = {"description": "The answer.", "content": media}
    described: dict[str, Any] = {"operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_")}
    if known is not None:
        described["summary"] = known.summary
        if known.answer is not None:
            media[JSON]["schema"] = schemas[known.answer]
        if known.body is not None:
            parameters.append(_STRICT)
            answer["headers"] = {"x-shimmy-ignored": _IGNORED}
            content = {"application/json": {"schema": schemas[known.body]}}
            described["requestBody"] = {"required": True, "content": content}
    if parameters:
        described["parameters"] = parameters
    return described | {"responses": {"200": answer, "default": {"$ref": f"#/components/responses/{error}"}}}


def _shape(example: Any) -> dict[str, Any]:
    """The schema of what is built like `example`, which has everything that is there; null may be a text."""
    if isinstance(example, dict):
        fields = {name: _shape(value) for name, value in example.items()}
        return {"type": "object", "required": list(fields), "properties": fields}
    return {"type": ["string", "null"] if example is None else "string"}


def _codes(cls: type[ShimmyError]) -> set[tuple[int, str]]:
    return {(cls.status, cls.code)}.union(*(_codes(sub) for sub in cls.__subclasses__()))
