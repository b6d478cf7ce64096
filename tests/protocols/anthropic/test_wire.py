"""What clients may send: what becomes of it, and how what is wrong is named."""

from typing import Any

import pytest

from tests.protocols.anthropic.exchange import COUNT, MESSAGES, TOOL, body, error_of, generation
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program

ASKED = {"role": "user", "content": "!request"}
URL_IMAGE = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:9/x.png"}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}, "title": "t"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"b": 1, "a": [2.0]}}
EFFORT = {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object", "properties": {"z": {}}}}}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content, "cache_control": {"type": "ephemeral"}, "citations": None}


def result(content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}


def test_turns_become_messages() -> None:
    async def test(server: Live) -> None:
        thought = {"type": "thinking", "thinking": "hm", "signature": "any"}
        redacted = {"type": "redacted_thinking", "data": "xx"}
        asked = await generation(
            server,
            {
                "system": [text("be"), text("brief")],
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "user", "content": [text("there"), text("you")]},
                    {"role": "assistant", "content": [thought, redacted, text("I "), CALL, text("call")]},
                    {"role": "user", "content": [text("also"), result([text("12"), text("C")])]},
                    {"role": "assistant", "content": [CALL]},
                    {"role": "user", "content": [result("no", is_error=True)]},
                    {"role": "system", "content": "now"},
                    {"role": "user", "content": [result(None), text("!request")]},
                ],
            },
        )
        call = {"id": "toolu_1", "name": "f", "arguments": '{"b":1,"a":[2.0]}'}
        assert asked["prompt"]["messages"] == [
            {"role": "system", "content": "be\nbrief"},
            {"role": "user", "content": "hi\nthere\nyou"},
            {"role": "assistant", "content": "I call", "reasoning": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "12\nC", "tool_call_id": "toolu_1"},
            {"role": "user", "content": "also"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "Error: no", "tool_call_id": "toolu_1"},
            {"role": "system", "content": "now"},
            {"role": "tool", "content": "", "tool_call_id": "toolu_1"},
            {"role": "user", "content": "!request"},
        ]
        assert "continue_final" not in asked["prompt"]

    run_live(test)


def test_an_assistant_s_last_turn_is_gone_on_with() -> None:
    async def test(server: Live) -> None:
        last = {"role": "assistant", "content": "!request"}
        prompt = (await generation(server, {"messages": [{"role": "user", "content": "x"}, last]}))["prompt"]
        assert (prompt["continue_final"], prompt["add_generation_prompt"]) == (True, False)

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"enabled": False}),
        ({"thinking": {"type": "disabled"}}, {"enabled": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"enabled": True, "budget_tokens": 1024}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"effort": "low"}),
    ],
)
def test_how_to_think(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    async def test(server: Live) -> None:
        asked = await generation(server, {"messages": [ASKED], **fields})
        assert asked["prompt"].get("reasoning", {}) == expected

    run_live(test)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"parallel": False}),
        ({"type": "any"}, {"mode": "required"}),
        ({"type": "tool", "name": "f"}, {"mode": "required", "name": "f", "parallel": False}),
        ({"type": "none"}, {"mode": "none"}),
    ],
)
def test_tools_and_their_choice(choice: Any, expected: dict[str, Any]) -> None:
    async def test(server: Live) -> None:
        tool = TOOL | {"type": "custom", "cache_control": {"type": "ephemeral"}, "strict": True}
        prompt = (await generation(server, {"messages": [ASKED], "tools": [tool], "tool_choice": choice}))["prompt"]
        assert prompt.get("tool_choice", {}) == expected
        shown = {"name": "f", "description": "does f", "parameters": '{"type": "object"}', "strict": True}
        assert [shown | given for given in prompt["tools"]] == [shown | {"parameters": '{"type": "object"}'}]

    run_live(test)


def test_other_fields_arrive_or_are_ignored() -> None:
    async def test(server: Live) -> None:
        sampled = {"temperature": 0.5, "top_k": 7, "top_p": 0.25, "min_p": 0.125, "seed": 3}
        ignored: dict[str, Any] = {"service_tier": "auto", "mcp_servers": [], "container": None, "speed": "fast"}
        ignored |= {"metadata": {"user_id": "u"}, "context_management": {"edits": []}, "unknown": 1}
        asked = await generation(server, {"messages": [ASKED], "stop_sequences": ["", "x"], **sampled, **ignored})
        assert asked["sampling"] == sampled and asked["stop"] == ["x"] and asked["max_tokens"] == 10

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_config": EFFORT}, "output_config.format.schema"),
        ({"output_format": EFFORT["format"]}, "output_format.schema"),
    ],
)
def test_a_format_is_a_constraint(fields: dict[str, Any], field: str) -> None:
    async def test(server: Live) -> None:
        text = '{"type": "object", "properties": {"z": {}}}'
        asked = await generation(server, {"messages": [ASKED], **fields})
        assert asked["constraint"] == {"kind": "json_schema", "text": text, "field": field}

    run_live(test)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [ASKED, {"role": "user", "content": [text("x"), URL_IMAGE]}]}, "messages[1].content[1].type"),
    ({"messages": [{"role": "user", "content": [DOCUMENT]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [CALL]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [result([URL_IMAGE])]}]}, "messages[0].content[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [result(5)]}]}, "messages[0].content[0].content"),
    ({"messages": [{"role": "user", "content": [result([{"type": 5}])]}]}, "messages[0].content[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "f"}]}]},
        "messages[0].content[0].input",
    ),
    ({"messages": [{"role": "assistant", "content": [CALL | {"input": "{}"}]}]}, "messages[0].content[0].input"),
    ({"system": 5}, "system"),
    ({"system": [URL_IMAGE]}, "system[0].type"),
    ({"temperature": 1.5}, "temperature"),
    ({"top_p": "x"}, "top_p"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"stream": "yes"}, "stream"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [TOOL | {"input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
    ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name"),
    ({"tools": [TOOL | {"description": "x" * 300_000}]}, "tools"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": {"type": "must"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "maybe"}}, "thinking.type"),
    ({"output_config": EFFORT, "output_format": EFFORT["format"]}, "output_format"),
    ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
    ({"output_format": {"type": "json_schema", "schema": {"x": "y" * 70_000}}}, "output_format.schema"),
    ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
]
ONLY_WHERE_ANSWERED = {"max_tokens", "temperature", "top_p", "stop_sequences", "stream", "output_format"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_is_wrong_is_named(stream: bool) -> None:
    async def test(server: Live) -> None:
        for fields, field in WRONG:
            answer = await server.ask("POST", MESSAGES, body("x") | {"stream": stream} | fields)
            status, kind, message = error_of(answer)
            assert (status, kind) == (400, "invalid_request_error"), fields
            assert message.startswith(f"{field}: "), (fields, message)

    run_live(test)


def test_a_count_refuses_what_makes_no_prompt() -> None:
    async def test(server: Live) -> None:
        for fields, field in WRONG:
            if field.split(".")[0] not in ONLY_WHERE_ANSWERED:
                _, _, message = error_of(await server.ask("POST", COUNT, body("x") | fields))
                assert message.startswith(f"{field}: "), (fields, message)

    run_live(test)
