"""Answers of POST /v1/responses, whole and streamed, and as the official SDK reads them."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import APIError, OpenAI
from pydantic import BaseModel

from shimmy.core.errors import ContextOverflow, RequestError
from shimmy.protocols.openai.responses.request import in_our_words
from shimmy.protocols.openai.responses.wire import FunctionTool, ResponsesRequest, ToolField
from tests.protocols.openai.test_sdk import with_client
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
OPEN = ["response.created", "response.in_progress"]
MESSAGE = ["response.output_item.added", "response.content_part.added"]
MESSAGE_DONE = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


def asked(text: Any, /, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": text, **fields}


async def whole(server: Live, text: Any, /, **fields: Any) -> Any:
    answer = await server.ask("POST", PATH, asked(text, **fields))
    assert answer.status == 200, answer.body
    return answer.json()


async def streamed(server: Live, text: Any, /, **fields: Any) -> list[Any]:
    """The events; each is named as its data say, and they are numbered without a gap."""
    answer = await server.ask("POST", PATH, asked(text, stream=True, **fields))
    events = []
    for block in answer.body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def seen(server: Live, text: Any, /, **fields: Any) -> Any:
    """The Generation that the worker got."""
    messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
    given = [*messages, {"role": "user", "content": "!request"}]
    return json.loads((await whole(server, given, **fields))["output"][0]["content"][0]["text"])


def types(events: list[Any]) -> list[str]:
    """Those in a row that are alike count once: how many deltas there are depends on how fast they are read."""
    return [kind for kind, _ in itertools.groupby(event["type"] for event in events)]


def test_a_whole_answer() -> None:
    async def test(server: Live) -> None:
        answer = await whole(server, "one two three", max_output_tokens=2, metadata={"a": "b"}, store=True)
        assert answer["id"].startswith("resp_") and (answer["object"], answer["model"]) == ("response", "echo")
        (item,) = answer["output"]
        part = {"type": "output_text", "text": "one two", "annotations": [], "logprobs": []}
        assert (item["type"], item["role"], item["content"]) == ("message", "assistant", [part])
        assert (answer["status"], item["status"]) == ("incomplete", "incomplete")
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
        assert answer["usage"] == {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 5,
        }
        assert (answer["store"], answer["metadata"], answer["truncation"]) == (False, {"a": "b"}, "disabled")
        assert (await whole(server, "hi"))["status"] == "completed"

    run_live(test)


def test_the_order_of_a_stream() -> None:
    async def test(server: Live) -> None:
        events = await streamed(server, "one two")
        delta = "response.output_text.delta"
        assert types(events) == [*OPEN, *MESSAGE, delta, *MESSAGE_DONE, "response.completed"]
        assert "".join(event["delta"] for event in events if "delta" in event) == "one two"
        assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["usage"] is None
        assert events[-1]["response"]["output"] == [events[-2]["item"]]
        assert len({event["item_id"] for event in events if "item_id" in event}) == 1
        cut = await streamed(server, "one two", max_output_tokens=1)
        assert cut[-1]["type"] == "response.incomplete" and cut[-1]["response"]["usage"]["output_tokens"] == 1

    run_live(test)


def test_calls_are_items_of_their_own() -> None:
    async def test(server: Live) -> None:
        events = await streamed(server, '!call 2 {"a": 1}', tools=[TOOL])
        added = "response.output_item.added"
        delta = "response.function_call_arguments.delta"
        call = [added, delta, "response.function_call_arguments.done", "response.output_item.done"]
        text = [*MESSAGE, "response.output_text.delta", *MESSAGE_DONE]
        assert types(events) == [*OPEN, *text, *call, *call, "response.completed"]
        answer = await whole(server, '!call 2 {"a": 1}', tools=[TOOL])
        for output in (events[-1]["response"]["output"], answer["output"]):
            assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
            assert [item["call_id"] for item in output[1:]] == ["id0", "id1"]
            assert [(item["name"], item["arguments"]) for item in output[1:]] == [("f", '{"a": 1}')] * 2
        assert [event["output_index"] for event in events if event["type"] == added] == [0, 1, 2]

    run_live(test)


SPACE = {"type": "namespace", "name": "space", "description": "Some.", "tools": [TOOL]}


def test_functions_in_a_namespace_are_called_by_both_names() -> None:
    async def test(server: Live) -> None:
        (tool,) = (await seen(server, "", tools=[SPACE]))["prompt"]["tools"]
        assert tool["name"] == "space__f"
        answer = await whole(server, "!call 1 {}", tools=[SPACE])
        call = answer["output"][1]
        assert (call["name"], call["namespace"], answer["tools"][0]["tools"][0]["name"]) == ("f", "space", "f")
        events = await streamed(server, "!call 1 {}", tools=[SPACE])
        (done,) = [event for event in events if event["type"] == "response.function_call_arguments.done"]
        assert done["name"] == "f" and events[-1]["response"]["output"][1]["namespace"] == "space"
        called, _ = (await seen(server, [call]))["prompt"]["messages"]
        assert called["tool_calls"][0]["name"] == "space__f"

    run_live(test)


def test_a_search_that_is_offered_is_left_out_and_named() -> None:
    async def test(server: Live) -> None:
        searching = asked("!request", tools=[{"type": "web_search"}, TOOL])
        answer = await server.ask("POST", PATH, searching)
        assert answer.headers["x-shimmy-ignored"] == "tools[0]"
        assert [tool["type"] for tool in answer.json()["tools"]] == ["web_search", "function"]
        told = json.loads(answer.json()["output"][0]["content"][0]["text"])
        assert [tool["name"] for tool in told["prompt"]["tools"]] == ["f"]
        refused = await server.ask("POST", f"{PATH}?strict=1", asked("", tools=[{"type": "web_search"}]))
        assert (refused.status, refused.json()["error"]["param"]) == (400, "tools[0]")

    run_live(test)


def test_what_the_worker_says_of_a_tool_names_it_where_it_was() -> None:
    body = ResponsesRequest(
        model="m",
        input="",
        tools=[ToolField("web_search"), ToolField("namespace", "s", tools=[FunctionTool("function", "f")])],
    )
    said = RequestError("tools[0].function.parameters: no", param="tools[0].function.parameters")
    error = in_our_words(said, body)
    assert (error.param, error.message) == ("tools[1].tools[0].parameters", "tools[1].tools[0].parameters: no")


@pytest.mark.parametrize(
    ("reasoning", "kind", "shown"),
    [({}, "reasoning_text", "content"), ({"summary": "auto"}, "reasoning_summary_text", "summary")],
)
def test_thoughts(reasoning: Any, kind: str, shown: str) -> None:
    async def test(server: Live) -> None:
        fields = {"reasoning": reasoning, "include": ["reasoning.encrypted_content"]}
        events = await streamed(server, "!think 2 Hm. Well. Yes", **fields)
        assert f"response.{kind}.delta" in types(events) and f"response.{kind}.done" in types(events)
        thoughts, message = events[-1]["response"]["output"]
        assert thoughts[shown][0]["text"] == "Hm. Well." and message["content"][0]["text"] == " Yes"
        assert events[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
        # What is sent back unseen is what was thought.
        sealed = {"type": "reasoning", "summary": [], "encrypted_content": thoughts["encrypted_content"]}
        for item in (thoughts, sealed):
            _, turn, _ = (await seen(server, [{"role": "user", "content": "?"}, item, message]))["prompt"]["messages"]
            assert turn == {"role": "assistant", "content": " Yes", "reasoning": "Hm. Well."}
        hidden = await whole(server, "!think 2 Hm. Well. Yes", reasoning={"exclude": True})
        assert [item["type"] for item in hidden["output"]] == ["message"]

    run_live(test)


def test_logprobs() -> None:
    async def test(server: Live) -> None:
        fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
        answer = await whole(server, "one two", **fields)
        first, _ = answer["output"][0]["content"][0]["logprobs"]
        assert (first["token"], len(first["top_logprobs"])) == ("one", 2)
        deltas = [event for event in await streamed(server, "one two", **fields) if "delta" in event]
        assert [token["token"] for delta in deltas for token in delta["logprobs"]] == ["one", " two"]

    run_live(test)


def test_what_the_model_is_asked() -> None:
    async def test(server: Live) -> None:
        conversation = [
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hm", "annotations": []}],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c1",
                "name": "f",
                "arguments": "{}",
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "12"}]},
        ]
        fields = {
            "instructions": "Be brief.",
            "tools": [TOOL],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}},
            "reasoning": {"effort": "low"},
            "temperature": 0.5,
            "seed": 7,
        }
        generation = await seen(server, conversation, **fields)
        prompt = generation["prompt"]
        assert [(message["role"], message["content"]) for message in prompt["messages"][:4]] == [
            ("system", "Be brief.\n\nBe kind."),
            ("user", "Hi"),
            ("assistant", "Hm"),
            ("tool", "12"),
        ]
        assert prompt["messages"][2]["tool_calls"] == [{"id": "c1", "name": "f", "arguments": "{}"}]
        assert prompt["messages"][3]["tool_call_id"] == "c1"
        assert prompt["reasoning"] == {"enabled": True, "effort": "low"}
        assert prompt["tools"][0]["name"] == "f"
        assert generation["constraint"] == {
            "kind": "json_schema",
            "text": '{"type": "object"}',
            "field": "text.format.schema",
        }
        assert (generation["sampling"]["temperature"], generation["sampling"]["seed"]) == (0.5, 7)

    run_live(test)


USER = {"role": "user", "content": "hi"}
IMAGE = {"role": "user", "content": [{"type": "input_image"}]}
FORGED = {"type": "reasoning", "encrypted_content": "shimmy.!"}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
        ({"include": ["everything"]}, "invalid_request", "include[0]"),
        ({"tools": [{"type": "code_interpreter"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [SPACE | {"tools": [{"type": "custom"}]}]}, "unsupported_parameter", "tools[0].tools[0].type"),
        ({"tools": [SPACE | {"name": "n" * 128}]}, "invalid_request", "tools[0].tools[0].name"),
        ({"tools": [SPACE, SPACE]}, "invalid_request", "tools[1].tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "invalid_request", "tools[1].name"),
        ({"tools": [TOOL | {"parameters": {"type": "array"}}]}, "invalid_request", "tools[0].parameters"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "invalid_request", "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "unsupported_parameter", "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "unsupported_parameter", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "invalid_request", "text.format.schema"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_parameter", "input[0].type"),
        ({"input": [USER, {"type": "computer_call"}]}, "unsupported_parameter", "input[1].type"),
        ({"input": [IMAGE]}, "unsupported_parameter", "input[0].content[0].type"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "invalid_request", "input[0].call_id"),
        ({"input": [FORGED]}, "invalid_request", "input[0].encrypted_content"),
        ({"input": []}, "invalid_request", "input"),
        ({"max_output_tokens": 0}, "invalid_request", "max_output_tokens"),
        ({"truncation": "middle"}, "invalid_request", "truncation"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", PATH, asked("hi") | fields)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)

    run_live(test)


@pytest.mark.parametrize(
    ("param", "message", "ours", "said"),
    [
        ("messages", "too long", "input", "too long"),
        ("messages[1].content", "messages[1].content: no", "input[1].content", "input[1].content: no"),
        ("tools[0].function.parameters", "tools[0].function.parameters: no", "tools[0].parameters", None),
        (None, "no", None, "no"),
    ],
)
def test_what_the_worker_says_is_said_in_the_names_of_here(
    param: str | None, message: str, ours: str | None, said: str | None
) -> None:
    body = ResponsesRequest(model="m", input="", tools=[ToolField("function", "f")])
    error = in_our_words(ContextOverflow(message, param=param, context_length=7), body)
    assert isinstance(error, ContextOverflow) and error.details == {"context_length": 7}
    assert (error.param, error.message) == (ours, said or "tools[0].parameters: no")


def test_nothing_is_stored() -> None:
    async def test(server: Live) -> None:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            answer = await server.ask(method, f"{PATH}/resp_1{path}", {})
            assert answer.status == 404 and "not stored" in answer.error["message"]
        counted = await server.ask("POST", f"{PATH}/input_tokens", asked("hi"))
        assert counted.json() == {"object": "response.input_tokens", "input_tokens": 5}

    run_live(test)


@pytest.mark.parametrize(
    ("text", "code", "kept"),
    [
        ("!crash SIGKILL 2", "worker_lost", ["message"]),
        ("!crash-call", "worker_lost", ["function_call"]),
        ("!break queue_full later", "queue_full", ["message"]),
    ],
)
def test_a_stream_that_fails_says_so_twice(text: str, code: str, kept: list[str]) -> None:
    async def test(server: Live) -> None:
        *_, error, failed = await streamed(server, text, tools=[TOOL])
        assert (error["type"], error["code"], error["error"]["code"]) == ("error", code, code)
        assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
        assert failed["response"]["error"]["message"] == error["message"]
        assert [(item["type"], item["status"]) for item in failed["response"]["output"]] == [(kept[0], "incomplete")]

    run_live(test)


def test_an_error_before_the_first_event_has_its_status() -> None:
    async def test(server: Live) -> None:
        for stream in (False, True):
            answer = await server.ask("POST", PATH, asked("!fail invalid_request bad", stream=stream))
            assert (answer.status, answer.error["message"]) == (400, "bad")

    run_live(test)


def sdk(test: Callable[[OpenAI], None]) -> None:
    with_client(test)


@pytest.mark.slow
def test_the_sdk() -> None:
    def test(client: OpenAI) -> None:
        answer = client.responses.create(model="echo", input="one two")
        assert answer.output_text == "one two" and answer.usage is not None and answer.usage.total_tokens == 4
        events = list(client.responses.create(model="echo", input="one two", stream=True))
        assert events[-1].type == "response.completed" and events[-1].response.output_text == "one two"
        with client.responses.stream(model="echo", input="!think 1 Hm. Yes") as stream:
            final = stream.get_final_response()
        assert final.output_text == " Yes" and [item.type for item in final.output] == ["reasoning", "message"]

    sdk(test)


@pytest.mark.slow
def test_the_sdk_sends_back_what_it_got() -> None:
    def test(client: OpenAI) -> None:
        tools: Any = [TOOL | {"strict": False}]
        with client.responses.stream(model="echo", input='!call 1 {"a": 1}', tools=tools) as stream:
            first = stream.get_final_response()
        (call,) = (item for item in first.output if item.type == "function_call")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "12"}
        given: Any = [*first.output, result, {"role": "user", "content": "!request"}]
        raw = client.responses.with_raw_response.create(model="echo", input=given, tools=tools)
        generation = json.loads(raw.parse().output_text)
        turn, said, _ = generation["prompt"]["messages"]
        assert turn["tool_calls"] == [{"id": "id0", "name": "f", "arguments": '{"a": 1}'}]
        assert (said["tool_call_id"], said["content"]) == ("id0", "12")

    sdk(test)


class Answer(BaseModel):
    a: int


@pytest.mark.slow
def test_the_sdk_parses_what_must_be_json() -> None:
    def test(client: OpenAI) -> None:
        parsed = client.responses.parse(model="echo", input='!say {"a":1}', text_format=Answer)
        assert parsed.output_parsed == Answer(a=1)

    sdk(test)


@pytest.mark.slow
def test_the_sdk_raises_what_breaks() -> None:
    def test(client: OpenAI) -> None:
        with pytest.raises(APIError) as caught:
            list(client.responses.create(model="echo", input="!crash SIGKILL 1", stream=True))
        assert caught.value.code == "worker_lost"

    sdk(test)
