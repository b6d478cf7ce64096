"""The official Anthropic SDK against the real program and the real demo model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.program import DEMO_ID, Program

anthropic = pytest.importorskip("anthropic", reason="the anthropic SDK is not installed (make setup installs it)")

pytestmark = [pytest.mark.model, pytest.mark.program]

TOKYO: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
FIELDS: dict[str, Any] = {"model": DEMO_ID, "max_tokens": 30, "messages": TOKYO}
# The SDK no longer knows it.
FIELDS["extra_body"] = {"temperature": 0}
TOOL: Any = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(server: Program) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as made:
        yield made


def test_a_message_whole_and_streamed_with_real_counts(client: Any) -> None:
    whole = client.messages.create(**FIELDS)
    with client.messages.stream(**FIELDS) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        assert [block.text for block in answer.content] == ["The capital of Japan is Tokyo."]
        assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 7)
        assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == 37
    assert streamed.usage.cache_read_input_tokens > 0


def test_a_count_is_that_of_the_answer(client: Any) -> None:
    asked = {"model": DEMO_ID, "messages": TOKYO}
    assert client.messages.count_tokens(**asked).input_tokens == 37
    assert client.messages.count_tokens(**asked, tools=[TOOL]).input_tokens > 60
    assert client.messages.count_tokens(**asked, system="Be brief.").input_tokens != 37


def test_an_answer_that_was_begun_is_gone_on_with(client: Any) -> None:
    begun = [*TOKYO, {"role": "assistant", "content": "The capital of Japan is"}]
    answer = client.messages.create(**{**FIELDS, "messages": begun})
    assert answer.content[0].text.strip() == "Tokyo."


def test_a_stop_sequence_and_a_length(client: Any) -> None:
    answer = client.messages.create(**FIELDS, stop_sequences=["Japan"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Japan")
    assert client.messages.create(**{**FIELDS, "max_tokens": 3}).stop_reason == "max_tokens"


def test_a_call_that_must_come_and_its_result(client: Any) -> None:
    asked = {**FIELDS, "max_tokens": 100, "tools": [TOOL]}
    asked["messages"] = [{"role": "user", "content": "What is the weather in Paris?"}]
    choice = {"type": "tool", "name": "get_weather"}
    whole = client.messages.create(**asked, tool_choice=choice)
    with client.messages.stream(**asked, tool_choice=choice) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        (call,) = answer.content
        assert answer.stop_reason == "tool_use" and call.name == "get_weather" and list(call.input) == ["city"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees"}
    asked["messages"] += [{"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    final = client.messages.create(**asked, tool_choice={"type": "none"})
    assert [block.type for block in final.content] == ["text"]


def test_an_answer_of_a_schema(client: Any) -> None:
    schema = {**TOOL["input_schema"]}
    answer = client.messages.create(**FIELDS, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert list(json.loads(answer.content[0].text)) == ["city"]


def test_what_the_worker_refuses_is_named_as_here(client: Any) -> None:
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"not": {}}}}}
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\].input_schema"):
        client.messages.create(**FIELDS, tools=[tool], tool_choice={"type": "any"})
    with pytest.raises(anthropic.BadRequestError, match="2048"):
        client.messages.create(**{**FIELDS, "messages": [{"role": "user", "content": "word " * 4000}]})
