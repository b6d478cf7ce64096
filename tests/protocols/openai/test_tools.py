"""Tools of a chat request, and calls in its answers: whole, streamed, cut, doubted, in OpenAI's older form."""

import asyncio
import json
import signal
from typing import Any

import msgspec
import pytest
from openai import APIError, OpenAI

from shimmy.core.request import Chat, Message, Tool, ToolCall, ToolChoice
from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program

CHAT = "/v1/chat/completions"
ARGUMENTS = '{"city": "New York"}'
CALLS = f"!call 2 {ARGUMENTS}"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "Weather", "parameters": CITY}}


async def chat_of(server: Live, **fields: Any) -> Chat:
    answer = await server.ask("POST", CHAT, chat_body("!request", **fields))
    assert answer.status == 200, answer.error
    asked = msgspec.json.decode(answer.json()["choices"][0]["message"]["content"])
    return msgspec.convert(asked["prompt"], Chat)


async def deltas(server: Live, prompt: str, **fields: Any) -> list[dict[str, Any]]:
    events = await server.stream(CHAT, chat_body(prompt, **fields))
    assert events[-1] == "[DONE]"
    return [choice for event in events[:-1] for choice in event["choices"]]


def test_tools_reach_the_worker_as_they_were_sent() -> None:
    async def test(server: Live) -> None:
        chat = await chat_of(server, tools=[TOOL, {"type": "function", "function": {"name": "g", "strict": True}}])
        first, second = chat.tools
        assert (first.name, first.description, json.loads(first.parameters)) == ("f", "Weather", CITY)
        assert second == Tool("g", strict=True)
        assert chat.tool_choice == ToolChoice()

    run_live(test)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_of_tools_that_are_not_allowed_the_model_does_not_learn(mode: str) -> None:
    async def test(server: Live) -> None:
        chat = await chat_of(server, tools=[TOOL, FIRST], tool_choice=allowed(mode, FIRST))
        assert [tool.name for tool in chat.tools] == ["first"] and chat.tool_choice.mode == mode

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tool_choice": "none"}, ToolChoice("none")),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, ToolChoice("auto", parallel=False)),
        ({"tool_choice": "required", "parallel_tool_calls": True}, ToolChoice("required")),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, ToolChoice("required", "f", parallel=False)),
        ({"tools": None, "functions": [TOOL["function"]]}, ToolChoice(parallel=False)),
        (
            {"tools": None, "functions": [TOOL["function"]], "function_call": {"name": "f"}},
            ToolChoice("required", "f", parallel=False),
        ),
    ],
)
def test_whether_a_tool_may_or_must_be_called(fields: dict[str, Any], expected: ToolChoice) -> None:
    async def test(server: Live) -> None:
        assert (await chat_of(server, **{"tools": [TOOL], **fields})).tool_choice == expected

    run_live(test)


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def allowed(mode: str, *tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


PARAMETERS = "tools[1].function.parameters"
FIRST = {"type": "function", "function": {"name": "first"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [FIRST, {"type": "function"}]}, "tools[1].function"),
        ({"tools": [FIRST, {"type": "function", "function": {}}]}, "tools[1].function.name"),
        ({"tools": [FIRST, tool(name="")]}, "tools[1].function.name"),
        ({"tools": [FIRST, tool(name="a b")]}, "tools[1].function.name"),
        ({"tools": [FIRST, tool(name="f\n")]}, "tools[1].function.name"),
        ({"tools": [FIRST, tool(name="x" * 129)]}, "tools[1].function.name"),
        ({"tools": [FIRST, tool(name="first")]}, "tools[1].function.name"),
        ({"tools": [FIRST, tool(description=1)]}, "tools[1].function.description"),
        ({"tools": [FIRST, tool(parameters="{}")]}, PARAMETERS),
        ({"tools": [FIRST, tool(parameters=[])]}, PARAMETERS),
        ({"tools": [FIRST, tool(parameters={"type": "string"})]}, PARAMETERS),
        ({"tools": [FIRST, tool(parameters={"properties": []})]}, PARAMETERS),
        ({"tools": [FIRST, tool(parameters={"required": "city"})]}, PARAMETERS),
        ({"tools": [FIRST, tool(parameters=nested(100))]}, PARAMETERS),
        ({"tools": [FIRST, tool(parameters={"enum": ["x" * 100] * 1000})]}, PARAMETERS),
        ({"tools": [tool(name=f"f{number}") for number in range(129)]}, "tools"),
        ({"tools": [tool(name=f"f{number}", description="x" * 9000) for number in range(100)]}, "tools"),
        ({"tools": [tool()], "functions": [{"name": "g"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any", "tools": [tool()]}, "tool_choice"),
        ({"tool_choice": {"type": "function"}, "tools": [tool()]}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [tool()]}, "tool_choice.allowed_tools"),
        ({"tool_choice": allowed("auto", FIRST), "tools": [tool()]}, "tool_choice.allowed_tools.tools[0]"),
        ({"tool_choice": allowed("required"), "tools": [tool()]}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [tool()]},
            "tool_choice.function.name",
        ),
        ({"function_call": {"name": "g"}, "functions": [{"name": "f"}]}, "function_call.name"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_what_is_no_tool_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", CHAT, chat_body("hi", **fields))
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", param)
        assert len(answer.error["message"]) < 400

    run_live(test)


def test_tools_that_are_nested_without_end_are_refused() -> None:
    async def test(server: Live) -> None:
        deep = '{"properties":' * 50_000 + "{}" + "}" * 50_000
        body = '{"model":"echo","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":'
        answer = await server.ask("POST", CHAT, (body + '{"name":"f","parameters":' + deep + "}}]}").encode())
        assert answer.status == 400
        assert (await server.chat("still here")).status == 200

    run_live(test)


def test_earlier_calls_and_their_answers() -> None:
    call = {"id": "a1", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "a1", "content": "12 C"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"city": "Rome"}}}]},
        {"role": "assistant", "function_call": {"name": "g", "arguments": ""}, "reasoning": "Well."},
        {"role": "function", "name": "g", "content": "no"},
        {"role": "user", "content": "!request"},
    ]

    async def test(server: Live) -> None:
        assert (await chat_of(server, messages=messages)).messages == [
            Message("assistant", "", reasoning="Hm.", tool_calls=[ToolCall("a1", "f", ARGUMENTS)]),
            Message("tool", "12 C", tool_call_id="a1"),
            Message("assistant", "", tool_calls=[ToolCall("call_2_0", "f", '{"city":"Rome"}')]),
            Message("assistant", "", reasoning="Well.", tool_calls=[ToolCall("call_3", "g", "{}")]),
            Message("tool", "no", "g", tool_call_id="call_3"),
            Message("user", "!request"),
        ]

    run_live(test)


