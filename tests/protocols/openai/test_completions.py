"""Answers of POST /v1/completions, whole and streamed."""

import re
from typing import Any

import pytest

from tests.server.live import Live, run_live

pytestmark = pytest.mark.program

COMPLETIONS = "/v1/completions"


def body(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "prompt": prompt, "max_tokens": 99, **fields}


def text_of(events: list[Any], index: int) -> str:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice["text"] for choice in choices if choice["index"] == index)


def test_a_whole_answer() -> None:
    async def test(server: Live) -> None:
        content = (await server.ask("POST", COMPLETIONS, body("one two"))).json()
        assert re.fullmatch(r"cmpl-[0-9a-f]{24}", content["id"])
        assert (content["object"], content["model"]) == ("text_completion", "echo")
        assert content["choices"] == [{"index": 0, "text": "one two", "logprobs": None, "finish_reason": "stop"}]
        assert content["usage"]["total_tokens"] == 4

    run_live(test)


def test_a_stream() -> None:
    async def test(server: Live) -> None:
        *texts, finish, usage, done = await server.stream(
            COMPLETIONS, body("one two", stream_options={"include_usage": True})
        )
        assert text_of(texts, 0) == "one two"
        assert finish["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
        assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 2, "[DONE]")
        assert {chunk["object"] for chunk in (*texts, finish, usage)} == {"text_completion"}

    run_live(test)


def test_several_prompts_and_choices_are_numbered_prompt_by_prompt() -> None:
    prompts = ["a", "b b", "c c c"]

    async def test(server: Live) -> None:
        content = (await server.ask("POST", COMPLETIONS, body(prompts, n=2))).json()
        assert [choice["text"] for choice in content["choices"]] == ["a", "a", "b b", "b b", "c c c", "c c c"]
        assert [choice["index"] for choice in content["choices"]] == list(range(6))
        assert (content["usage"]["prompt_tokens"], content["usage"]["completion_tokens"]) == (6, 12)
        events = await server.stream(COMPLETIONS, body(prompts, n=2))
        assert [text_of(events, index) for index in range(6)] == ["a", "a", "b b", "b b", "c c c", "c c c"]
        assert len({event["id"] for event in events[:-1]}) == 1 and events[-1] == "[DONE]"

    run_live(test)


def test_token_ids_reach_the_worker() -> None:
    async def test(server: Live) -> None:
        content = (await server.ask("POST", COMPLETIONS, body([[5, 6], [7]]))).json()
        assert [choice["text"] for choice in content["choices"]] == ["t5 t6", "t7"]

    run_live(test)


def test_prompts_run_side_by_side() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", COMPLETIONS, body(["!stall 1", "quick"], stream=True))
            await client.head()
            received = ""
            async for event in client.data():
                received += text_of([event], 1)
                if received == "quick":
                    break

    run_live(test)


def test_one_prompt_that_fails_fails_them_all() -> None:
    prompts = ["!stall 1", "!fail context_length_exceeded too long", "!stall 1"]

    async def test(server: Live) -> None:
        for stream in (False, True):
            answer = await server.ask("POST", COMPLETIONS, body(prompts, stream=stream))
            assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
            await server.until_active(0)

    run_live(test)


def test_one_prompt_that_fails_later_ends_the_stream() -> None:
    async def test(server: Live) -> None:
        events = await server.stream(COMPLETIONS, body(["!stall 1", "!break worker_lost it fell over"]))
        assert events[-1]["error"]["code"] == "worker_lost"
        await server.until_active(0)
        await server.until_logged("abort cmpl-[0-9a-f]+-0")

    run_live(test)
