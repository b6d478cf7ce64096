"""Answers of POST /v1/chat/completions, whole and streamed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pool import scripted_model
from tests.program import inside
from tests.server.live import Inside, Live, chat_body, run_inside, run_live, with_settings

pytestmark = pytest.mark.program

CHAT = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def text_of(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices if choice["index"] == index)


def test_a_whole_answer() -> None:
    async def test(server: Live) -> None:
        content = (await server.chat("one two three", max_tokens=2)).json()
        assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", content["id"])
        assert (content["object"], content["model"]) == ("chat.completion", "echo")
        message = {"role": "assistant", "content": "one two", "refusal": None}
        assert content["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]
        assert content["usage"] == {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        assert (content["timings"]["prompt_n"], content["timings"]["predicted_n"]) == (3, 2)

    run_live(test)


def test_cached_tokens_are_counted_once_for_all_choices() -> None:
    async def test(server: Live) -> None:
        whole = (await server.chat("!cached 1", n=2)).json()
        asked = chat_body("!cached 1", n=2, stream_options={"include_usage": True})
        *_, last, done = await server.stream(CHAT, asked)
        for content in (whole, last):
            assert content["usage"]["prompt_tokens"] == 2
            assert content["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
            assert (content["timings"]["cache_n"], content["timings"]["prompt_n"]) == (1, 1)
        assert done == "[DONE]"

    run_live(test)


def test_drafted_tokens_are_counted_where_there_are_any() -> None:
    async def test(server: Live) -> None:
        whole = (await server.chat("!drafted 7 5", n=2)).json()
        asked = chat_body("!drafted 7 5", n=2, stream_options={"include_usage": True})
        *_, last, _ = await server.stream(CHAT, asked)
        for content in (whole, last):
            details = {"accepted_prediction_tokens": 10, "rejected_prediction_tokens": 4}
            assert content["usage"]["completion_tokens_details"] == details
            assert (content["timings"]["draft_n"], content["timings"]["draft_n_accepted"]) == (14, 10)
        plain = (await server.chat("hi")).json()
        assert "completion_tokens_details" not in plain["usage"] and "draft_n" not in plain["timings"]

    run_live(test)


def test_stream_is_off_unless_it_is_on() -> None:
    async def test(server: Live) -> None:
        for fields in ({}, {"stream": None}, {"stream": False}):
            assert (await server.chat("hi", **fields)).json()["object"] == "chat.completion"
        assert (await server.chat("hi", stream=True)).headers["content-type"].startswith("text/event-stream")

    run_live(test)


def test_the_order_of_a_stream() -> None:
    async def test(server: Live) -> None:
        role, *texts, finish, done = await server.stream(CHAT, chat_body("one two three"))
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert text_of(texts) == "one two three"
        assert all(list(chunk["choices"][0]["delta"]) == ["content"] for chunk in texts)
        assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
        assert done == "[DONE]"
        chunks = [role, *texts, finish]
        for field in ("id", "object", "created", "model", "system_fingerprint"):
            assert len({chunk[field] for chunk in chunks}) == 1
        assert role["object"] == "chat.completion.chunk"
        assert all("usage" not in chunk for chunk in chunks)
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)

    run_live(test)


def test_usage_comes_last_and_only_when_asked_for() -> None:
    async def test(server: Live) -> None:
        body = chat_body("one two", stream_options={"include_usage": True})
        *chunks, usage, done = await server.stream(CHAT, body)
        assert all(chunk["usage"] is None for chunk in chunks)
        assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 4, "[DONE]")
        assert (usage["id"], usage["model"]) == (chunks[0]["id"], "echo")
        for options in (None, {}, {"include_usage": False}, {"include_usage": None}):
            chunks = (await server.stream(CHAT, chat_body("one two", stream_options=options)))[:-1]
            assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)

    run_live(test)


def test_several_choices_share_a_prompt() -> None:
    async def test(server: Live) -> None:
        content = (await server.chat("one two", n=3)).json()
        assert [choice["index"] for choice in content["choices"]] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in content["choices"]} == {"one two"}
        assert (content["usage"]["prompt_tokens"], content["usage"]["completion_tokens"]) == (2, 6)

        events = await server.stream(CHAT, chat_body("one two", n=3))
        assert [text_of(events, index) for index in range(3)] == ["one two"] * 3
        first = [event["choices"][0] for event in events[:3]]
        assert [choice["index"] for choice in first] == [0, 1, 2] and all("role" in choice["delta"] for choice in first)
        assert sum(event["choices"][0]["finish_reason"] == "stop" for event in events[:-1]) == 3

    run_live(test)


@inside("names that no file has")
def test_the_name_that_was_asked_for_is_echoed() -> None:
    async def test(server: Live) -> None:
        for name in ("llama3.2:1b", "llama3.2:1b:latest", "org/a model"):
            body = chat_body("hi") | {"model": name}
            assert (await server.ask("POST", CHAT, body)).json()["model"] == name
            assert (await server.stream(CHAT, body))[0]["model"] == name

    run_live(test, "llama3.2:1b", "org/a model")


def test_text_of_every_script_survives() -> None:
    text = 'Zoë "quotes" \\ \t tab, 日本語, 👩‍👩‍👧‍👦, \u2028, \x7f, </script>'

    async def test(server: Live) -> None:
        assert await server.say(f"!say {text}") == text
        assert text_of(await server.stream(CHAT, chat_body(f"!say {text}"))) == text

    run_live(test)


def test_an_error_before_the_first_token_has_its_status_streaming_or_not() -> None:
    expected = [
        ("!fail context_length_exceeded too long", 400, "invalid_request_error", "context_length_exceeded"),
        ("!fail internal_error oops", 500, "server_error", "internal_error"),
        ("word " * 5000, 400, "invalid_request_error", "context_length_exceeded"),
    ]

    async def test(server: Live) -> None:
        for stream in (False, True):
            for prompt, status, kind, code in expected:
                answer = await server.chat(prompt, stream=stream)
                assert (answer.status, answer.error["type"], answer.error["code"]) == (status, kind, code)
            answer = await server.ask("POST", CHAT, chat_body("hi", stream=stream) | {"model": "nope"})
            assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
            assert "echo" in answer.error["message"]

    run_live(test)


def test_an_error_later_ends_the_stream_with_an_error_event() -> None:
    async def test(server: Live) -> None:
        for prompt, code in [("!break worker_lost it fell over", "worker_lost"), ("!crash SIGABRT 2", "worker_lost")]:
            *chunks, error = await server.stream(CHAT, chat_body(prompt))
            assert text_of(chunks)
            assert (error["error"]["code"], error["error"]["type"]) == (code, "server_error")

    run_live(test)


def test_a_request_that_takes_too_long_ends_with_an_error_of_its_own() -> None:
    async def test(server: Live) -> None:
        assert await server.say("loaded") == "loaded"
        whole = await server.chat("!stall 2", timeout=0.5)
        assert (whole.status, whole.error["type"], whole.error["code"]) == (504, "timeout_error", "deadline_exceeded")
        assert whole.headers["x-should-retry"] == "false"
        answer = await server.overdue(CHAT, chat_body("!stall 2"), b"w1")
        *chunks, error = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: ")]
        assert (answer.status, text_of(chunks)) == (200, "w0 w1")
        assert (error["error"]["type"], error["error"]["code"]) == ("timeout_error", "deadline_exceeded")
        assert await server.say("still there") == "still there"

    run_live(test)


def test_a_request_whose_turn_does_not_come_says_so() -> None:
    async def test(server: Live) -> None:
        for stream in (False, True):
            answer = await server.chat("!fail queue_timeout too many", stream=stream)
            error = answer.error
            assert (answer.status, error["type"], error["code"]) == (408, "timeout_error", "queue_timeout")
            assert answer.headers["x-should-retry"] == "false"
        *_, event = await server.stream(CHAT, chat_body("!break queue_timeout too many"))
        assert event["error"]["code"] == "queue_timeout"

    run_live(test)


def test_an_error_later_is_the_status_of_a_whole_answer() -> None:
    async def test(server: Live) -> None:
        answer = await server.chat("!crash SIGSEGV 2")
        assert (answer.status, answer.error["code"]) == (502, "worker_lost")
        assert answer.headers["x-should-retry"] == "false"
        assert (await server.chat("hello")).status == 200

    run_live(test)


@inside("max_queued_requests")
def test_a_full_queue_says_when_to_come_back() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as first:
            await first.request("POST", CHAT, chat_body("!stall 1", stream=True))
            await first.head()
            for stream in (False, True):
                answer = await server.chat("hi", stream=stream)
                assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["retry-after-ms"] == "1000"
                assert answer.headers["x-should-retry"] == "true"

    run_live(test, max_requests=1)


def test_a_model_that_will_not_load_is_not_worth_a_retry(tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        for stream in (False, True):
            answer = await server.chat("hi", stream=stream)
            assert (answer.status, answer.error["code"]) == (500, "model_failed")
            assert answer.headers["x-should-retry"] == "false"

    run_live(test, scripted_model("echo", tmp_path, "fail model_failed no tensor"))


@inside("ping_seconds")
def test_a_long_load_is_bridged_by_pings(tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, chat_body("hello", stream=True))
            assert (await client.head()).status == 200
            events = client.events()
            assert await anext(events) == b": ping"
            assert await anext(events) == b": ping"
            (tmp_path / "echo.gguf.go").touch()
            rest = [event async for event in events if event != b": ping"]
            assert b'"content":"hello"' in rest[1] and rest[-1] == b"data: [DONE]"

    run_live(test, scripted_model("echo", tmp_path, "hold"), settings=with_settings(ping_seconds=0.02))


@inside("ping_seconds, and workers that are taken away")
def test_a_load_that_fails_after_pings_is_an_error_event(tmp_path: Path) -> None:
    async def test(server: Inside) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, chat_body("hello", stream=True))
            assert (await client.head()).status == 200
            await anext(client.events())
            await server.inference.close()
            assert [data["error"]["code"] async for data in client.data()] == ["server_draining"]

    run_inside(test, scripted_model("echo", tmp_path, "hold"), settings=with_settings(ping_seconds=0.02))
