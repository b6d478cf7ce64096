"""Answers against the types that OpenAI's and Anthropic's packages publish. Their clients build these without looking:
what is missing or wrong would be found by nobody but a user."""

from typing import Any

import anthropic.types
import openai.types
import openai.types.chat
import openai.types.responses
import pytest
from pydantic import TypeAdapter

from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
TOOL = {"type": "function", "function": {"name": "f"}}
USAGE = {"stream_options": {"include_usage": True}}
# What a prompt makes the model do: speak, think, call.
ORDERS = ["!say Hello there.", "!think 1 Hm. Yes", '!call 2 {"a":1}']
EVENT = TypeAdapter(openai.types.responses.ResponseStreamEvent)
MESSAGE_EVENT = TypeAdapter(anthropic.types.RawMessageStreamEvent)


def message(order: str, **fields: Any) -> dict[str, Any]:
    return chat_body(order, max_tokens=50, tools=[{"name": "f", "input_schema": {"type": "object"}}], **fields)


def response(order: str) -> dict[str, Any]:
    return {"model": "echo", "input": order, "tools": [{"type": "function", "name": "f"}]}


async def whole(server: Live, path: str, body: dict[str, Any]) -> Any:
    answer = await server.ask("POST", path, body)
    assert answer.status == 200, answer.body
    return answer.json()


async def events(server: Live, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of a stream whose events have names."""
    async with server.connect() as client:
        await client.request("POST", path, body | {"stream": True})
        await client.head()
        said = [event.partition(b"\ndata: ")[2] async for event in client.events() if b"\ndata: " in event]
    return [TypeAdapter(Any).validate_json(each) for each in said]


@pytest.mark.parametrize("order", ORDERS)
def test_openai_s_chats(order: str) -> None:
    async def test(server: Live) -> None:
        body = chat_body(order, tools=[TOOL], logprobs=True, top_logprobs=2, n=2)
        openai.types.chat.ChatCompletion.model_validate(await whole(server, CHAT, body))
        *chunks, end = await server.stream(CHAT, body | USAGE)
        assert end == "[DONE]"
        for chunk in chunks:
            openai.types.chat.ChatCompletionChunk.model_validate(chunk)

    run_live(test)


def test_openai_s_completions_vectors_and_models() -> None:
    async def test(server: Live) -> None:
        body = {"model": "echo", "prompt": ["!say one", "!say two"], "logprobs": 2, "n": 2}
        openai.types.Completion.model_validate(await whole(server, COMPLETIONS, body))
        for chunk in (await server.stream(COMPLETIONS, body | USAGE))[:-1]:
            # The type is for whole answers; in a stream OpenAI sends null until the end, too.
            for choice in chunk["choices"]:
                choice["finish_reason"] = choice["finish_reason"] or "stop"
            openai.types.Completion.model_validate(chunk)
        vectors = await whole(server, "/v1/embeddings", {"model": "echo", "input": ["a", "b"]})
        openai.types.CreateEmbeddingResponse.model_validate(vectors)
        (listed,) = (await server.ask("GET", "/v1/models")).json()["data"]
        openai.types.Model.model_validate(listed)

    run_live(test)


@pytest.mark.parametrize("order", ORDERS)
def test_openai_s_responses(order: str) -> None:
    async def test(server: Live) -> None:
        openai.types.responses.Response.model_validate(await whole(server, RESPONSES, response(order)))
        for event in await events(server, RESPONSES, response(order)):
            EVENT.validate_python(event)

    run_live(test)


@pytest.mark.parametrize("order", ORDERS)
def test_anthropic_s_messages(order: str) -> None:
    async def test(server: Live) -> None:
        anthropic.types.Message.model_validate(await whole(server, MESSAGES, message(order)))
        for event in await events(server, MESSAGES, message(order)):
            if event["type"] != "ping":
                MESSAGE_EVENT.validate_python(event)

    run_live(test)
