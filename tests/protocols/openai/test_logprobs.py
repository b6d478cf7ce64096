"""Tokens and their probabilities as the two APIs show them. The fake worker's words are tokens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.events import Alternative, TokenLogprob
from shimmy.protocols.openai.answer import Choice
from shimmy.protocols.openai.logprobs import Offsets, completion_form
from tests.program import inside
from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "echo", "prompt": "one twö", "max_tokens": 9, **fields}


def test_a_chat() -> None:
    async def test(server: Live) -> None:
        body = chat_body("one twö", logprobs=True, top_logprobs=1)
        answer = (await server.ask("POST", CHAT, body)).json()
        others = {"top_logprobs": [entry("other0", -5.0)]}
        content = [entry("one", -1.0) | others, entry(" twö", -1.0) | others]
        assert answer["choices"][0]["logprobs"] == {"content": content, "refusal": None}
        *events, _ = await server.stream(CHAT, body | {"stream": True})
        told = [event["choices"][0]["logprobs"] for event in events]
        assert (told[0], told[-1]) == (None, None)
        assert [each for part in told[1:-1] for each in part["content"]] == content

    run_live(test)


def test_nothing_is_told_unasked() -> None:
    async def test(server: Live) -> None:
        for path, body in ((CHAT, chat_body("one two")), (COMPLETIONS, completion(n=1, best_of=3))):
            answer = (await server.ask("POST", path, body)).json()
            assert answer["choices"][0]["logprobs"] is None

    run_live(test)


def test_a_plain_completion() -> None:
    expected = {
        "tokens": ["one", " twö"],
        "token_logprobs": [-1.0, -1.0],
        "top_logprobs": [{"other0": -5.0, "one": -1.0}, {"other0": -5.0, " twö": -1.0}],
        "text_offset": [0, 3],
    }

    async def test(server: Live) -> None:
        answer = (await server.ask("POST", COMPLETIONS, completion(logprobs=1))).json()
        assert answer["choices"][0]["logprobs"] == expected
        *events, _ = await server.stream(COMPLETIONS, completion(logprobs=1, stream=True))
        told = [event["choices"][0]["logprobs"] for event in events if event["choices"][0]["logprobs"]]
        assert {key: [each for part in told for each in part[key]] for key in expected} == expected

    run_live(test)


def test_the_best_of_several_comes_first_and_the_rest_are_dropped_but_counted() -> None:
    async def test(server: Live) -> None:
        answer = (await server.ask("POST", COMPLETIONS, completion(n=2, best_of=4, logprobs=0))).json()
        logprobs = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
        assert logprobs == [[-1 / 4, -1 / 4], [-1 / 3, -1 / 3]]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        assert answer["usage"]["completion_tokens"] == 8
        answer = (await server.ask("POST", COMPLETIONS, completion(prompt=["a", "b"], best_of=3))).json()
        assert [choice["text"] for choice in answer["choices"]] == ["a", "b"]

    run_live(test)


def test_the_prompt_is_echoed() -> None:
    async def test(server: Live) -> None:
        for prompt, text in (("a b", "a b"), ([[5, 6]], "t5 t6")):
            answer = (await server.ask("POST", COMPLETIONS, completion(prompt=prompt, echo=True, n=2))).json()
            assert [choice["text"] for choice in answer["choices"]] == [text * 2] * 2
            *events, _ = await server.stream(COMPLETIONS, completion(prompt=prompt, echo=True, stream=True))
            assert "".join(event["choices"][0]["text"] for event in events) == text * 2

    run_live(test)


def test_the_tokens_of_an_echoed_prompt_come_before_the_answers() -> None:
    async def test(server: Live) -> None:
        fields = {"prompt": "a b", "echo": True, "logprobs": 1, "n": 2}
        answer = (await server.ask("POST", COMPLETIONS, completion(**fields))).json()
        other = {"other0": -5.0}
        for choice, own in zip(answer["choices"], (-1.0, -0.5), strict=True):
            told = choice["logprobs"]
            assert (choice["text"], told["tokens"]) == ("a ba b", ["a", " b", "a", " b"])
            assert told["token_logprobs"] == [None, -1.0, own, own]
            assert told["top_logprobs"][:2] == [None, other | {" b": -1.0}]
            assert told["text_offset"] == [0, 1, 3, 4]
        *events, _ = await server.stream(COMPLETIONS, completion(**fields, stream=True))
        chunks = [event["choices"][0] for event in events]
        for choice in answer["choices"]:
            own_chunks = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
            assert "".join(chunk["text"] for chunk in own_chunks) == choice["text"]
            parts = [chunk["logprobs"] for chunk in own_chunks if chunk["logprobs"]]
            assert {key: [each for part in parts for each in part[key]] for key in parts[0]} == choice["logprobs"]

    run_live(test)


def test_the_best_choice_is_that_with_the_best_answer_and_not_the_best_prompt() -> None:
    choices = [Choice("a", "stop", tokens_of("a", []), [TokenLogprob(b"x", -9.0)] * n) for n in (0, 5)]
    assert choices[0].mean_logprob == choices[1].mean_logprob == -1.0


def tokens_of(text: str, cuts: list[int]) -> list[TokenLogprob]:
    data = text.encode()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [TokenLogprob(data[a:b], -1.0) for a, b in zip(edges, edges[1:], strict=False)]


@inside("a function by itself")
@given(st.text(max_size=30), st.lists(st.integers(0, 200), max_size=20))
def test_offsets_point_at_each_token_in_the_text(text: str, cuts: list[int]) -> None:
    tokens = tokens_of(text, cuts)
    told = 0
    for token, offset in zip(tokens, Offsets().of(tokens), strict=True):
        # One that goes on with a character begins where that does.
        assert len(text[:offset].encode()) <= told < len(text[: offset + 1].encode())
        told += len(token.bytes)


@inside("a function by itself")
def test_alternatives_of_the_same_text_are_one() -> None:
    top = [Alternative(b"\xe2", -1.0), Alternative(b"\xe3", -2.0)]
    assert completion_form([TokenLogprob(b"x", -3.0, top)], Offsets())["top_logprobs"] == [{"\ufffd": -1.0, "x": -3.0}]
