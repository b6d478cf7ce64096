"""What the tests of this protocol send, and what they expect of every answer."""

import json
from typing import Any

from tests.server.client import Answer, Live

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
TOOL = {"name": "f", "description": "does f", "input_schema": {"type": "object"}}


def body(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "max_tokens": 100, "messages": [{"role": "user", "content": prompt}], **fields}


def error_of(answer: Answer) -> tuple[int, str, str]:
    """Status, type and message; fails unless the answer is nothing but an error of this protocol."""
    content = answer.json()
    assert set(content) == {"type", "error", "request_id"} and content["type"] == "error"
    assert set(content["error"]) == {"type", "message"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == content["request_id"]
    return answer.status, content["error"]["type"], content["error"]["message"]


async def ask(server: Live, prompt: Any, **fields: Any) -> Any:
    answer = await server.ask("POST", MESSAGES, body(prompt, **fields))
    assert answer.status == 200, answer.body
    return answer.json()


async def streamed(server: Live, prompt: Any, **fields: Any) -> list[Any]:
    """The data of all events, comments left out; each must be named by its type."""
    async with server.connect() as client:
        await client.request("POST", MESSAGES, body(prompt, stream=True, **fields))
        assert (await client.head()).status == 200
        return [read(event) async for event in client.events() if not event.startswith(b":")]


def read(event: bytes) -> Any:
    name, data = event.split(b"\n", 1)
    content = json.loads(data.removeprefix(b"data: "))
    assert name.decode() == f"event: {content['type']}"
    return content


async def generation(server: Live, prompt_fields: dict[str, Any]) -> Any:
    """The `Generation` that the worker gets: the last message's text must be "!request"."""
    answer = await server.ask("POST", MESSAGES, {"model": "echo", "max_tokens": 10, **prompt_fields})
    assert answer.status == 200, answer.body
    return json.loads(answer.json()["content"][-1]["text"])
