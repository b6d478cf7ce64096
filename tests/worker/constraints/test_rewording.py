"""What others say in words of their own is enforced like what it means."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.rewording import MAX_NAMES, PIECE, WITHOUT_LOOK_AROUND
from shimmy.worker.constraints.schema import MAX_NODES, enforceable
from tests.worker.constraints.byte_model import ByteModel

COMPILER = Compiler(ByteModel())
NUMBER = {"type": "number"}


def names(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "propertyNames": schema, "additionalProperties": NUMBER, **more}


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        (names({"type": "string"}), ['{"a":1}', "{}"], ['{"a":"b"}']),
        (names({}), ['{"a":1}'], ['{"a":"b"}']),
        (names(True), ['{"a":1}'], ['{"a":"b"}']),
        (names({"type": "string", "enum": ["a", "b"]}), ["{}", '{"a":1}', '{"a":1,"b":2}'], ['{"c":1}', '{"a":"b"}']),
        (names({"enum": ["a", "b"]}, required=["b"]), ['{"b":1}', '{"a":1,"b":2}'], ['{"a":1}', '{"b":1,"c":2}']),
        (names({"enum": ["a", 7, "a"]}), ['{"a":1}'], ['{"7":1}']),
        (names({"const": "a"}), ['{"a":1}'], ['{"b":1}']),
        (names({"$ref": "#/$defs/n"}, **{"$defs": {"n": {"enum": ["a"]}}}), ['{"a":1}'], ['{"b":1}']),
        (names({"enum": ["a", "b"]}, properties={"b": {"const": "x"}, "c": {}}), ['{"b":"x","a":1}'], ['{"c":1}']),
        (names({"pattern": "^x-[a-z]+$"}), ['{"x-a":1}', "{}"], ['{"a":1}', '{"x-a":"b"}']),
        (names({"enum": ["a"]}, additionalProperties=False), ["{}"], ['{"a":1}']),
        ({"type": "array", "items": NUMBER, "uniqueItems": False}, ["[1,1]"], ['["a"]']),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, ["4"], ["3"]),
        ({"type": "integer", "maximum": 3, "exclusiveMaximum": False}, ["3"], ["4"]),
        ({"type": "integer", "format": "int32"}, ["2147483647", "-1"], ["2147483648"]),
        ({"type": ["integer", "null"], "format": "int64"}, ["null", "9007199254740993"], ["9223372036854775808"]),
        ({"type": "integer", "format": "int32", "allOf": [{"minimum": 5}]}, ["5"], ["4", "2147483648"]),
        ({"type": "integer", "format": "uint8", "minimum": 0}, ["0", "255"], ["256", "-1"]),
        ({"type": "integer", "format": "uint"}, ["0", "9007199254740993"], ["-1"]),
        ({"type": "number", "format": "double"}, ["1.5"], ['"a"']),
        ({"type": "string", "format": "cuid", "pattern": "^c[0-9a-z]+$"}, ['"c1"'], ['"d1"']),
        ({"type": "string", "format": "includes", "allOf": [{"pattern": "^a"}, {"pattern": "b"}]}, ['"acb"'], ['"a"']),
        (
            {"type": "string", "format": "base64", "contentEncoding": "base64", "pattern": "^([a-z]{4})*$"},
            ['"abcd"'],
            ['"abc"'],
        ),
        ({"pattern": r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{3,}$", "type": "string"}, ['"aB1"'], ['"ab1"', '"aBc"', '"A1"']),
        ({"pattern": r"^(?=[^)(]|\))a?[)(]?$", "type": "string"}, ['"a("', '")"'], ['"("', '""']),
    ],
)
def test_what_is_said_otherwise_is_enforced(schema: Any, accepted: list[str], refused: list[str]) -> None:
    constraint = COMPILER.compile(Constraint("json_schema", json.dumps(schema), "field"))
    assert [text for text in accepted if not constraint.accepts(text)] == []
    assert [text for text in refused if constraint.accepts(text)] == []


@pytest.mark.parametrize(
    "schema",
    [
        names({"minLength": 2}),
        names(False),
        names({"type": "integer"}),
        names({"enum": ["a"]}, patternProperties={"b": {}}),
        names({"pattern": "a"}, properties={"b": {}}),
        {"type": "string", "format": "cuid"},
        {"type": "string", "format": "jwt", "pattern": "a"},
        {"type": "string", "contentEncoding": "base64", "pattern": "a"},
        {"type": "string", "format": "int64"},
        {"type": "number", "format": "int32"},
        {"type": "integer", "format": "int128"},
        {"uniqueItems": True},
    ],
)
def test_what_is_not_the_same_in_other_words_is_refused(schema: Any) -> None:
    with pytest.raises(Unsupported, match="not supported, and would not be enforced"):
        enforceable(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"format": [], "pattern": "a"},
        {"format": "cuid", "allOf": 7},
        {"format": "cuid", "allOf": [7]},
        {"format": "int32", "type": "integer", "allOf": {}},
        {"pattern": "^(?=a)b", "allOf": 7},
        {"contentEncoding": {}, "format": {}},
        {"type": {}, "format": "int32"},
        {"propertyNames": 7},
        {"propertyNames": {"$ref": "#/nowhere"}},
        names({"enum": [str(number) for number in range(MAX_NAMES + 1)]}),
    ],
)
def test_what_makes_no_sense_is_refused(schema: Any) -> None:
    with pytest.raises(RequestError):
        enforceable(json.dumps(schema))


@pytest.mark.parametrize(
    "pattern",
    [r"^(?!a)b$", r"^(?=a)b|c$", r"(?=a)b", r"^(?=(?!a)b", r"^(?=\)a", r"^a(?=b)", r"^(?=a)?b", r"^(?=a){0}b"],
)
def test_other_look_around_stays_and_is_refused(pattern: str) -> None:
    assert json.loads(enforceable(json.dumps({"pattern": pattern}))) == {"pattern": pattern}
    with pytest.raises(RequestError):
        COMPILER.compile(Constraint("json_schema", json.dumps({"type": "string", "pattern": pattern}), "field"))


DURATIONS = st.lists(st.sampled_from("P T 1 2Y 3M 4D 5W 6H 7S 8,9S . Y".split()), max_size=7).map("".join)
ADDRESSES = st.text("a.'-@1_", max_size=12) | st.builds("{}@a.bc".format, st.text("a.'-", max_size=6))


@pytest.mark.parametrize("with_look_around", WITHOUT_LOOK_AROUND)
@given(text=DURATIONS | DURATIONS.map("P{}".format) | ADDRESSES)
def test_known_patterns_without_look_around_are_the_same(with_look_around: str, text: str) -> None:
    without = WITHOUT_LOOK_AROUND[with_look_around]
    assert bool(re.search(with_look_around, text)) == bool(re.search(without, text))


def test_a_pattern_that_does_not_end_is_read_once() -> None:
    """Each bracket used to be followed to the end: that takes the square of their number, and more before the length
    was looked at."""
    assert [piece[0] for piece in PIECE.finditer("(?=" + "[" * 1000)] == ["(", "?", "=", "[" * 1000]
    with pytest.raises(RequestError, match="#/pattern: more than 1024 characters"):
        enforceable(json.dumps({"pattern": "^(?=" + "[" * 60_000}))


def test_many_objects_with_one_list_of_names_are_refused() -> None:
    listed = {"enum": [f"name-{number}" for number in range(MAX_NAMES)]}
    objects = {str(number): names({"$ref": "#/$defs/n"}) for number in range(20)}
    with pytest.raises(RequestError, match=f"more than {MAX_NODES} parts"):
        enforceable(json.dumps({"$defs": {"n": listed}, "properties": objects}))


def test_values_of_many_names_are_described_once() -> None:
    rest = {"enum": ["x" * 1000]}
    schema = names({"enum": [str(number) for number in range(300)]}, additionalProperties=rest)
    assert len(enforceable(json.dumps(schema))) < 20_000
