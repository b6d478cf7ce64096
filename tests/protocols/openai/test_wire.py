"""What is accepted, what is refused, and which field an error names. The worker shows what it was asked for."""

import math
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.request import Chat, Generation, Message, Sampling, Secret, Speculative, Text, Tokens
from shimmy.protocols.openai.completions import prompts_of
from shimmy.protocols.openai.wire import CompletionRequest
from tests.program import inside
from tests.server.live import Live, run_live, with_settings

pytestmark = pytest.mark.program

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
REQUEST = [{"role": "user", "content": "!request"}]


async def asked(server: Live, path: str, **fields: Any) -> Generation:
    """The `Generation` that a request becomes."""
    own = {"messages": REQUEST} if path == CHAT else {"prompt": "!request"}
    answer = await server.ask("POST", path, {"model": "echo", **own, **fields})
    assert answer.status == 200, answer.body
    choice = answer.json()["choices"][0]
    text = choice["text"].removeprefix("!request") if path == COMPLETIONS else choice["message"]["content"]
    return msgspec.json.decode(text, type=Generation)


def test_every_sampling_field_arrives() -> None:
    fields: dict[str, Any] = {
        "temperature": 0,
        "dynatemp_range": 0.5,
        "dynatemp_exponent": 2,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.25,
        "typical_p": 0.75,
        "top_n_sigma": 1.5,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "mirostat": 2,
        "mirostat_tau": 3,
        "mirostat_eta": 0.2,
        "presence_penalty": -2,
        "frequency_penalty": 2.0,
        "repetition_penalty": 1.5,
        "repeat_last_n": -1,
        "dry_multiplier": 0.8,
        "dry_base": 2,
        "dry_allowed_length": 3,
        "dry_penalty_last_n": 0,
        "ignore_eos": True,
        "min_tokens": 4,
        "bad_words": ["damn", "two words"],
        "seed": -1,
    }
    spelled = {"logit_bias": {"15": -100, "7": 1.5}, "samplers": ["top-k", "temp"], "dry_sequence_breakers": [".", "!"]}
    meant: dict[str, Any] = {
        "logit_bias": {15: -100, 7: 1.5},
        "samplers": ("top_k", "temperature"),
        "dry_sequence_breakers": (".", "!"),
    }
    assert {*fields, *meant, "explicit"} == set(Sampling.__struct_fields__)

    async def test(server: Live) -> None:
        for path in (CHAT, COMPLETIONS):
            generation = await asked(server, path, **fields, **spelled, stop_token_ids=[5, 6], max_tokens=9)
            assert generation.sampling == Sampling(**fields, **meant)
            assert (generation.max_tokens, generation.stop_tokens) == (9, [5, 6])

    run_live(test)


def test_absent_and_null_leave_the_defaults() -> None:
    null = dict.fromkeys((*Sampling.__struct_fields__, "stop", "n", "stream", "stream_options", "repeat_penalty"))

    async def test(server: Live) -> None:
        for fields in ({}, null | {"max_completion_tokens": None, "tools": None, "logprobs": None}):
            generation = await asked(server, CHAT, **fields)
            assert generation.sampling == Sampling()
            assert (generation.max_tokens, generation.stop, generation.num_choices) == (None, [], 1)
        assert (await asked(server, COMPLETIONS)).max_tokens == 16

    run_live(test)


def test_what_is_asked_for_stands_although_it_is_the_default() -> None:
    async def test(server: Live) -> None:
        generation = await asked(server, CHAT, temperature=0.8, top_k=20)
        assert generation.sampling.explicit == ("temperature",)
        model_has = {"temperature": 0.6, "top_k": 99, "min_p": 0.0}
        assert generation.sampling.or_else(model_has) == Sampling(top_k=20, min_p=0.0, explicit=("temperature",))

    run_live(test)


def test_tokens_that_are_to_be_told_of() -> None:
    async def test(server: Live) -> None:
        for fields, expected in (
            ({"logprobs": True}, 0),
            ({"logprobs": True, "top_logprobs": 20}, 20),
            ({"logprobs": False, "top_logprobs": 0}, None),
            ({"logprobs": None, "top_logprobs": None}, None),
        ):
            assert (await asked(server, CHAT, **fields)).logprobs == expected
        for number, expected in ((0, 0), (5, 5), (20, 20), (True, 1), (False, None), (None, None)):
            assert (await asked(server, COMPLETIONS, logprobs=number)).logprobs == expected
        best = await asked(server, COMPLETIONS, n=2, best_of=3)
        assert (best.num_choices, best.logprobs) == (3, 0)
        assert (await asked(server, COMPLETIONS, n=2, best_of=2)).logprobs is None

    run_live(test)


