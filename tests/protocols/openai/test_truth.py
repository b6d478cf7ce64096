"""What answers say of themselves: who gave them, how long each part took, and what is missing of the prompt."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from shimmy.core.events import Accepted, Event, Finished, Timings, Usage
from shimmy.protocols.openai.answer import Tally, collect
from tests.fakes.pool import collect as events_of
from tests.fakes.pool import fake_inference, generation, run
from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
FINGERPRINT = "fp_0123456789_abcdef0123"


async def posted(server: Live, path: str, body: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    async with server.connect() as client:
        await client.request("POST", path, body)
        answer = await client.answer()
    return dict(answer.headers), answer.body


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def tally_of(*finished: Finished) -> Tally:
    async def batches() -> AsyncGenerator[tuple[int, list[Event]], None]:
        for number, event in enumerate(finished):
            yield number, [event]

    return asyncio.run(collect(batches(), 1))[1]


def ended(num_prompt: int, num_tokens: int, *times: float) -> Finished:
    return Finished("r", 0, "stop", Usage(num_prompt, num_tokens, cached_tokens=2), Timings(*times))


def test_all_times_and_the_speeds_that_follow_from_them() -> None:
    assert tally_of(ended(12, 8, 0.25, 0.1, 0.4, 3.0)).timings() == {
        "load_ms": 3000.0,
        "queue_ms": 250.0,
        "cache_n": 2,
        "prompt_n": 10,
        "prompt_ms": 100.0,
        "prompt_per_token_ms": 10.0,
        "prompt_per_second": 100.0,
        "predicted_n": 8,
        "predicted_ms": 400.0,
        "predicted_per_token_ms": 50.0,
        "predicted_per_second": 20.0,
    }


def test_nothing_is_divided_by_zero_and_no_speed_is_made_up() -> None:
    timings = tally_of(ended(2, 0, 0, 0, 0)).timings()
    assert {timings[name] for name in timings if name.endswith(("_ms", "_per_second"))} == {0.0}
    assert tally_of(ended(3, 1, 0, 0, 0.000_01)).timings()["predicted_per_second"] == 0.0
    assert Tally().timings()["prompt_ms"] == 0.0


def test_the_longest_of_several_prompts_stands_for_all() -> None:
    timings = tally_of(ended(3, 1, 1.0, 0.5, 0.25, 2.0), ended(4, 1, 0.5, 1.0, 0.5, 1.0)).timings()
    names = ("load_ms", "queue_ms", "prompt_ms", "predicted_ms", "prompt_n", "cache_n")
    assert [timings[name] for name in names] == [2000.0, 1000.0, 1000.0, 500.0, 3, 4]


class Ticking:
    """A second later each time that it is asked."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_the_wait_for_the_model_is_added_by_the_server() -> None:
    async def test() -> None:
        clock: Callable[[], float] = Ticking()
        async with fake_inference(clock=clock) as inference:
            *_, last = await events_of(inference, generation("!say x"))
            assert isinstance(last, Finished)
            assert last.timings == Timings(0.001, 0.002, 0.003, load_seconds=last.timings.load_seconds)
            assert last.timings.load_seconds >= 1.0

    run(test())


def test_times_add_up_to_what_the_client_waited() -> None:
    async def test(server: Live) -> None:
        began_at = asyncio.get_running_loop().time()
        _, body = await posted(server, CHAT, chat_body("!say x"))
        waited_ms = (asyncio.get_running_loop().time() - began_at) * 1000
        timings = json.loads(body)["timings"]
        assert 6.0 <= sum(timings[f"{name}_ms"] for name in ("load", "queue", "prompt", "predicted")) <= waited_ms + 6.0
        _, body = await posted(server, CHAT, chat_body("!say x"))
        assert json.loads(body)["timings"]["load_ms"] < timings["load_ms"], "it is loaded by now"

    run_live(test)


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_ends_with_its_timings(usage: bool) -> None:
    async def test(server: Live) -> None:
        body = chat_body("!say x", stream=True, n=2, stream_options={"include_usage": usage})
        _, answer = await posted(server, CHAT, body)
        *others, last = chunks_of(answer)
        assert last["timings"]["predicted_n"] == 2
        assert ("usage" in last) == usage
        assert not any("timings" in chunk for chunk in others)
        assert {chunk["system_fingerprint"] for chunk in (*others, last)} == {FINGERPRINT}

    run_live(test)


