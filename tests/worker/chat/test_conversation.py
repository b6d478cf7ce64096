"""What a template has no place for is put where it has one; every form was met in a real template."""

import json
import re
from typing import Any

import msgspec
import pytest

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Chat, Message, Reasoning, Tool, ToolCall, ToolChoice
from shimmy.worker.chat.template import ChatTemplate
from tests.worker.chat.templates import text_of

SYSTEM, USER = Message("system", "Be brief."), Message("user", "Hi")
TOOL = Tool("weather", "Tells it", '{"type":"object","properties":{"city":{"type":"string"}}}')
CALL = ToolCall("call_0123456789", "weather", '{"city": "Bern"}')
OTHER = ToolCall("call_9876543210", "weather", '{"city": "Rome"}')
RESULT = Message("tool", "21", tool_call_id=CALL.id)
OTHER_RESULT = Message("tool", "30", tool_call_id=OTHER.id)
CALLING = Message("assistant", "", tool_calls=[CALL])
# Tells all that it is given.
PLAIN = "{# tool_calls #}{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ tools | tojson if tools }}"
# Nothing but what is said.
BARE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, bos_token="<s>", eos_token="</s>")


def turns(text: str, *messages: Message, **fields: Any) -> list[dict[str, Any]]:
    """The messages as `PLAIN`, or what looks like it, was given them."""
    rendered = template(text).render(Chat(list(messages), **fields))
    return [json.loads(line) for line in re.findall(r"\{.*\}$", rendered, re.M) if '"role"' in line]


def test_what_is_said_is_given_as_it_is() -> None:
    assert turns(PLAIN, SYSTEM, USER) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert turns(PLAIN, Message("user", "Hi", name="ann"))[0]["name"] == "ann"


def test_without_a_system_role_the_user_says_it() -> None:
    assert template(ALTERNATING).render(Chat([SYSTEM, USER])) == "<user>Be brief.\nHi"
    assert template(ALTERNATING).render(Chat([SYSTEM])) == "<user>Be brief."


def test_content_is_parts_where_it_must_be() -> None:
    parts = (
        "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    )
    parts += "{% endfor %}{% endfor %}"
    assert template(parts).capabilities.wants_parts
    assert template(parts).render(Chat([SYSTEM, USER])) == "<system>Be brief.<user>Hi"
    assert not template(BARE).capabilities.wants_parts


def test_tools_have_the_shape_that_templates_know() -> None:
    rendered = template(PLAIN).render(Chat([USER], [TOOL, Tool("nothing")]))
    function = {"name": "weather", "description": "Tells it", "parameters": json.loads(TOOL.parameters)}
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    assert json.loads(rendered.splitlines()[-1]) == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "nothing", "parameters": nothing}},
    ]


def test_tools_that_must_not_be_called_are_not_told() -> None:
    assert "weather" not in template(PLAIN).render(Chat([USER], [TOOL], tool_choice=ToolChoice("none")))
    template(BARE).render(Chat([USER], [TOOL], tool_choice=ToolChoice("none")))


def test_a_template_without_tools_has_them_in_the_system_message() -> None:
    def told(*messages: Message) -> str:
        return template(BARE).render(Chat(list(messages), [TOOL]), lambda tools: f"You have {tools[0].name}.")

    assert told(USER) == "<system>You have weather.<user>Hi<assistant>"
    assert told(SYSTEM, USER) == "<system>Be brief.\n\nYou have weather.<user>Hi<assistant>"
    with pytest.raises(Unsupported) as caught:
        template(BARE).render(Chat([USER], [TOOL]))
    assert caught.value.param == "tools"


def test_calls_and_results_belong_together() -> None:
    calling, result = turns(PLAIN, USER, CALLING, RESULT)[1:]
    function = {"name": "weather", "arguments": {"city": "Bern"}}
    assert calling["tool_calls"] == [{"id": CALL.id, "type": "function", "function": function}]
    assert result == {"role": "tool", "content": "21", "tool_call_id": CALL.id, "name": "weather"}


def test_calls_that_a_template_does_not_know_are_said() -> None:
    rendered = template(BARE).render(Chat([USER, Message("assistant", "Well.", tool_calls=[CALL])]))
    said = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert rendered == f"<user>Hi<assistant>Well.\n{said}<assistant>"


def test_results_that_a_template_does_not_know_are_the_users_all_in_one() -> None:
    calls = Message("assistant", "", tool_calls=[CALL, OTHER])
    rendered = template(ALTERNATING).render(Chat([USER, calls, RESULT, OTHER_RESULT, Message("assistant", "Warm")]))
    results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", rendered)
    assert [json.loads(result) for result in results] == [
        {"name": "weather", "content": "21"},
        {"name": "weather", "content": "30"},
    ]
    assert rendered.count("<user>") == 2


@pytest.mark.parametrize("arguments", ["", "{}", " "])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    calling = Message("assistant", "", tool_calls=[ToolCall("1", "weather", arguments)])
    assert turns(PLAIN, USER, calling, RESULT)[1]["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{", "[]", "7", '"{}"', "[" * 100_000])
def test_arguments_that_are_no_object_are_named(arguments: str) -> None:
    calling = Message("assistant", "", tool_calls=[ToolCall("1", "weather", arguments)])
    with pytest.raises(RequestError) as caught:
        turns(PLAIN, USER, calling)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_arguments_are_named_by_where_the_client_put_them() -> None:
    calling = Message("assistant", "", tool_calls=[CALL, ToolCall("1", "weather", "{")])
    for text in (BARE, ALTERNATING):
        with pytest.raises(RequestError) as caught:
            template(text).render(Chat([USER, calling], [TOOL]), lambda tools: "Call them.")
        assert caught.value.param == "messages[1].tool_calls[1].function.arguments"