def test_when_it_should_run() -> None:
    async def test(server: Live) -> None:
        for path in (CHAT, COMPLETIONS):
            asked_for = await asked(server, path, priority=-7, timeout=500, queue_timeout=400.5)
            assert (asked_for.priority, asked_for.timeout_seconds) == (-7, 500.0)
            assert asked_for.queue_seconds is not None
            assert 300.0 < asked_for.queue_seconds < 400.5, "what is left of it"
            for fields in ({}, {"priority": None, "timeout": None, "queue_timeout": None}):
                plain = await asked(server, path, **fields)
                assert (plain.priority, plain.timeout_seconds, plain.queue_seconds) == (0, None, None)

    run_live(test)


def test_a_key_for_what_is_kept() -> None:
    key = bytes(range(32))

    async def test(server: Live) -> None:
        for path in (CHAT, COMPLETIONS):
            generation = await asked(server, path, encryption_key=b64encode(key).decode())
            assert generation.encryption_key == Secret(key)
            assert "Secret(...)" in repr(generation) and repr(key)[2:-1] not in repr(generation)
            for fields in ({}, {"encryption_key": None}):
                assert (await asked(server, path, **fields)).encryption_key is None

    run_live(test)


def test_how_tokens_are_guessed() -> None:
    async def test(server: Live) -> None:
        for path in (CHAT, COMPLETIONS):
            assert (await asked(server, path)).speculative == Speculative()
            generation = await asked(server, path, **{"speculative.type": "ngram", "speculative.n_max": 8})
            assert generation.speculative == Speculative("ngram", 8)
        for content in ("as before", [{"type": "text", "text": "as "}, {"type": "text", "text": "before"}]):
            generation = await asked(server, CHAT, prediction={"type": "content", "content": content})
            assert generation.prediction == "as before"
        assert (await asked(server, CHAT, prediction=None)).prediction == ""

    run_live(test)


def test_a_request_belongs_to_whose_key_it_has() -> None:
    async def test(server: Live) -> None:
        tenants = []
        for key in ("sesame", "sesame", "other"):
            answer = await server.ask("POST", COMPLETIONS, {"model": "echo", "prompt": "!request"}, x_api_key=key)
            generation = msgspec.json.decode(answer.json()["choices"][0]["text"], type=Generation)
            tenants.append(generation.tenant)
        assert tenants[0] == tenants[1] != tenants[2] and all(tenants)

    run_live(test, settings=with_settings(api_keys=("sesame", "other")))


def test_minus_one_is_no_limit() -> None:
    async def test(server: Live) -> None:
        for path in (CHAT, COMPLETIONS):
            assert (await asked(server, path, max_tokens=-1)).max_tokens is None
        assert (await asked(server, CHAT, max_completion_tokens=-1, max_tokens=7)).max_tokens is None

    run_live(test)


def test_names_of_one_thing() -> None:
    async def test(server: Live) -> None:
        assert (await asked(server, CHAT, max_completion_tokens=5)).max_tokens == 5
        assert (await asked(server, CHAT, max_completion_tokens=5, max_tokens=7)).max_tokens == 5
        assert (await asked(server, CHAT, n_predict=6)).max_tokens == 6
        assert (await asked(server, CHAT, n_predict=6, max_tokens=7)).max_tokens == 7
        assert (await asked(server, CHAT, repeat_penalty=1.25)).sampling.repetition_penalty == 1.25
        assert (await asked(server, CHAT, repeat_penalty=2, repetition_penalty=3)).sampling.repetition_penalty == 3

    run_live(test)


@pytest.mark.parametrize(
    ("stop", "expected"), [("END", ["END"]), (["a", "b"], ["a", "b"]), (["", "x"], ["x"]), ("", []), ([], [])]
)
def test_stop_strings(stop: Any, expected: list[str]) -> None:
    async def test(server: Live) -> None:
        assert (await asked(server, CHAT, stop=stop)).stop == expected

    run_live(test)


