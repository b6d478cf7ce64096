"""Tools and thoughts of the real program, as the official SDK asks for them."""

import json
from typing import Any, Literal

import openai
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, Field

from tests.program import DEMO_ID

pytestmark = [pytest.mark.model, pytest.mark.program]

WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)
    unit: Literal["celsius", "fahrenheit"]


TOOL: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
FIELDS: dict[str, Any] = {"model": DEMO_ID, "messages": WEATHER, "tools": [TOOL], "temperature": 0, "max_tokens": 100}


@pytest.mark.parametrize(
    "choice", [{"tool_choice": NAMED}, {"tool_choice": "required", "parallel_tool_calls": False}], ids=["named", "any"]
)
def test_a_call_that_must_come_is_parsed(client: OpenAI, choice: dict[str, Any]) -> None:
    (answer,) = client.chat.completions.parse(**FIELDS, **choice).choices
    assert answer.finish_reason == "tool_calls" and not answer.message.content
    assert answer.message.tool_calls
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather" and isinstance(call.function.parsed_arguments, GetWeather)
    with client.chat.completions.stream(**FIELDS, **choice) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls" and streamed.message.tool_calls
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments


def test_what_a_tool_said_goes_back(client: OpenAI) -> None:
    (answer,) = client.chat.completions.create(**FIELDS, tool_choice=NAMED).choices
    assert answer.message.tool_calls
    said = {"role": "tool", "tool_call_id": answer.message.tool_calls[0].id, "content": "12 degrees"}
    messages = [*WEATHER, answer.message, said]
    (final,) = client.chat.completions.create(**{**FIELDS, "messages": messages}, tool_choice="none").choices
    assert final.message.content and not final.message.tool_calls


def test_a_call_that_was_cut_says_so(client: OpenAI) -> None:
    fields = {**FIELDS, "max_tokens": 28}
    (answer,) = client.chat.completions.create(**fields, tool_choice=NAMED).choices
    assert answer.finish_reason == "length"


def test_several_choices_each_with_their_call(client: OpenAI) -> None:
    # With room for the spaces that may be drawn between the parts of a call.
    fields = {**FIELDS, "temperature": 1.5, "n": 3, "seed": 1, "max_tokens": 400}
    ids = set()
    for answer in client.chat.completions.create(**fields, tool_choice=NAMED).choices:
        assert answer.message.tool_calls and answer.finish_reason == "tool_calls"
        (call,) = answer.message.tool_calls
        assert call.type == "function" and GetWeather(**json.loads(call.function.arguments))
        ids.add(call.id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, "not"),
        ({"type": "object", "properties": {"a": {"enum": [f"v{n}" for n in range(40)]}}}, None),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "(x+x+)+y" * 100}}}, None),
    ],
    ids=["unsupported", "enum", "pattern"],
)
def test_a_schema_that_cannot_be_enforced_is_refused_only_where_it_must_be(
    client: OpenAI, parameters: dict[str, Any], why: str | None
) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    fields = {**FIELDS, "tools": [tool], "max_tokens": 2}
    try:
        client.chat.completions.create(**fields, tool_choice="required")
    except BadRequestError as error:
        assert error.param in ("tools[0].function.parameters", "tool_choice")
        assert why is None or why in error.message
    else:
        assert why is None
    assert client.chat.completions.create(**{**FIELDS, "max_tokens": 1}).choices
