"""How a model is told to think, and how its thoughts come back."""

from typing import Any

import pytest

from shimmy.core.request import Reasoning
from tests.protocols.openai.test_tools import chat_of, deltas
from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reasoning()),
        ({"reasoning_effort": "low"}, Reasoning(enabled=True, effort="low")),
        ({"reasoning_effort": "minimal"}, Reasoning(effort="minimal")),
        ({"reasoning_effort": "high", "enable_thinking": False}, Reasoning(enabled=False, effort="high")),
        ({"reasoning_effort": "high", "thinking_budget": 0}, Reasoning(enabled=False, effort="high", budget_tokens=0)),
        ({"reasoning_effort": "none"}, Reasoning(enabled=False)),
        ({"reasoning": {"effort": "high", "max_tokens": 5}}, Reasoning(enabled=True, effort="high", budget_tokens=5)),
        ({"reasoning": {"enabled": False}}, Reasoning(enabled=False)),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Reasoning(enabled=True, budget_tokens=9)),
        ({"thinking": {"type": "disabled"}}, Reasoning(enabled=False)),
        ({"enable_thinking": False}, Reasoning(enabled=False)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, Reasoning(enabled=False)),
        ({"thinking_budget_tokens": 7}, Reasoning(budget_tokens=7)),
        ({"thinking_token_budget": 7, "thinking_budget": 7}, Reasoning(budget_tokens=7)),
        ({"thinking_budget_tokens": -1}, Reasoning()),
        ({"thinking_budget": 0}, Reasoning(enabled=False, budget_tokens=0)),
        ({"reasoning_format": "none"}, Reasoning(is_raw=True)),
        ({"reasoning_format": "deepseek", "include_reasoning": True}, Reasoning()),
    ],
)
def test_how_to_think(fields: dict[str, Any], expected: Reasoning) -> None:
    async def test(server: Live) -> None:
        chat = await chat_of(server, **fields)
        assert chat.reasoning == expected
        assert chat.template_kwargs == fields.get("chat_template_kwargs", {})

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking"),
        ({"thinking_budget_tokens": 1, "thinking_budget": 2}, "thinking_budget"),
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"reasoning_format": "yaml"}, "reasoning_format"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"documents": 2**70}}, "chat_template_kwargs"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", CHAT, chat_body("hi", **fields))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", param)

    run_live(test)


def test_a_message_that_is_gone_on_with() -> None:
    async def test(server: Live) -> None:
        body: Any = {"messages": [{"role": "assistant", "content": "!request"}], "continue_final_message": True}
        assert (await chat_of(server, **body)).continue_final
        chat = await chat_of(server, add_generation_prompt=False)
        assert (chat.continue_final, chat.add_generation_prompt) == (False, False)

    run_live(test)


def test_thoughts_come_by_both_names_and_are_counted() -> None:
    async def test(server: Live) -> None:
        whole = (await server.chat("!think 2 one two three")).json()
        assert whole["choices"][0]["message"] == {
            "role": "assistant",
            "content": " three",
            "refusal": None,
            "reasoning_content": "one two",
            "reasoning": "one two",
        }
        assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
        _, *thoughts, _finish = await deltas(server, "!think 3 one two three")
        for choice in thoughts:
            delta = choice["delta"]
            assert list(delta) == ["reasoning_content", "reasoning"]
            assert delta["reasoning_content"] == delta["reasoning"]
        assert "".join(choice["delta"]["reasoning"] for choice in thoughts) == "one two three"

    run_live(test)


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_thoughts_can_be_left_out_but_are_counted(fields: dict[str, Any]) -> None:
    async def test(server: Live) -> None:
        whole = (await server.chat("!think 2 one two three", **fields)).json()
        assert list(whole["choices"][0]["message"]) == ["role", "content", "refusal"]
        assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
        _, *texts, _ = await deltas(server, "!think 2 one two three", **fields)
        assert "".join(choice["delta"]["content"] for choice in texts) == " three"

    run_live(test)


def test_tokens_of_thoughts_are_among_those_that_are_told() -> None:
    async def test(server: Live) -> None:
        whole = (await server.chat("!think 2 one two three", logprobs=True)).json()
        assert [each["token"] for each in whole["choices"][0]["logprobs"]["content"]] == ["one", " two", " three"]
        choices = await deltas(server, "!think 2 one two three", logprobs=True)
        told = [each["token"] for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]]
        assert told == ["one", " two", " three"]

    run_live(test)
