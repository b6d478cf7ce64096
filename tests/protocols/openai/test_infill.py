"""POST /infill, and `suffix` of /v1/completions; the fake worker says what it was asked: [prefix|prompt|suffix]."""

from typing import Any

import pytest

from tests.server.live import Live, run_live

pytestmark = pytest.mark.program

BODY: dict[str, Any] = {"input_prefix": "def f(", "input_suffix": "pass", "prompt": "a"}


def test_a_whole_answer() -> None:
    async def test(server: Live) -> None:
        answer = (await server.ask("POST", "/infill", BODY)).json()
        assert (answer["content"], answer["stop"], answer["stop_type"]) == ("[def f(|a|pass]", True, "eos")
        assert (answer["model"], answer["tokens_predicted"], answer["tokens_evaluated"]) == ("echo", 2, 3)
        assert answer["truncated"] is False and answer["timings"]["predicted_n"] == 2

    run_live(test)


def test_a_stream() -> None:
    async def test(server: Live) -> None:
        *pieces, end = await server.stream("/infill", BODY)
        assert "".join(piece["content"] for piece in pieces) == "[def f(|a|pass]"
        assert not any(piece["stop"] for piece in pieces)
        assert (end["content"], end["stop"], end["tokens_predicted"]) == ("", True, 2)

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "content", "stop_type", "word"),
    [
        ({"n_predict": 1}, "[def", "limit", ""),
        ({"max_tokens": 1}, "[def", "limit", ""),
        ({"n_predict": -1}, "[def f(|a|pass]", "eos", ""),
        ({"stop": ["|a"]}, "[def f(", "word", "|a"),
        # Editors let a prompt be computed ahead of time.
        ({"n_predict": 0}, "", "limit", ""),
    ],
)
def test_where_it_ends(fields: dict[str, Any], content: str, stop_type: str, word: str) -> None:
    async def test(server: Live) -> None:
        answer = (await server.ask("POST", "/infill", BODY | fields)).json()
        assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == (content, stop_type, word)

    run_live(test)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_prefix": "a"}, "input_suffix"),
        ({"input_suffix": "a"}, "input_prefix"),
        (BODY | {"input_extra": [{"text": 7}]}, "input_extra[0].text"),
        (BODY | {"input_extra": [{}] * 300}, "input_extra"),
        (BODY | {"n_predict": -2}, "n_predict"),
        (BODY | {"n": 2}, "n"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/infill", body)
        assert (answer.status, answer.error["param"]) == (400, param)

    run_live(test)


def test_a_suffix_of_a_plain_completion() -> None:
    async def test(server: Live) -> None:
        asked = {"model": "echo", "prompt": "a", "suffix": "b"}
        answer = await server.ask("POST", "/v1/completions", asked)
        assert answer.json()["choices"][0]["text"] == "[a||b]"
        refused = await server.ask("POST", "/v1/completions", asked | {"prompt": [1, 2]})
        assert (refused.status, refused.error["param"]) == (400, "suffix")

    run_live(test)
