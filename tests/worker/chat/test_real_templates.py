"""Every template of a real model renders as it does with jinja2, set up as transformers does, whatever it is given."""

from collections.abc import Iterator
from typing import Any

import pytest

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.request import Chat, Message, Reasoning, Tool, ToolCall
from shimmy.worker.chat import conversation
from shimmy.worker.chat.template import ChatTemplate
from tests.worker.chat.templates import NAMES, Refused, jinja, text_of

pytestmark = pytest.mark.model

DIFFERENT = {
    "meetkai-functionary-medium-v3.1": "jinja2 escapes HTML in what is joined to a text that is called safe",
}
# Rendered by us where jinja2 fails.
MORE = {
    "llama-cpp-deepseek-r1": "makes JSON of what selectattr gives; llama.cpp, for which it is made, does too",
    "CohereForAI-c4ai-command-r-plus-tool_use": "goes through the tools, and there are none",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "goes through the tools, and there are none",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "goes through the tools, and there are none",
    "LFM2-8B-A1B": "makes JSON of a content that is not there",
    "LFM2.5-Instruct": "makes JSON of a content that is not there",
}
# Made for llama.cpp, which lets them.
GROWING_LISTS = {"Kimi-K2-Instruct", "Kimi-K2-Thinking"}

WEATHER = Tool(
    "get_weather",
    "Gets the wéather — 天気 <b>&'\" 🌦",
    '{"type":"object","properties":{"city":{"type":"string","description":"The \\"city\\""},"unit":{"type":"string",'
    '"enum":["c","f"],"default":"c"},"days":{"type":"integer"},"nested":{"type":"object","properties":{"a":{"type":'
    '["string","null"]},"list":{"type":"array","items":{"type":"number"}}}}},"required":["city"]}',
)
NOTHING = Tool("nothing", "Does nothing", '{"type":"object","properties":{}}')
TOOLS = [WEATHER, NOTHING]
SYSTEM = Message("system", "You are <b>brief</b> & 'kind'.")
USER, AGAIN = Message("user", "Hi\n"), Message("user", '  What is "2+2"? {{ x }} ')
ANSWER = Message("assistant", "Hello — 你好")
ARGUMENTS = '{"city":"Zürich <&>","days":3,"mixed":[1,2.5,null,true,{"k":"v"}],"quote":"a\'b\\"c\\n"}'
CALL, OTHER = ToolCall("call00001", "get_weather", ARGUMENTS), ToolCall("call00002", "nothing", "{}")
RESULT = Message("tool", '{"temp": 21}', tool_call_id="call00001")
OTHER_RESULT = Message("tool", "done", tool_call_id="call00002")
CALLING = Message("assistant", "", tool_calls=[CALL])
THINKING = Message("assistant", "42", reasoning="deep\nthought")

CHATS = {
    "one": Chat([USER]),
    "system": Chat([SYSTEM, USER]),
    "turns": Chat([SYSTEM, USER, ANSWER, AGAIN]),
    "turns without system": Chat([USER, ANSWER, AGAIN, ANSWER, USER]),
    "tools": Chat([SYSTEM, USER], TOOLS),
    "one tool": Chat([USER], [WEATHER]),
    "call": Chat([SYSTEM, USER, CALLING, RESULT], TOOLS),
    "call and go on": Chat([USER, CALLING, RESULT, ANSWER, AGAIN], TOOLS),
    "call with text": Chat([USER, Message("assistant", "Let me see.", tool_calls=[CALL]), RESULT], TOOLS),
    "calls": Chat([USER, Message("assistant", "", tool_calls=[CALL, OTHER]), RESULT, OTHER_RESULT], TOOLS),
    "call with thought": Chat([USER, Message("assistant", "", reasoning="Hm.\n", tool_calls=[CALL]), RESULT], TOOLS),
    "thought": Chat([USER, THINKING, AGAIN]),
    "thought at the end": Chat([USER, THINKING], add_generation_prompt=False),
    "thought in text": Chat([USER, Message("assistant", "<think>\nxx\n</think>\n\nyy"), AGAIN]),
    "think": Chat([USER], reasoning=Reasoning(True, "high")),
    "do not think": Chat([SYSTEM, USER], TOOLS, reasoning=Reasoning(False, "low")),
    "answered": Chat([USER, ANSWER]),
    "no prompt": Chat([SYSTEM, USER], TOOLS, add_generation_prompt=False),
    "twice": Chat([USER, USER, ANSWER, ANSWER]),
    "stranger": Chat([Message("critic", "x"), USER]),
    "nobody": Chat([]),
}
# As no client of ours can have it, and as a template may meet it elsewhere.
_CALLS = [{"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}]
RAW: dict[str, list[dict[str, Any]]] = {
    "arguments as text": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": _CALLS},
        {"role": "tool", "content": "ok", "tool_call_id": "call00001", "name": "get_weather"},
    ],
    "no content": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": _CALLS},
        {"role": "tool", "content": {"temp": 21}, "tool_call_id": "call00001"},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]}],
    "all names for thoughts": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "x", "reasoning_content": "r", "reasoning": "r", "thinking": "r"},
        {"role": "user", "content": "Hi"},
    ],
}


def template(name: str) -> ChatTemplate:
    return ChatTemplate(text_of(name), bos_token="<s>", eos_token="</s>")


def given(ours: ChatTemplate) -> Iterator[tuple[str, dict[str, Any]]]:
    """Variables; anew each time, because a template may change them."""
    for name, chat in CHATS.items():
        try:
            yield name, conversation.variables(chat, ours.capabilities, lambda tools: "Call tools so: ...")
        except RequestError as error:
            pytest.fail(f"{name}: {error}")
    for name, messages in RAW.items():
        yield name, {"messages": messages, "tools": None, "add_generation_prompt": True}


def test_they_are_there() -> None:
    assert len(NAMES) == 70, "make templates"


@pytest.mark.parametrize("name", NAMES)
def test_renders_as_jinja2_does(name: str) -> None:
    ours, theirs = template(name), jinja(text_of(name), grows_lists=name in GROWING_LISTS)
    different: list[object] = []
    more: list[object] = []
    for what, variables in given(ours):
        try:
            expected: str | None = theirs.render(variables)
        except Refused as refusal:
            with pytest.raises(RequestError, match="refuses the messages") as caught:
                ours._render(variables)
            assert caught.value.message.endswith(str(refusal))
            continue
        except Exception:
            expected = None
        try:
            text = ours._render(variables)
        except ModelInvalid:
            text = None
        if text != expected:
            (more if expected is None else different).append((what, text, expected))
    # What is said to deviate must, or it is time to say so no longer.
    assert bool(different) == (name in DIFFERENT), different
    assert bool(more) == (name in MORE), more