def test_calls_of_a_whole_answer() -> None:
    async def test(server: Live) -> None:
        (choice,) = (await server.chat(CALLS, tools=[TOOL])).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"] == {
            "role": "assistant",
            "content": "calling",
            "refusal": None,
            "tool_calls": [
                {"id": f"id{at}", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
                for at in (0, 1)
            ],
        }

    run_live(test)


def test_calls_of_a_stream() -> None:
    """What begins a call has its id and name, nothing after it has them, and the reason comes alone at the end."""

    async def test(server: Live) -> None:
        role, text, *calls, finish = await deltas(server, CALLS, tools=[TOOL])
        assert role["delta"] == {"role": "assistant", "content": ""} and text["delta"] == {"content": "calling"}
        assert (finish["delta"], finish["finish_reason"]) == ({}, "tool_calls")
        arguments = {0: "", 1: ""}
        for choice in calls:
            (delta,) = choice["delta"]["tool_calls"]
            if "id" in delta:
                index = delta["index"]
                function = {"name": "f", "arguments": ""}
                assert delta == {"index": index, "id": f"id{index}", "type": "function", "function": function}
            else:
                assert list(delta) == ["index", "function"] and list(delta["function"]) == ["arguments"]
            arguments[delta["index"]] += delta["function"]["arguments"]
        assert arguments == {0: ARGUMENTS, 1: ARGUMENTS}
        assert sum("id" in choice["delta"]["tool_calls"][0] for choice in calls) == 2

    run_live(test)


