"""How OpenAI's, llama-server's and vLLM's clients say what an answer must be."""

import json
from typing import Any

import msgspec
import pytest

from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import MAX_CONSTRAINT_BYTES, Constraint
from shimmy.protocols.openai.constraint import constraint
from shimmy.protocols.openai.wire import ChatRequest, CompletionRequest
from tests.protocols.openai.test_wire import CHAT, COMPLETIONS, asked
from tests.server.live import Live, run_live

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {}}}
TEXT = '{"type": "object", "properties": {"b": {"type": "string"}, "a": {}}}'
NAMED = {"name": "thing", "strict": True, "schema": SCHEMA}


def of(**fields: Any) -> Constraint | None:
    chat: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    found = constraint(decode(msgspec.json.Decoder(ChatRequest), json.dumps(chat).encode()))
    plain: dict[str, Any] = {"model": "m", "prompt": "x", **fields}
    assert constraint(decode(msgspec.json.Decoder(CompletionRequest), json.dumps(plain).encode())) == found
    return found


@pytest.mark.parametrize(
    ("fields", "kind", "text", "field"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", "", "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
            "json_schema",
            TEXT,
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", TEXT, "response_format.schema"),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, "json_schema", TEXT, "response_format.schema"),
        ({"json_schema": SCHEMA}, "json_schema", TEXT, "json_schema"),
        ({"guided_json": SCHEMA}, "json_schema", TEXT, "guided_json"),
        ({"guided_json": TEXT}, "json_schema", TEXT, "guided_json"),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", TEXT, "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, "json_object", "", "structured_outputs.json_object"),
        ({"grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"', "grammar"),
        ({"guided_grammar": "start: x"}, "grammar", "start: x", "guided_grammar"),
        ({"structured_outputs": {"grammar": "start: x"}}, "grammar", "start: x", "structured_outputs.grammar"),
        ({"regex": "a+"}, "regex", "a+", "regex"),
        ({"guided_regex": "a+"}, "regex", "a+", "guided_regex"),
        ({"structured_outputs": {"regex": "é+"}}, "regex", "é+", "structured_outputs.regex"),
        ({"choice": ["yes", "nö"]}, "choice", '["yes","nö"]', "choice"),
        ({"guided_choice": ["yes"]}, "choice", '["yes"]', "guided_choice"),
        ({"structured_outputs": {"choice": ["yes"]}}, "choice", '["yes"]', "structured_outputs.choice"),
    ],
)
def test_every_way_to_say_it(fields: dict[str, Any], kind: str, text: str, field: str) -> None:
    found = of(**fields)
    assert found is not None
    assert (found.kind, found.text, found.field) == (kind, text, field)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": None, "json_schema": None, "guided_json": None, "structured_outputs": None},
        {"structured_outputs": {"json": None, "json_object": False}},
        {"grammar": ""},
    ],
)
def test_nothing_is_asked_for(fields: dict[str, Any]) -> None:
    assert of(**fields) is None


@pytest.mark.parametrize(
    ("fields", "field", "error"),
    [
        ({"response_format": {"type": "grammar"}}, "response_format.type", Unsupported),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", RequestError),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
            RequestError,
        ),
        ({"response_format": {}}, "response_format.type", RequestError),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", Unsupported),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex", RequestError),
        ({"grammar": "root ::= x", "guided_choice": ["a"]}, "guided_choice", RequestError),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", RequestError),
        ({"choice": []}, "choice", RequestError),
        ({"choice": ["a", ""]}, "choice[1]", RequestError),
        ({"regex": "a" * (MAX_CONSTRAINT_BYTES + 1)}, "regex", RequestError),
        ({"json_schema": {"enum": ["ü" * (MAX_CONSTRAINT_BYTES // 2)]}}, "json_schema", RequestError),
        ({"regex": 7}, "regex", RequestError),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], field: str, error: type[RequestError]) -> None:
    with pytest.raises(RequestError) as raised:
        of(**fields)
    assert type(raised.value) is error
    assert raised.value.param == field and field.split("[")[0] in raised.value.message


def test_a_schema_keeps_its_order_and_spelling() -> None:
    body = b'{"model":"m","messages":[{"role":"user"}],"json_schema":{"b" : 1.0,\n"a":"\\u00e9"}}'
    found = constraint(decode(msgspec.json.Decoder(ChatRequest), body))
    assert found is not None and found.text == '{"b" : 1.0,\n"a":"\\u00e9"}'


def test_a_schema_that_is_no_text_is_refused() -> None:
    body = b'{"model":"m","messages":[{"role":"user"}],"json_schema":{"a":"\xff"}}'
    with pytest.raises(RequestError):
        constraint(decode(msgspec.json.Decoder(ChatRequest), body))


@pytest.mark.slow
@pytest.mark.program
def test_it_reaches_the_worker_as_it_is() -> None:
    async def test(server: Live) -> None:
        generation = await asked(server, CHAT, regex="[a-z]+")
        assert generation.constraint == Constraint("regex", "[a-z]+", "regex")
        assert (await asked(server, COMPLETIONS)).constraint is None

    run_live(test)
