"""The OpenAPI document: every route is in it, and it means something."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Match, Route

from shimmy.core.errors import ShimmyError
from shimmy.server.app import build_app
from tests.server.live import SETTINGS, Live, run_live

ROOT = Path(__file__).parents[2]
METHODS = {"get", "put", "post", "delete"}


def made() -> tuple[list[Route], Any]:
    app = build_app(SimpleNamespace(), SETTINGS, readiness=object())  # type: ignore[arg-type]
    return app.routes, json.loads(app.describe())


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def test_every_route_is_in_it_with_its_methods_and_a_summary() -> None:
    routes, described = made()
    for route in routes:
        path = re.sub(r":\w+\}", "}", route.path)
        methods = {method.lower() for method in route.methods or ()} - {"head"}
        assert set(described["paths"][path]) == methods
        assert all(described["paths"][path][method]["summary"] for method in methods), path
    assert len(described["paths"]) == len({route.path for route in routes})


def test_every_route_that_the_pages_name_is_served() -> None:
    # A WebSocket is no route, and that properties cannot be changed is what docs/strictness.md says.
    elsewhere = {("GET", "/ws/generate"), ("POST", "/props")}
    routes, _ = made()
    named: set[tuple[str, str]] = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        named |= set(re.findall(r"\b(GET|POST|DELETE) (/[\w/{}-]*(?:\.\w+)?)", page.read_text()))
    assert named >= elsewhere
    for method, path in named - elsewhere:
        asked = {"type": "http", "method": method, "path": re.sub(r"\{\w+\}", "x", path), "headers": []}
        assert any(route.matches(asked)[0] is Match.FULL for route in routes), f"{method} {path}"


def test_it_is_valid() -> None:
    """Of OpenAPI 3.1: every reference has an end, every parameter of a path is described, ids are unique."""
    _, described = made()
    assert described["openapi"].startswith("3.1") and set(described["info"]) >= {"title", "version"}
    for ref in refs(described):
        found = described
        for step in ref.removeprefix("#/").split("/"):
            found = found[step]
    ids = []
    for path, methods in described["paths"].items():
        assert path.startswith("/") and set(methods) <= METHODS
        for operation in methods.values():
            ids.append(operation["operationId"])
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert all("description" in answer or "$ref" in answer for answer in operation["responses"].values())
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[\w.-]+", name) for name in described["components"]["schemas"])


def test_bodies_are_those_that_are_read() -> None:
    _, described = made()
    content = described["paths"]["/v1/responses"]["post"]["requestBody"]["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    fields = described["components"]["schemas"][name]
    assert set(fields["required"]) == {"model", "input"}
    assert {"temperature", "speculative.type", "tools", "include"} <= set(fields["properties"])


def test_all_errors_are_told() -> None:
    _, described = made()
    for answer in described["components"]["responses"].values():
        assert all(f"{cls.code} ({cls.status})" in answer["description"] for cls in ShimmyError.__subclasses__())


@pytest.mark.parametrize(
    ("path", "name", "fields"),
    [
        ("/v1/chat/completions", "OpenAIError", {"error"}),
        ("/health", "OpenAIError", {"error"}),
        ("/v1/messages/count_tokens", "AnthropicError", {"type", "error", "request_id"}),
        ("/api/show", "OllamaError", {"error", "code"}),
        ("/api/models/{name}/load", "OllamaError", {"error", "code"}),
    ],
)
def test_errors_have_the_shape_of_their_protocol(path: str, name: str, fields: set[str]) -> None:
    _, described = made()
    for operation in described["paths"][path].values():
        assert operation["responses"]["default"]["$ref"].rpartition("/")[2] == name
    assert set(described["components"]["schemas"][name]["required"]) == fields


def test_what_streams_says_how() -> None:
    _, described = made()
    media = {
        path: set(operation["responses"]["200"]["content"])
        for path, methods in described["paths"].items()
        for operation in methods.values()
    }
    assert media["/v1/responses"] == media["/v1/messages"] == {"application/json", "text/event-stream"}
    assert media["/api/chat"] == {"application/json", "application/x-ndjson"}
    assert media["/"] == {"text/plain"} and media["/v1/models"] == {"application/json"}


@pytest.mark.program
def test_it_is_served() -> None:
    async def test(server: Live) -> None:
        first, second = [await server.ask("GET", "/openapi.json") for _ in range(2)]
        assert first.status == 200 and first.body == second.body
        assert "/v1/responses" in first.json()["paths"]

    run_live(test)
