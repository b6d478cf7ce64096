"""Fields of requests that nobody knows, over the wire."""

from typing import Any

import pytest

from tests.protocols.anthropic.exchange import MESSAGES
from tests.protocols.anthropic.exchange import body as anthropic_body
from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program
CHAT = "/v1/chat/completions"
SYSTEM_BLOCK = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}


async def ask(server: Live, path: str, body: Any, **headers: str) -> Any:
    async with server.connect() as client:
        await client.request("POST", path, body, **headers)
        return await client.answer()


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        (CHAT, chat_body("hi"), None),
        (CHAT, chat_body("hi", user="x", foo={"bar": 1}), "user, foo"),
        (CHAT, {"model": "echo", "messages": [{"role": "user", "content": "hi", "x y": 1}]}, "messages[0].x y"),
        (CHAT, chat_body("hi", **{"é\r\nx: y": 1}), "%C3%A9%0D%0Ax: y"),
        ("/v1/completions", {"model": "echo", "prompt": "a", "foo": 1}, "foo"),
        ("/v1/responses", {"model": "echo", "input": "a", "text": {"verbosity": "low"}}, "text.verbosity"),
        ("/v1/embeddings", {"model": "echo", "input": "a", "user": "x"}, "user"),
        ("/tokenize", {"content": "a", "foo": 1}, "foo"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "tools": [], "return_token_strs": True}, None),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "foo": 1}, "foo"),
        (MESSAGES, anthropic_body("hi"), None),
        (MESSAGES, anthropic_body("hi", context_management={}, foo=1), "context_management, foo"),
        (MESSAGES, anthropic_body([{"type": "text", "text": "a", "x": 1}]), "messages[0].content[0].x"),
        (f"{MESSAGES}/count_tokens", anthropic_body("hi", system=[SYSTEM_BLOCK]), "max_tokens"),
        ("/api/chat", chat_body("hi", stream=False, foo=1, options={"num_gpu": 1}), "foo, options.num_gpu"),
        ("/api/generate", {"model": "echo", "prompt": "a", "stream": False, "shift": True}, "shift"),
        ("/api/generate", {"model": "echo", "prompt": "a", "stream": False, "max_tokens": 3, "foo": 1}, "foo"),
        ("/api/embed", {"model": "echo", "input": "a", "foo": 1}, "foo"),
        ("/api/embeddings", {"model": "echo", "prompt": "a", "foo": 1}, "foo"),
    ],
)
def test_they_are_named(path: str, body: Any, ignored: str | None) -> None:
    async def test(server: Live) -> None:
        answer = await ask(server, path, body)
        assert (answer.status, answer.headers.get("x-shimmy-ignored")) == (200, ignored)

    run_live(test)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body("hi", stream=True, user="x")),
        (MESSAGES, anthropic_body("hi", stream=True, user="x")),
        ("/api/chat", chat_body("hi", user="x")),
        ("/api/generate", {"model": "echo", "prompt": "a", "max_tokens": 3, "user": "x"}),
    ],
)
def test_a_stream_names_them_too(path: str, body: Any) -> None:
    async def test(server: Live) -> None:
        answer = await ask(server, path, body)
        assert (answer.status, answer.headers["x-shimmy-ignored"]) == (200, "user")

    run_live(test)


def test_strict_requests_are_refused_for_them() -> None:
    async def test(server: Live) -> None:
        body = chat_body("hi", user="x", foo=1)
        for answer in (await ask(server, f"{CHAT}?strict=1", body), await ask(server, CHAT, body, x_shimmy_strict="1")):
            assert (answer.status, answer.error["param"]) == (400, "user")
            assert "user, foo" in answer.error["message"]
        for answer in (
            await ask(server, f"{CHAT}?strict=0", body),
            await ask(server, f"{CHAT}?strict=1", chat_body("hi")),
        ):
            assert answer.status == 200

    run_live(test)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MESSAGES, anthropic_body("hi", user="x")),
        (f"{MESSAGES}/count_tokens", {"model": "echo", "messages": [{"role": "user", "content": "a"}], "user": "x"}),
        ("/api/chat", chat_body("hi", user="x")),
        ("/api/generate", {"model": "echo", "prompt": "a", "user": "x"}),
        ("/api/generate", {"model": "echo", "prompt": "a", "max_tokens": 3, "user": "x"}),
        ("/api/embed", {"model": "echo", "input": "a", "user": "x"}),
        ("/api/show", {"model": "echo", "user": "x"}),
        ("/api/pull", {"model": "echo", "user": "x"}),
        ("/api/copy", {"source": "echo", "destination": "b", "user": "x"}),
    ],
)
def test_in_every_protocol_strict_requests_are_refused_for_them(path: str, body: Any) -> None:
    async def test(server: Live) -> None:
        for answer in (await ask(server, f"{path}?strict=1", body), await ask(server, path, body, x_shimmy_strict="1")):
            assert answer.status == 400 and "unknown fields, in a strict request: user" in answer.body.decode()

    run_live(test)


OPTIONS = {"top_k": 1.0, "seed": 3.0}
# In each protocol what asks for two tokens, and the name of the field that says so.
TWO_TOKENS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, chat_body("one two three", **OPTIONS, max_tokens=2.0), "max_tokens"),
    ("/v1/completions", {"model": "echo", "prompt": "one two three", **OPTIONS, "max_tokens": 2.0}, "max_tokens"),
    ("/v1/responses", {"model": "echo", "input": "one two three", "max_output_tokens": 2.0}, "max_output_tokens"),
    (MESSAGES, anthropic_body("one two three", top_k=1.0, max_tokens=2.0), "max_tokens"),
    ("/api/chat", chat_body("one two three", stream=False, options={**OPTIONS, "num_predict": 2.0}), "num_predict"),
    (
        "/api/generate",
        {"model": "echo", "prompt": "one two three", "stream": False, "options": {**OPTIONS, "num_predict": 2e0}},
        "num_predict",
    ),
    (
        "/api/generate",
        {"model": "echo", "prompt": "one two three", "stream": False, "top_k": 1.0, "max_tokens": 2.0},
        "max_tokens",
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "field"), TWO_TOKENS, ids=[f"{path} {field}" for path, _, field in TWO_TOKENS]
)
def test_a_whole_number_may_be_written_as_a_float(path: str, body: dict[str, Any], field: str) -> None:
    async def test(server: Live) -> None:
        answer = await ask(server, path, body)
        said = answer.body.decode()
        assert answer.status == 200, said
        assert "one two" in said and "three" not in said and "x-shimmy-ignored" not in answer.headers
        wrong = {**body, "options": {**body["options"], field: 2.5}} if "options" in body else {**body, field: 2.5}
        answer = await ask(server, path, wrong)
        assert answer.status == 400 and f"{field}: Expected `int" in answer.body.decode()

    run_live(test)