@pytest.mark.model
def test_calls_side_by_side_come_one_by_one_where_a_model_knows_no_other() -> None:
    chat = Chat([USER, Message("assistant", "", tool_calls=[CALL, OTHER]), RESULT, OTHER_RESULT], [TOOL])
    rendered = template(text_of("meta-llama-Llama-3.1-8B-Instruct")).render(chat)
    places = [rendered.index(word) for word in ("Bern", "21", "Rome", "30")]
    assert places == sorted(places)


@pytest.mark.model
def test_results_belong_to_the_message_before_them() -> None:
    """Though its ids come again."""
    both = Message("assistant", "", tool_calls=[CALL, OTHER])
    later = [msgspec.structs.replace(result, content=f"now {result.content}") for result in (RESULT, OTHER_RESULT)]
    chat = Chat([USER, both, RESULT, OTHER_RESULT, USER, both, *later], [TOOL])
    text = text_of("meta-llama-Llama-3.1-8B-Instruct")
    rendered = template(text).render(chat)
    assert re.findall(r'^"(.*?)"', rendered, re.M) == ["21", "30", "now 21", "now 30"]


@pytest.mark.model
def test_ids_are_short_where_they_must_be() -> None:
    rendered = template(text_of("mistralai-Mistral-Nemo-Instruct-2407")).render(Chat([USER, CALLING, RESULT], [TOOL]))
    ids = re.findall(r'"(?:id|call_id)": "(\w+)"', rendered)
    assert len(ids) == 2 and len(set(ids)) == 1 and len(ids[0]) == 9


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "said"),
    [
        # Arguments as text, and null for a message that says nothing else.
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", '{"city": "Bern"}'),
        ("meetkai-functionary-medium-v3.2", '>>>weather\n{"city": "Bern"}'),
        ("Qwen3-Coder", "<parameter=city>\nBern\n</parameter>"),
        ("openai-gpt-oss-120b", "functions.weather"),
    ],
)
@pytest.mark.parametrize("text", ["", "Let me see."])
def test_calls_are_said_as_the_model_says_them(name: str, said: str, text: str) -> None:
    rendered = template(text_of(name)).render(
        Chat([USER, Message("assistant", text, reasoning="Hm.", tool_calls=[CALL]), RESULT], [TOOL]),
        lambda tools: "Call them.",
    )
    assert said in rendered and "21" in rendered and text in rendered


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Qwen-Qwen3-0.6B", "reasoning_content"),
        ("openai-gpt-oss-120b", "thinking"),
        ("upstage-Solar-Open-100B", "reasoning"),
        ("microsoft-Phi-3.5-mini-instruct", None),
    ],
)
def test_thoughts_go_by_the_name_that_a_template_has_for_them(name: str, key: str | None) -> None:
    assert template(text_of(name)).capabilities.reasoning_key == key


@pytest.mark.model
def test_thoughts_are_parts_where_they_must_be() -> None:
    ministral = template(text_of("mistralai-Ministral-3-14B-Reasoning-2512"))
    chat = Chat([USER, Message("assistant", "42", reasoning="Six by seven."), USER])
    assert "[THINK]Six by seven.[/THINK]42" in ministral.render(chat)


def test_how_to_think_is_told_only_if_somebody_said_it() -> None:
    seen = template(
        "{{ enable_thinking is defined }} {{ thinking is defined }} {{ reasoning_effort is defined }} "
        "{{ enable_thinking }} {{ thinking }} {{ reasoning_effort }}"
    )
    assert seen.render(Chat([USER])).startswith("False False False")
    assert seen.render(Chat([USER], reasoning=Reasoning(False, "low"))) == "True True True False False low"
    chat = Chat([USER], reasoning=Reasoning(False), template_kwargs={"enable_thinking": True})
    assert seen.render(chat).split()[3:5] == ["True", "False"]


def continued(text: str, *messages: Message) -> str:
    return template(text).render(Chat(list(messages), continue_final=True, add_generation_prompt=False))


@pytest.mark.parametrize("said", ["The sum is", "The sum is ", "a\n\n", "", "x <|im_end|> y"])
def test_what_was_said_is_gone_on_with(said: str) -> None:
    ended = BARE.replace("{% endfor %}", "</s>{% endfor %}")
    assert continued(ended, USER, Message("assistant", said)) == f"<user>Hi</s><assistant>{said}"


@pytest.mark.model
def test_a_thought_is_gone_on_with() -> None:
    text = continued(text_of("Qwen-Qwen3-0.6B"), USER, Message("assistant", "", reasoning="Six by"))
    assert text.endswith("<|im_start|>assistant\n<think>\nSix by")
    assert continued(text_of("Qwen-Qwen3-0.6B"), USER, Message("assistant", "42 is")).endswith("</think>\n\n42 is")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (BARE, [USER]),
        (BARE, []),
        (BARE, [USER, CALLING]),
        (BARE, [USER, Message("assistant", "", reasoning="Hm.")]),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", [USER, Message("assistant", "Well")]),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(text: str, messages: list[Message]) -> None:
    with pytest.raises(RequestError) as caught:
        continued(text, *messages)
    assert caught.value.param == "continue_final_message"


def test_nothing_is_asked_of_a_template_before_it_must_be() -> None:
    plain = template(PLAIN)
    assert "capabilities" not in vars(plain)
    plain.render(Chat([USER]))
    assert set(vars(plain.capabilities)) - {"_text", "_attempt"} <= {"wants_parts"}


def test_a_hostile_template_is_asked_for_a_short_time() -> None:
    hostile = template(
        "{{ messages[0].type }}{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    )
    capabilities = hostile.capabilities
    assert not capabilities.has_system_role and not capabilities.shows_calls
