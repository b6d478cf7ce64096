"""JSONTestSuite (github.com/nst/JSONTestSuite, MIT licence, (c) 2016 Nicolas Seriot) as bodies, and as a field within
them. A y_ is JSON, an n_ is none, and of an i_ each parser may think what it likes; none is a fault of the server.

json_test_suite.jsonl has its parsing tests, the bytes as Latin-1, but for the two that are large.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.live import Answer, Client, Live, run_live

pytestmark = [pytest.mark.slow, pytest.mark.program]

LARGE = {
    "n_structure_100000_opening_arrays": b"[" * 100_000,
    "n_structure_open_array_object": b'[{"":' * 50_000 + b"\n",
}
SUITE: dict[str, bytes] = LARGE | {
    name: text.encode("latin-1")
    for name, text in map(json.loads, (Path(__file__).parent / "json_test_suite.jsonl").read_text().splitlines())
}
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "!say hi"}], "max_tokens": 5, "stream": False}
TEXT = {"model": "echo", "prompt": "!say hi", "max_tokens": 5, "stream": False}
# A body that is right for one route of each protocol, and of each form that a route takes.
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", {"model": "echo", "input": "!say hi", "stream": False}),
    "anthropic": ("/v1/messages", CHAT),
    "ollama": ("/api/chat", CHAT),
    "native": ("/api/generate", TEXT),
}
# Of the suite's bodies, one of each kind that parsers have stumbled over.
SAMPLE = [
    "y_object",
    "y_structure_lonely_null",
    "y_array_heterogeneous",
    "i_string_UTF-16LE_with_BOM",
    "i_structure_500_nested_arrays",
    "i_number_huge_exp",
    "n_object_trailing_comma",
    "n_string_invalid_utf8_after_escape",
    "n_structure_null-byte-outside-string",
    "n_structure_open_array_object",
    "n_structure_no_data",
]


# 413 for one that has more objects than any request needs.
EXPECTED = {"y": {200}, "n": {400, 413}, "i": {200, 400}}


def is_error(content: Any) -> bool:
    return content.get("type") == "error" or bool(content.get("error"))


async def post(client: Client, path: str, body: bytes) -> Answer:
    await client.request("POST", path, body)
    return await client.answer()


def test_the_suite_is_whole() -> None:
    assert [sum(name.startswith(kind) for name in SUITE) for kind in "yni"] == [95, 188, 35]


@pytest.mark.parametrize("name", ["chat", "native"])
def test_as_a_body(name: str) -> None:
    """None of them is an object with a model in it. The second route looks into it to see whose it is."""
    path, _ = BODIES[name]

    async def test(server: Live) -> None:
        async with server.connect() as client:
            for each, body in SUITE.items():
                answer = await post(client, path, body)
                assert answer.status == 400 and is_error(answer.json()), (each, answer)

    run_live(test)


@pytest.mark.parametrize("name", BODIES)
def test_as_a_field(name: str) -> None:
    """One that nobody knows, so that nothing but the JSON can be wrong with it."""
    path, fields = BODIES[name]
    before = json.dumps(fields)[:-1].encode() + b',"nobody_knows":'

    async def test(server: Live) -> None:
        async with server.connect() as client:
            for each, text in SUITE.items():
                answer = await post(client, path, before + text + b"}")
                assert answer.status in EXPECTED[each[0]], (each, answer)
                assert is_error(answer.json()) == (answer.status != 200), each

    run_live(test)


def test_on_every_route_that_takes_a_body() -> None:
    async def test(server: Live) -> None:
        described = (await server.ask("GET", "/openapi.json")).json()["paths"]
        paths = [path for path, methods in described.items() if "requestBody" in methods.get("post", {})]
        assert len(paths) > 20
        async with server.connect() as client:
            for path in paths:
                for each in SAMPLE:
                    answer = await post(client, path, SUITE[each])
                    assert 400 <= answer.status < 500 and is_error(answer.json()), (path, each, answer)

    run_live(test)