def test_without_text_the_content_is_null() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, chat_body("!stall-call", tools=[TOOL], stream=True))
            await client.head()
            async for event in client.data():
                if event["choices"][0]["delta"].get("tool_calls", [{}])[0].get("function", {}).get("arguments"):
                    break
        await server.until_logged("abort chatcmpl-")
        await server.until_active(0)
        (choice,) = (await server.chat(f"!call 1 {ARGUMENTS}", tools=[TOOL], max_tokens=4)).json()["choices"]
        # Cut: what came of the call is there, and the reason says so.
        assert choice["finish_reason"] == "length"
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "New'

    run_live(test)


def test_a_function_in_the_older_form() -> None:
    async def test(server: Live) -> None:
        fields = {"functions": [TOOL["function"]]}
        (choice,) = (await server.chat(f"!call 1 {ARGUMENTS}", **fields)).json()["choices"]
        assert choice["finish_reason"] == "function_call"
        assert choice["message"]["function_call"] == {"name": "f", "arguments": ARGUMENTS}
        assert "tool_calls" not in choice["message"]
        *choices, finish = await deltas(server, f"!call 1 {ARGUMENTS}", **fields)
        assert finish["finish_reason"] == "function_call"
        calls = [choice["delta"]["function_call"] for choice in choices if "function_call" in choice["delta"]]
        assert [call.get("name") for call in calls] == ["f"] + [None] * (len(calls) - 1)
        assert "".join(call["arguments"] for call in calls) == ARGUMENTS

    run_live(test)


def test_what_could_not_be_read_is_content_with_a_warning() -> None:
    async def test(server: Live) -> None:
        prompt = '!doubt <tool_call>{"name": oops}</tool_call>'
        (choice,) = (await server.chat(prompt, tools=[TOOL])).json()["choices"]
        assert choice["message"]["content"] == '<tool_call>{"name": oops}</tool_call>'
        assert (choice["finish_reason"], choice["warning"]) == ("stop", "a call is not valid JSON")
        assert (await deltas(server, prompt, tools=[TOOL]))[-1]["warning"] == "a call is not valid JSON"
        assert "warning" not in (await server.chat("hi", tools=[TOOL])).json()["choices"][0]

    run_live(test)


def test_a_worker_that_dies_within_a_call_ends_the_stream_with_an_error() -> None:
    async def test(server: Live) -> None:
        def in_thread() -> None:
            with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
                body: Any = chat_body("!crash-call", tools=[TOOL], stream=True)
                with pytest.raises(APIError) as caught:
                    for chunk in client.chat.completions.create(**body):
                        assert chunk.choices[0].finish_reason is None
                assert caught.value.code == "worker_lost"
                assert signal.SIGKILL.name in str(caught.value)

        await asyncio.to_thread(in_thread)

    run_live(test)


def test_the_sdk_puts_calls_together() -> None:
    async def test(server: Live) -> None:
        def in_thread() -> None:
            with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
                fields: Any = {"model": "echo", "messages": [{"role": "user", "content": CALLS}], "tools": [TOOL]}
                whole = client.chat.completions.create(**fields).choices[0].message
                with client.chat.completions.stream(**fields) as stream:
                    for _ in stream:
                        pass
                    streamed = stream.get_final_completion().choices[0].message
                assert whole.tool_calls and streamed.tool_calls
                for each in (whole.tool_calls, streamed.tool_calls):
                    assert [(call.id, call.function.arguments) for call in each if call.type == "function"] == [
                        ("id0", ARGUMENTS),
                        ("id1", ARGUMENTS),
                    ]

        await asyncio.to_thread(in_thread)

    run_live(test)
