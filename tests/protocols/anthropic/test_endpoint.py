"""Answers of POST /v1/messages, whole and streamed, and of its count_tokens."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pool import scripted_model
from tests.program import inside
from tests.protocols.anthropic.exchange import COUNT, MESSAGES, TOOL, ask, body, error_of, read, streamed
from tests.server.live import Live, run_live, with_settings

pytestmark = pytest.mark.program


def test_a_whole_message() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", f"{MESSAGES}?beta=true", body("one two"), anthropic_beta="unknown-2030-01-01")
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        content = answer.json()
        assert re.fullmatch(r"msg_[0-9a-f]{24}", content.pop("id"))
        del content["system_fingerprint"], content["timings"]
        assert content == {
            "type": "message",
            "role": "assistant",
            "model": "echo",
            "content": [{"type": "text", "text": "one two"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 2,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 2,
            },
        }

    run_live(test)


def test_why_an_answer_ended() -> None:
    async def test(server: Live) -> None:
        cases: list[tuple[dict[str, Any], str, str | None]] = [
            ({"max_tokens": 2}, "max_tokens", None),
            ({"stop_sequences": ["", "three"]}, "stop_sequence", "three"),
            ({}, "end_turn", None),
        ]
        for fields, reason, stop in cases:
            whole = await ask(server, "one two three", **fields)
            *_, delta, _ = await streamed(server, "one two three", **fields)
            for ended in (whole, delta["delta"]):
                assert (ended["stop_reason"], ended["stop_sequence"]) == (reason, stop)

    run_live(test)


def test_cached_tokens_are_not_input_tokens() -> None:
    async def test(server: Live) -> None:
        whole = await ask(server, "!cached 1")
        start, *_, delta, _ = await streamed(server, "!cached 1")
        for usage in (whole["usage"], delta["usage"]):
            assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (1, 1)
        assert start["message"]["usage"]["input_tokens"] == 2

    run_live(test)


def test_thoughts_are_blocks_of_their_own() -> None:
    async def test(server: Live) -> None:
        for thinking, shown in [({"type": "adaptive"}, "Hm. So"), ({"type": "adaptive", "display": "omitted"}, "")]:
            whole = await ask(server, "!think 2 Hm. So yes", thinking=thinking)
            thought, text = whole["content"]
            assert (thought["type"], thought["thinking"]) == ("thinking", shown)
            assert isinstance(thought["signature"], str) and thought["signature"]
            assert text == {"type": "text", "text": " yes"}
            assert whole["usage"]["output_tokens_details"] == {"thinking_tokens": 2}
            events = await streamed(server, "!think 2 Hm. So yes", thinking=thinking)
            deltas = [
                event["delta"] for event in events if event["type"] == "content_block_delta" and not event["index"]
            ]
            assert "".join(delta.get("thinking", "") for delta in deltas) == shown
            assert deltas[-1] == {"type": "signature_delta", "signature": thought["signature"]}

    run_live(test)


def test_calls_are_blocks_of_their_own() -> None:
    async def test(server: Live) -> None:
        whole = await ask(server, '!call 2 {"a": 1}', tools=[TOOL])
        calls = [{"type": "tool_use", "id": f"id{n}", "name": "f", "input": {"a": 1}} for n in range(2)]
        assert whole["content"] == [{"type": "text", "text": "calling"}, *calls]
        assert whole["stop_reason"] == "tool_use"
        (cut, call) = (await ask(server, '!call 1 {"a": 1}', tools=[TOOL], max_tokens=3))["content"]
        assert cut["type"] == "text" and call["input"] == {}

    run_live(test)


def test_the_order_of_a_stream() -> None:
    async def test(server: Live) -> None:
        events = await streamed(server, '!call 2 {"a": 1}', tools=[TOOL])
        start, ping, *blocks, delta, stop = events
        assert (start["type"], ping, stop) == ("message_start", {"type": "ping"}, {"type": "message_stop"})
        message = start["message"]
        assert message["content"] == [] and message["stop_reason"] is None and message["role"] == "assistant"
        shapes = [(event["type"].removeprefix("content_block_"), event["index"]) for event in blocks]
        assert shapes[:3] == [("start", 0), ("delta", 0), ("stop", 0)]
        for index in (1, 2):
            of_call = [event for event in blocks if event["index"] == index]
            begun = {"type": "tool_use", "id": f"id{index - 1}", "name": "f", "input": {}}
            assert of_call[0]["content_block"] == begun and of_call[-1]["type"] == "content_block_stop"
            assert {event["delta"]["type"] for event in of_call[1:-1]} == {"input_json_delta"}
            assert json.loads("".join(event["delta"]["partial_json"] for event in of_call[1:-1])) == {"a": 1}
        assert [index for _, index in shapes] == sorted(index for _, index in shapes)
        assert delta["type"] == "message_delta" and delta["delta"]["stop_reason"] == "tool_use"

    run_live(test)


def test_a_doubtful_answer_says_so() -> None:
    async def test(server: Live) -> None:
        assert (await ask(server, "!doubt x"))["warning"] == "a call is not valid JSON"
        *_, delta, _ = await streamed(server, "!doubt x")
        assert delta["delta"]["warning"] == "a call is not valid JSON"

    run_live(test)


@inside("ping_seconds")
def test_silence_is_filled_with_comments_and_then_with_ping_events(tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", MESSAGES, body("!stall 1", stream=True))
            assert (await client.head()).status == 200
            events = client.events()
            assert [await anext(events) for _ in range(2)] == [b": ping"] * 2
            (tmp_path / "echo.gguf.go").touch()
            later = [read(event)["type"] async for event in until_silence(events) if event != b": ping"]
            # Where the machine is busy there is silence between any two of them.
            assert later[:2] == ["message_start", "ping"] and later[-2:] == ["ping", "ping"]
            spoken = [name for name in later if name != "ping"]
            assert spoken == ["message_start", "content_block_start", "content_block_delta"]

    run_live(test, scripted_model("echo", tmp_path, "hold"), settings=with_settings(ping_seconds=0.02))


async def until_silence(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Until two pings came after the last words."""
    count = -1
    while count < 2:
        event = await anext(events)
        if event.startswith(b"event: content_block_delta"):
            count = 0
        elif count >= 0:
            count += event.startswith(b"event: ping")
        yield event