def test_messages_of_every_form() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        {"role": "function", "content": [], "name": "f"},
        *REQUEST,
    ]

    async def test(server: Live) -> None:
        generation = await asked(server, CHAT, messages=messages)
        assert isinstance(generation.prompt, Chat)
        assert generation.prompt.messages == [
            Message("system", "be brief"),
            Message("user", "ab", "Ann"),
            Message("assistant", ""),
            Message("assistant", ""),
            Message("tool", "42", tool_call_id="call_1"),
            Message("tool", "", "f"),
            Message("user", "!request"),
        ]

    run_live(test)


def test_what_clients_send_beside_it_is_accepted() -> None:
    extra = {
        "user": "u1",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "reasoning_effort": "low",
        "parallel_tool_calls": True,
        "some_field_of_the_future": [{"deep": [1, 2, {"er": None}]}],
        "tools": [],
        "tool_choice": "auto",
        "functions": [],
        "function_call": "none",
        "response_format": {"type": "text"},
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
    }

    async def test(server: Live) -> None:
        assert (await asked(server, CHAT, **extra)).sampling == Sampling()
        told = await asked(server, COMPLETIONS, echo=True, logprobs=0)
        assert (told.echo, told.echo_logprobs, told.logprobs) == (True, True, 0)
        assert not (await asked(server, COMPLETIONS, echo=True, best_of=2)).echo_logprobs
        await asked(server, COMPLETIONS, user="u1", echo=False, suffix="", best_of=1, logprobs=None)

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [*REQUEST, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file"}]}]},
            "messages[1].content[1].type",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", CHAT, {"model": "echo", "messages": REQUEST, **fields})
        assert (answer.status, answer.error["code"]) == (400, "unsupported_parameter")
        assert answer.error["param"] == param and param in answer.error["message"]

    run_live(test)


@pytest.mark.parametrize(("fields", "param"), [({"logprobs": 0, "echo": True, "suffix": "y"}, "logprobs")])
def test_the_same_for_plain_completions(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", COMPLETIONS, {"model": "echo", "prompt": "x", **fields})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unsupported_parameter", param)

    run_live(test)


CHAT_FIELDS = {"model": "echo", "messages": REQUEST}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 7}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [*REQUEST, {"role": "wizard"}]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": -1}, "min_p"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repeat_last_n": -2}, "repeat_last_n"),
    ({"repeat_last_n": 2**31}, "repeat_last_n"),
    ({"dry_multiplier": -1}, "dry_multiplier"),
    ({"dry_base": 0.5}, "dry_base"),
    ({"dry_allowed_length": -1}, "dry_allowed_length"),
    ({"dry_penalty_last_n": -2}, "dry_penalty_last_n"),
    ({"dry_sequence_breakers": "none"}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0]"),
    ({"dry_sequence_breakers": ["a" * 41]}, "dry_sequence_breakers[0]"),
    ({"dry_sequence_breakers": ["a"] * 17}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": ["a" * 40] * 4}, "dry_sequence_breakers"),
    ({"typical_p": 1.5}, "typical_p"),
    ({"top_n_sigma": -2}, "top_n_sigma"),
    ({"xtc_probability": 2}, "xtc_probability"),
    ({"xtc_threshold": -0.1}, "xtc_threshold"),
    ({"mirostat": 3}, "mirostat"),
    ({"mirostat_tau": -1}, "mirostat_tau"),
    ({"mirostat_eta": 11}, "mirostat_eta"),
    ({"dynatemp_range": -1}, "dynatemp_range"),
    ({"dynatemp_exponent": 101}, "dynatemp_exponent"),
    ({"samplers": ["top_k", "magic"]}, "samplers[1]"),
    ({"samplers": ["top_k"] * 33}, "samplers"),
    ({"samplers": "top_k;top_p"}, "samplers"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 10, "max_tokens": 9}, "min_tokens"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1] * 257}, "stop_token_ids"),
    ({"bad_words": "word"}, "bad_words"),
    ({"bad_words": ["x" * 257]}, "bad_words[0]"),
    ({"bad_words": ["x"] * 129}, "bad_words"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"n_predict": 0}, "n_predict"),
    ({"n_predict": 2, "min_tokens": 3}, "min_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"seed": 2**63}, "seed"),
    ({"stop": 7}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": ["a", 7]}, "stop[1]"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ({"logit_bias": {"one": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"priority": 2**31}, "priority"),
    ({"priority": "high"}, "priority"),
    ({"priority": 0.5}, "priority"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": 86_401}, "timeout"),
    ({"timeout": {"read": 5}}, "timeout"),
    ({"queue_timeout": -1}, "queue_timeout"),
    ({"encryption_key": "no base64"}, "encryption_key"),
    ({"encryption_key": ""}, "encryption_key"),
    ({"encryption_key": b64encode(bytes(31)).decode()}, "encryption_key"),
    ({"encryption_key": b64encode(bytes(33)).decode()}, "encryption_key"),
    ({"encryption_key": 7}, "encryption_key"),
    ({"speculative.type": "magic"}, "speculative.type"),
    ({"speculative.n_max": -1}, "speculative.n_max"),
    ({"speculative.n_max": 65}, "speculative.n_max"),
    ({"prediction": {"type": "content"}}, "prediction.content"),
    ({"prediction": {"type": "audio", "content": ""}}, "prediction.type"),
    ({"prediction": {"type": "content", "content": [{"type": "image"}]}}, "prediction.content[0].type"),
]


def test_wrong_types_and_ranges_name_their_field() -> None:
    async def test(server: Live) -> None:
        for fields, param in WRONG:
            answer = await server.ask("POST", CHAT, CHAT_FIELDS | fields)
            assert (answer.status, answer.error["param"]) == (400, param), fields
            assert answer.error["message"].startswith(f"{param}: ")

    run_live(test)


WRONG_COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"min_tokens": 17}, "min_tokens"),
]