TRUNCATIONS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, chat_body("!say x", truncation="auto"), "oldest_turns"),
    (CHAT, chat_body("!say x", truncate_prompt_tokens=-1), "first_tokens"),
    (CHAT, chat_body("!say x", truncate_prompt_tokens=4, truncation_side="right"), "last_tokens"),
    (COMPLETIONS, {"model": "echo", "prompt": "!say x", "truncate_prompt_tokens": 3}, "first_tokens"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "policy"), TRUNCATIONS)
def test_what_was_dropped_is_told_in_the_body_and_in_a_header(
    path: str, body: dict[str, Any], policy: str, stream: bool
) -> None:
    async def test(server: Live) -> None:
        headers, answer = await posted(server, path, body | {"stream": stream})
        told = chunks_of(answer)[-1] if stream else json.loads(answer)
        assert told["truncation"] == {"policy": policy, "dropped_messages": 2, "dropped_tokens": 7}
        assert headers["x-shimmy-truncated"] == f"{policy}; messages=2; tokens=7"

    run_live(test)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_tells_who_answered_and_what_was_dropped(stream: bool) -> None:
    """`truncation` is the policy there, as OpenAI has it."""

    async def test(server: Live) -> None:
        body = {"model": "echo", "input": "!say x", "stream": stream}
        headers, answer = await posted(server, "/v1/responses", body | {"truncation": "auto"})
        told = events_in(answer) if stream else [json.loads(answer)]
        for response in told:
            assert response["system_fingerprint"] == FINGERPRINT and response["truncation"] == "auto"
            assert response["truncated"] == {"policy": "oldest_turns", "dropped_messages": 2, "dropped_tokens": 7}
        assert headers["x-shimmy-truncated"] == "oldest_turns; messages=2; tokens=7"
        headers, answer = await posted(server, "/v1/responses", body)
        assert b'"truncated"' not in answer and "x-shimmy-truncated" not in headers

    def events_in(answer: bytes) -> list[Any]:
        lines = (line.removeprefix(b"data: ") for line in answer.split(b"\n") if line.startswith(b"data: "))
        return [told["response"] for told in map(json.loads, lines) if "response" in told]

    run_live(test)


def test_several_prompts_tell_of_all_that_was_dropped() -> None:
    async def test(server: Live) -> None:
        body = {"model": "echo", "prompt": ["!say x", "!say y"], "truncate_prompt_tokens": 3}
        assert json.loads((await posted(server, COMPLETIONS, body))[1])["truncation"]["dropped_tokens"] == 14

    run_live(test)


def test_nothing_is_said_or_asked_of_the_worker_without_a_policy() -> None:
    async def test(server: Live) -> None:
        for more in ({}, {"truncation": "disabled"}, {"truncate_prompt_tokens": None}):
            headers, answer = await posted(server, CHAT, chat_body("!request", **more))
            told = json.loads(answer)
            assert "truncation" not in told and "x-shimmy-truncated" not in headers
            assert "truncation" not in json.loads(told["choices"][0]["message"]["content"])

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncation": "some"}, "truncation"),
        ({"truncation": "auto", "truncate_prompt_tokens": 5}, "truncation"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 5, "truncation_side": "middle"}, "truncation_side"),
        ({"truncation_side": "left"}, "truncation_side"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        assert json.loads((await posted(server, CHAT, chat_body("x", **fields)))[1])["error"]["param"] == param

    run_live(test)


def test_the_first_to_answer_names_it() -> None:
    tally = Tally()
    for name in ("fp_a", "fp_b"):
        tally.accept(Accepted("r", 1, fingerprint=name))
    assert tally.fingerprint == "fp_a"


def test_vectors_tell_what_was_dropped_of_their_texts() -> None:
    async def test(server: Live) -> None:
        body = {"model": "echo", "input": ["one", "two"]}
        headers, answer = await posted(server, "/v1/embeddings", body | {"truncate_prompt_tokens": -1})
        told = {"policy": "last_tokens", "dropped_messages": 0, "dropped_tokens": 6}
        assert json.loads(answer)["truncation"] == told
        assert headers["x-shimmy-truncated"] == "last_tokens; messages=0; tokens=6"
        headers, answer = await posted(server, "/v1/embeddings", body)
        assert "truncation" not in json.loads(answer) and "x-shimmy-truncated" not in headers

    run_live(test)
