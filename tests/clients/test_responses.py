"""The official SDK's Responses API against the real program and the real demo model."""

import json
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.program import DEMO_ID

pytestmark = [pytest.mark.model, pytest.mark.program]

WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
NAMED: Any = {"type": "function", "name": "get_weather"}


class Capital(BaseModel):
    city: str = Field(max_length=20)
    continent: Literal["Asia", "Europe"]


def test_an_answer_whole_and_streamed(client: OpenAI) -> None:
    fields: Any = {
        "model": DEMO_ID,
        "input": "What is the capital of Japan?",
        "temperature": 0,
        "max_output_tokens": 30,
    }
    answer = client.responses.create(**fields)
    assert (answer.output_text, answer.status) == ("The capital of Japan is Tokyo.", "completed")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (37, 7)
    with client.responses.stream(**fields) as stream:
        assert stream.get_final_response().output_text == answer.output_text
    counted = client.responses.input_tokens.count(model=DEMO_ID, input=fields["input"])
    assert counted.input_tokens == 37


def test_a_function_is_called_and_its_output_goes_back(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "tools": [TOOL], "temperature": 0, "max_output_tokens": 60}
    first = client.responses.create(**fields, input=WEATHER, tool_choice=NAMED)
    (call,) = (item for item in first.output if item.type == "function_call")
    assert call.name == "get_weather" and set(json.loads(call.arguments)) == {"city"}
    with client.responses.stream(**fields, input=WEATHER, tool_choice=NAMED) as stream:
        (same,) = (item for item in stream.get_final_response().output if item.type == "function_call")
    assert same.arguments == call.arguments
    said: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    given: Any = [*WEATHER, *first.output, said]
    final: Any = client.responses.create(**fields, input=given, tool_choice="none")
    assert final.output_text and all(item.type == "message" for item in final.output)


def test_a_schema_is_met(client: OpenAI) -> None:
    fields: Any = {"model": DEMO_ID, "input": "The capital of Japan, as JSON?", "temperature": 0}
    parsed = client.responses.parse(**fields, text_format=Capital, max_output_tokens=80).output_parsed
    assert isinstance(parsed, Capital)