def test_a_client_that_leaves_aborts_its_request() -> None:
    async def test(server: Live) -> None:
        await server.say("loaded")
        for stream in (True, False):
            async with server.connect() as client:
                await client.request("POST", MESSAGES, body("!stall 1", stream=stream))
                await server.until_active(1)
                while await server.say("!active") != "1":
                    pass
            await server.until_active(0)
        await server.until_logged("abort msg_.*abort msg_")

    run_live(test)


@pytest.mark.parametrize(
    "order", ["!crash SIGABRT 2", "!exit 3 1", "!garbage 1", "!break worker_lost gone", "!crash-call"]
)
def test_a_failure_within_a_stream_is_its_last_event(order: str) -> None:
    async def test(server: Live) -> None:
        *_, before, error = await streamed(server, order)
        assert before["type"] == "content_block_delta"
        assert error["type"] == "error" and error["error"]["type"] == "api_error" and error["error"]["message"]
        assert error["request_id"].startswith("req_")
        assert (await ask(server, "still here"))["content"][0]["text"] == "still here"

    run_live(test)


@pytest.mark.parametrize(
    ("order", "status", "kind"),
    [
        ("!crash SIGABRT 1", 502, "api_error"),
        ("!fail context_length_exceeded too long", 400, "invalid_request_error"),
        ("!fail model_failed gone", 500, "api_error"),
        ("!fail unavailable full", 503, "overloaded_error"),
        ("!fail queue_full later", 429, "rate_limit_error"),
    ],
)
def test_a_failure_before_an_answer_has_its_status(order: str, status: int, kind: str) -> None:
    async def test(server: Live) -> None:
        for stream in (False, True) if "fail" in order else (False,):
            assert error_of(await server.ask("POST", MESSAGES, body(order, stream=stream)))[:2] == (status, kind)

    run_live(test)


def test_a_time_that_is_up_ends_the_request() -> None:
    async def test(server: Live) -> None:
        await ask(server, "so that the model is loaded")
        answer = await server.ask("POST", MESSAGES, body("!stall 1", timeout=0.1))
        assert error_of(answer)[:2] == (504, "timeout_error")
        answer = await server.overdue(MESSAGES, body("!stall 1"), b"w0")
        assert answer.status == 200
        assert read(answer.body.rstrip().rpartition(b"\n\n")[2])["error"]["type"] == "timeout_error"

    run_live(test)


@inside("a setting without a flag")
def test_errors_of_every_path_have_this_shape() -> None:
    async def test(server: Live) -> None:
        for path in (MESSAGES, COUNT):
            assert error_of(await server.ask("POST", path, body("x", model="claude-x")))[:2] == (404, "not_found_error")
            assert error_of(await server.ask("POST", path, b"{"))[:2] == (400, "invalid_request_error")
            assert error_of(await server.ask("GET", path))[:2] == (405, "invalid_request_error")
            assert error_of(await server.ask("POST", path, body("x"), host="evil.example"))[1] == "permission_error"
        assert error_of(await server.ask("POST", f"{MESSAGES}/batches", b""))[:2] == (404, "not_found_error")
        assert error_of(await server.ask("POST", MESSAGES, b" " * 4097))[:2] == (413, "request_too_large")

    run_live(test, settings=with_settings(max_body_bytes=4096))


def test_keys_are_taken_from_either_header() -> None:
    async def test(server: Live) -> None:
        for headers in ({"x_api_key": "k"}, {"authorization": "Bearer k"}):
            assert (await server.ask("POST", MESSAGES, body("hi"), **headers)).status == 200
        for wrong in ({}, {"x_api_key": "z"}):
            assert error_of(await server.ask("POST", MESSAGES, body("hi"), **wrong))[:2] == (
                401,
                "authentication_error",
            )

    run_live(test, settings=with_settings(api_keys=("k",)))


def test_tokens_are_counted_as_rendered() -> None:
    async def test(server: Live) -> None:
        asked: dict[str, Any] = body("abc", system="xy", tools=[TOOL])
        del asked["max_tokens"]
        assert (await server.ask("POST", f"{COUNT}?beta=true", asked)).json() == {"input_tokens": len("[xy][abc]>")}
        refused = await server.ask("POST", COUNT, body([{"type": "image"}]))
        assert error_of(refused)[0] == 400

    run_live(test)


def test_an_answer_tells_who_gave_it_and_how_long_each_part_took() -> None:
    async def test(server: Live) -> None:
        whole = await ask(server, "!say x")
        events = await streamed(server, "!say x")
        start, delta = events[0]["message"], events[-2]
        assert whole["system_fingerprint"] == start["system_fingerprint"] == "fp_0123456789_abcdef0123"
        for timings in (whole["timings"], delta["timings"]):
            assert timings.pop("load_ms") >= 0
            assert timings == {"queue_ms": 1.0, "prompt_ms": 2.0, "predicted_ms": 3.0}

    run_live(test)
