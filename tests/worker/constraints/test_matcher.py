"""Answers that are drawn at random, but only from what may come: each of them meets its schema."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.core.request import Constraint, ConstraintKind
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import ALLOWED, Guide, explained
from tests.worker.constraints.byte_model import ByteModel

MODEL = ByteModel()
COMPILER = Compiler(MODEL)
MAX_TOKENS = 400


def guide(kind: ConstraintKind, text: str) -> Guide:
    return COMPILER.compile(Constraint(kind, text, "field")).guide()


def drawn(place: Guide, dice: random.Random) -> str | None:
    """A whole answer; None for one that would become too long."""
    text = b""
    for _ in range(MAX_TOKENS):
        if place.is_complete:
            return text.decode()
        mask = place.mask()
        # A random one of those that may come; the end, where it may come, at once.
        token = MODEL.end if mask[MODEL.end] else dice.choice([at for at, mark in enumerate(mask) if mark])
        assert place.take(token)
        if token == MODEL.end:
            return text.decode()
        text += MODEL.tokens[token]
    return None


NAMES = ["a", "b", "c d", "ü"]


def integers(low: int, span: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": low + span}


def strings(low: int, span: int) -> dict[str, Any]:
    return {"type": "string", "minLength": low, "maxLength": low + span}


VALUES = st.lists(st.sampled_from(["x", 1, None, True, "ö\n"]), min_size=1, unique_by=repr)
SCALARS = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(integers, st.integers(-50, 50), st.integers(0, 99)),
    st.builds(strings, st.integers(0, 3), st.integers(0, 4)),
    st.builds(lambda values: {"enum": values}, VALUES),
    st.builds(lambda value: {"const": value}, st.sampled_from(["x", 7, False, [1, {"a": None}]])),
    st.sampled_from(["^[ab]{1,3}$", "^x-\\d\\d$"]).map(lambda pattern: {"type": "string", "pattern": pattern}),
)


def containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.builds(
        lambda item, low, span: {"type": "array", "items": item, "minItems": low, "maxItems": low + span},
        inner, st.integers(0, 2), st.integers(0, 2),
    )  # fmt: skip
    objects = st.builds(
        lambda properties, required: {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name in required],
            "additionalProperties": False,
        },
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
        st.sets(st.sampled_from(NAMES)),
    )
    return arrays | objects | st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner)


def meets(value: Any, schema: dict[str, Any]) -> bool:
    """Written down from the specification, for the keywords above."""
    if "anyOf" in schema:
        return any(meets(value, each) for each in schema["anyOf"])
    if "const" in schema:
        return repr(value) == repr(schema["const"])
    if "enum" in schema:
        return repr(value) in map(repr, schema["enum"])
    match schema["type"]:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            return is_integer and schema["minimum"] <= value <= schema["maximum"]
        case "string" if "pattern" in schema:
            letters = {"^[ab]{1,3}$": "ab", "^x-\\d\\d$": "x-0123456789"}[schema["pattern"]]
            return isinstance(value, str) and 1 <= len(value) <= 4 and set(value) <= set(letters)
        case "string":
            return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
        case "array":
            has_length = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
            return has_length and all(meets(each, schema["items"]) for each in value)
    properties = schema["properties"]
    return (
        isinstance(value, dict)
        and set(schema["required"]) <= set(value) <= set(properties)
        and all(meets(each, properties[name]) for name, each in value.items())
    )


@settings(max_examples=60)
@given(st.recursive(SCALARS, containers, max_leaves=6), st.integers(0, 2**32))
def test_whatever_is_drawn_meets_its_schema(schema: dict[str, Any], seed: int) -> None:
    place = guide("json_schema", json.dumps(schema))
    text = drawn(place, random.Random(seed))
    if text is not None:
        assert meets(json.loads(text), schema), text
        assert place.is_met(text, is_cut=False)


@pytest.mark.parametrize(
    ("format", "seeds"), [("date", 40), ("time", 20), ("date-time", 20), ("hostname", 20), ("uuid", 5), ("ipv4", 5)]
)
def test_whatever_is_drawn_has_its_format(format: str, seeds: int) -> None:
    import datetime
    import ipaddress
    import uuid

    checks: dict[str, Any] = {
        "date": datetime.date.fromisoformat,
        "time": lambda text: datetime.time.fromisoformat(text.upper()),
        "date-time": lambda text: datetime.datetime.fromisoformat(text.upper()),
        "hostname": lambda text: text.encode("idna"),
        "uuid": uuid.UUID,
        "ipv4": ipaddress.IPv4Address,
    }
    for seed in range(seeds):
        text = drawn(guide("json_schema", json.dumps({"type": "string", "format": format})), random.Random(seed))
        if text is not None and not json.loads(text).startswith("0000"):
            checks[format](json.loads(text))


def test_a_refused_token_changes_nothing() -> None:
    place = guide("regex", "ab")
    assert not place.take(ord("b")) and not place.mask()[ord("b")]
    assert place.take(ord("a")) and not place.is_complete
    assert not place.take(MODEL.end)
    assert place.mask().count(ALLOWED) == 1
    assert place.take(ord("b")) and place.is_complete
    assert place.is_met("ab", is_cut=False)


def test_choices_of_one_request_do_not_meet() -> None:
    compiled = COMPILER.compile(Constraint("regex", "a+b", "field"))
    one, other = compiled.guide(), compiled.guide()
    assert one.take(ord("a")) and not one.take(MODEL.end)
    assert not other.take(ord("b"))
    assert one.take(ord("b")) and one.is_complete and not other.is_complete


def test_an_answer_that_was_cut_is_looked_at_as_a_whole() -> None:
    place = guide("json_object", "")
    for byte in b'{"a":1':
        assert place.take(byte)
    assert not place.is_met('{"a":1', is_cut=False)
    assert not place.is_met('{"a":', is_cut=True)
    assert place.take(ord("}")) and place.is_complete
    assert place.is_met('{"a":1}', is_cut=False) and place.is_met('{"a":1}', is_cut=True)
    assert not place.is_met('{"a":1', is_cut=True)
    # What was sent is not JSON, whatever the tokens were.
    assert not place.is_met('{"a":', is_cut=False)


def test_the_end_of_what_is_possible_is_an_error() -> None:
    place = guide("regex", "(.{1,1000}){1,1000}x")
    with pytest.raises(RequestError, match="^field: the answer cannot go on: ") as raised:
        for _ in range(100):
            if not place.take(ord("a")):
                raise place.failure()
    assert raised.value.param == "field"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("", ""),
        ("at 2(8): failed to compile JSON schema: Unknown format\n   1 | x\n   2 | y\n       ^\n", "Unknown format"),
        ('2(37): lark grammar too deeply nested (at "(")\n   1 | x\n', 'lark grammar too deeply nested (at "(")'),
        ("lexer error: too many\n<non-verbose/>", "lexer error: too many"),
    ],
)
def test_messages_are_for_clients(error: str, told: str) -> None:
    assert explained(error) == told