def test_the_same_where_plain_completions_differ() -> None:
    async def test(server: Live) -> None:
        for fields, param in WRONG_COMPLETIONS:
            answer = await server.ask("POST", COMPLETIONS, {"model": "echo", "prompt": "x"} | fields)
            assert (answer.status, answer.error["param"]) == (400, param), fields
            assert answer.error["message"].startswith(f"{param}: ")

    run_live(test)


NUMBERS = [name for name in Sampling.__struct_fields__ if type(getattr(Sampling(), name)) in (int, float)]


@inside("a property of the decoder")
@given(st.sampled_from(NUMBERS), st.floats() | st.integers(-(2**70), 2**70) | st.sampled_from([True, "1", [], {}]))
def test_no_number_gets_in_that_llama_would_choke_on(field: str, value: Any) -> None:
    """JSON has no NaN, but other protocols may."""
    try:
        sampling = msgspec.convert({field: value}, Sampling)
    except msgspec.ValidationError:
        return
    accepted = getattr(sampling, field)
    assert type(accepted) in (int, float) and math.isfinite(accepted) and abs(accepted) < 2**31


def test_missing_fields_are_named() -> None:
    async def test(server: Live) -> None:
        for field in CHAT_FIELDS:
            fields = {name: value for name, value in CHAT_FIELDS.items() if name != field}
            answer = await server.ask("POST", CHAT, fields)
            assert (answer.status, answer.error["param"]) == (400, field)
            assert answer.error["message"] == f"{field}: this field is required"

    run_live(test)


@inside("a function by itself")
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a b", [Text("a b")]),
        (["a", "b"], [Text("a"), Text("b")]),
        ([1, 2], [Tokens([1, 2])]),
        ([[1, 2], [3]], [Tokens([1, 2]), Tokens([3])]),
    ],
)
def test_prompts_of_every_form(prompt: Any, expected: Any) -> None:
    assert prompts_of(msgspec.convert({"model": "m", "prompt": prompt}, CompletionRequest)) == expected


def test_prompts_of_no_form() -> None:
    wrong: list[Any] = [None, 7, [], [[]], ["a", 1], [1, [2]], [[1], "a"], [-1], [2**31], [1.5], [["a"]]]

    async def test(server: Live) -> None:
        for prompt in wrong:
            answer = await server.ask("POST", COMPLETIONS, {"model": "echo", "prompt": prompt})
            assert answer.status == 400 and answer.error["param"].startswith("prompt"), prompt

    run_live(test)


def test_too_many_choices() -> None:
    async def test(server: Live) -> None:
        body = {"model": "echo", "prompt": ["x"] * 64, "n": 3}
        answer = await server.ask("POST", COMPLETIONS, body)
        assert (answer.status, answer.error["param"]) == (400, "prompt")

    run_live(test)
