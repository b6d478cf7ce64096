"""POST /tokenize, /detokenize, /apply-template and what counts a chat, over a fake worker: a character is a token."""

from typing import Any

import pytest

from tests.server.live import Live, run_live, with_settings

pytestmark = pytest.mark.program

USER = [{"role": "user", "content": "Hi"}]
COUNT = "/v1/chat/completions/input_tokens"


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/tokenize", {"content": "a<b"}, {"tokens": ids("a<b")}),
        ("/tokenize", {"content": "a<b", "add_special": True, "parse_special": False}, {"tokens": ids("^a?b")}),
        ("/tokenize", {"content": "é", "with_pieces": True}, {"tokens": [{"id": 233, "piece": "é"}]}),
        ("/tokenize", {"content": ""}, {"tokens": []}),
        (
            "/tokenize",
            {"model": "echo", "prompt": "ab"},
            {"count": 3, "max_model_len": 4096, "tokens": ids("^ab"), "token_strs": None},
        ),
        (
            "/tokenize",
            {"model": "echo", "prompt": "a", "add_special_tokens": False, "return_token_strs": True},
            {"count": 1, "max_model_len": 4096, "tokens": ids("a"), "token_strs": ["a"]},
        ),
        (
            "/tokenize",
            {"model": "echo", "messages": USER, "add_generation_prompt": False, "add_special_tokens": False},
            {"count": 4, "max_model_len": 4096, "tokens": ids("[Hi]"), "token_strs": None},
        ),
        ("/detokenize", {"tokens": ids("abc")}, {"content": "abc", "prompt": "abc"}),
        ("/detokenize", {"model": "echo", "tokens": []}, {"content": "", "prompt": ""}),
        ("/apply-template", {"messages": USER}, {"prompt": "[Hi]>"}),
        (COUNT, {"messages": USER}, {"object": "response.input_tokens", "input_tokens": len("[Hi]>")}),
        ("/apply-template", {"model": "echo", "messages": USER, "add_generation_prompt": False}, {"prompt": "[Hi]"}),
    ],
)
def test_answers(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", path, body)
        assert (answer.status, answer.json()) == (200, expected)

    run_live(test)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "content"),
        ("/tokenize", {"content": "a", "prompt": "a"}, 400, "content"),
        ("/tokenize", {"content": ["a"]}, 400, "content"),
        ("/tokenize", {"messages": [{"role": "wizard"}]}, 400, "messages[0].role"),
        ("/tokenize", {"content": "!fail invalid_request no"}, 400, None),
        ("/tokenize", {"model": "nobody", "content": "a"}, 404, "model"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": "abc"}, 400, "tokens"),
        ("/detokenize", {}, 400, "tokens"),
        ("/apply-template", {}, 400, "messages"),
        (COUNT, {"messages": []}, 400, "messages"),
        ("/apply-template", {"messages": USER, "chat_template_kwargs": {"messages": []}}, 400, None),
    ],
)
def test_what_is_wrong_is_named(path: str, body: dict[str, Any], status: int, param: str | None) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", path, body)
        assert answer.status == status
        assert param is None or answer.error["param"] == param

    run_live(test)


def test_a_model_must_be_named_where_there_are_several_until_one_is_loaded() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/tokenize", {"content": "a"})
        assert (answer.status, answer.error["param"]) == (400, "model")
        assert (await server.ask("POST", "/tokenize", {"model": "echo", "content": "a"})).status == 200
        assert (await server.ask("POST", "/tokenize", {"content": "a"})).status == 200

    run_live(test, "echo", "other")


def test_an_api_key_is_needed_there_too() -> None:
    async def test(server: Live) -> None:
        for path in ("/tokenize", "/detokenize", "/apply-template", "/infill"):
            assert (await server.ask("POST", path, {"content": "a"})).status == 401

    run_live(test, settings=with_settings(api_keys=("secret-key-of-some-length",)))


def test_a_worker_that_dies_of_a_question_is_told_and_replaced() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/tokenize", {"content": "!crash"})
        assert (answer.status, answer.error["code"]) == (502, "worker_lost")
        assert (await server.ask("POST", "/tokenize", {"content": "a"})).status == 200

    run_live(test)


def test_questions_are_answered_while_a_stream_runs() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            body = {"model": "echo", "messages": [{"role": "user", "content": "!stall 2"}], "stream": True}
            await client.request("POST", "/v1/chat/completions", body)
            await client.head()
            assert (await server.ask("POST", "/tokenize", {"content": "a"})).json() == {"tokens": [97]}

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"raise_exception": 1}}, "chat_template_kwargs.raise_exception"),
        ({"chat_template_kwargs": {"chat_template": "{{ 7 }}"}}, "chat_template_kwargs.chat_template"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs.bos_token"),
        ({"chat_template_kwargs": {"x" * 999: "x"}}, f"chat_template_kwargs.{'x' * 64}"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"documents": "x" * 300_000}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"documents": 2**80}}, "chat_template_kwargs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
    ],
)
def test_what_a_template_must_not_be_told(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        for path in ("/v1/chat/completions", "/v1/explain", "/apply-template", "/tokenize"):
            answer = await server.ask("POST", path, {"model": "echo", "messages": USER, **fields})
            assert answer.status in (400, 413), path
            assert answer.error["param"] == param, path

    run_live(test)


def test_variables_that_are_nested_too_deeply_never_reach_a_worker() -> None:
    async def test(server: Live) -> None:
        for depth in (40, 400, 50_000):
            nested = '{"model":"echo","messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"documents":'
            content = nested.encode() + b"[" * depth + b"]" * depth + b"}}"
            assert (await server.ask("POST", "/v1/chat/completions", content)).status == 400
        assert await server.say("!active") == "0"

    run_live(test)


def test_what_a_template_may_be_told_arrives() -> None:
    async def test(server: Live) -> None:
        kwargs = {"enable_thinking": False, "documents": [{"title": "t", "text": "x"}]}
        body = {"model": "echo", "messages": [{"role": "user", "content": "!request"}]}
        answer = await server.ask("POST", "/v1/chat/completions", body | {"chat_template_kwargs": kwargs})
        text = answer.json()["choices"][0]["message"]["content"]
        assert '"template_kwargs":{"enable_thinking":false,"documents":[{"title":"t","text":"x"}]}' in text
        answer = await server.ask("POST", "/v1/chat/completions", body | {"continue_final_message": True})
        text = answer.json()["choices"][0]["message"]["content"]
        assert '"continue_final":true,"add_generation_prompt":false' in text

    run_live(test)
