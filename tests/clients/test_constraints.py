"""Structured answers of the real program, as the official SDK asks for them."""

import json
import re
import time
from typing import Any, Literal

import pytest
from openai import BadRequestError, LengthFinishReasonError, OpenAI
from pydantic import BaseModel, Field

from tests.program import DEMO_ID, LIMIT_SECONDS

pytestmark = [pytest.mark.model, pytest.mark.program]

BOB: list[Any] = [{"role": "user", "content": "Describe Bob, 30, who likes chess."}]


class Hobby(BaseModel):
    name: str = Field(max_length=20)
    level: Literal["beginner", "master"]


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)
    hobbies: list[Hobby] = Field(max_length=2)


def test_an_answer_is_parsed(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=DEMO_ID, messages=BOB, response_format=Person, temperature=0, max_tokens=300
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_a_stream_is_parsed(client: OpenAI) -> None:
    fields: dict[str, Any] = {"model": DEMO_ID, "messages": BOB, "temperature": 0, "max_tokens": 300}
    with client.chat.completions.stream(**fields, response_format=Person) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.parse(**fields, response_format=Person)
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


def test_an_answer_that_was_cut_is_not_parsed(client: OpenAI) -> None:
    with pytest.raises(LengthFinishReasonError):
        client.chat.completions.parse(model=DEMO_ID, messages=BOB, response_format=Person, max_tokens=5)


def test_json_of_any_shape(client: OpenAI) -> None:
    schema = {"type": "object", "maxProperties": 0}
    answers = [
        client.chat.completions.create(
            model=DEMO_ID, messages=BOB, temperature=0, max_tokens=300, response_format={"type": "json_object"}
        ),
        client.chat.completions.create(model=DEMO_ID, messages=BOB, extra_body={"json_schema": schema}),
    ]
    for answer in answers:
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert answers[1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": r"\d{3}-[a-f]{2}"}, r"\d{3}-[a-f]{2}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"grammar": 'root ::= "<" [a-z]{1,5} ">"'}, "<[a-z]{1,5}>"),
        ({"structured_outputs": {"grammar": 'start: "<" /[a-z]{1,5}/ ">"'}}, "<[a-z]{1,5}>"),
    ],
)
def test_other_constraints(client: OpenAI, fields: dict[str, Any], pattern: str) -> None:
    chat = client.chat.completions.create(model=DEMO_ID, messages=BOB, n=2, extra_body=fields)
    plain = client.completions.create(model=DEMO_ID, prompt="Bob", max_tokens=20, extra_body=fields)
    texts = [choice.message.content or "" for choice in chat.choices] + [plain.choices[0].text]
    assert all(re.fullmatch(pattern, text) for text in texts), texts
    assert [choice.finish_reason for choice in chat.choices] == ["stop", "stop"]


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            "#/not",
        ),
        ({"regex": "("}, "regex", "regex"),
        ({"grammar": "root ::= x"}, "grammar", "no rule named 'x'"),
        (
            {"json_schema": {"allOf": [{"pattern": f".*{letter}"} for letter in "abcdefghij"]}},
            "json_schema",
            "patterns",
        ),
        ({"regex": "a", "choice": ["a"]}, "choice", "regex"),
    ],
)
def test_what_cannot_be_enforced_is_refused_at_once(
    client: OpenAI, fields: dict[str, Any], param: str, told: str
) -> None:
    began_at = time.monotonic()
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(model=DEMO_ID, messages=BOB, extra_body=fields)
    assert time.monotonic() - began_at < LIMIT_SECONDS
    assert raised.value.param == param and told in raised.value.message
    answer = client.chat.completions.create(model=DEMO_ID, messages=BOB, extra_body={"choice": ["works"]})
    assert answer.choices[0].message.content == "works"
