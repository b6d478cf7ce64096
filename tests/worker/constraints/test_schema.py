"""Schemas that are refused, and what becomes of the others. What is enforced of them: test_coverage.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError, Unsupported
from shimmy.worker.constraints.schema import MAX_DEPTH, MAX_NODES, MAX_PATTERNS_AT_ONCE, enforceable


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"uniqueItems": True}}}, "#/properties/a/uniqueItems"),
        ({"if": {}, "then": {}}, "#/if"),
        ({"anyOf": [{}, {"not": {}}]}, "#/anyOf/1/not"),
        ({"type": "array", "contains": {}}, "#/contains"),
        ({"$defs": {"unused": {"dependentSchemas": {}}}}, "#/$defs/unused/dependentSchemas"),
        ({"unevaluatedProperties": False}, "#/unevaluatedProperties"),
        ({"items": {"propertyNames": {"format": "date"}}}, "#/items/propertyNames"),
        ({"$dynamicRef": "#x"}, "#/$dynamicRef"),
        ({"items": {"$id": "other", "items": {"$ref": "#"}}}, "#/items/$id"),
        ({"properties": {"a": {"id": "other", "anyOf": [{"$ref": "#"}]}}}, "#/properties/a/id"),
        ({"id": 7}, "#/id"),
        ({"contentEncoding": "base64"}, "#/contentEncoding"),
        ({"nullable": True}, "#/nullable"),
        ({"minimun": 3}, "#/minimun"),
        ({"items": {"format": "regex"}}, "#/items/format"),
        ({"minProperties": 3, "required": ["a"]}, "#/minProperties"),
    ],
)
def test_what_would_not_be_enforced_is_refused_by_name(schema: Any, path: str) -> None:
    with pytest.raises(Unsupported) as raised:
        enforceable(json.dumps(schema))
    assert raised.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "schema",
    [
        [],
        "x",
        7,
        {"items": 7},
        {"properties": []},
        {"anyOf": []},
        {"anyOf": {}},
        {"minLength": -1},
        {"minLength": 1.5},
        {"minLength": True},
        {"minimum": "3"},
        {"exclusiveMinimum": True},
        {"pattern": 7},
        {"required": "a"},
        {"required": [1]},
        {"enum": []},
        {"enum": "a"},
        {"type": []},
        {"$ref": "http://x/y"},
        {"$ref": "other.json#/a"},
        {"$ref": "#/nowhere"},
        # What is data, or a list of properties, has not been checked as a schema.
        {"properties": {"a": {"const": {"allOf": 7}}, "b": {"$ref": "#/properties/a/const"}}},
        {"properties": {"a": {"enum": [{"uniqueItems": True}]}, "b": {"$ref": "#/properties/a/enum/0"}}},
        {"properties": {"not": {}, "b": {"$ref": "#/properties"}}},
        {"oneOf": [{}, False], "propertyNames": {"$ref": "#/discriminator/a"}}
        | {"discriminator": {"propertyName": "k", "a": {"enum": 7}}},
        {"const": "\ud800"},
        {"patternProperties": {"a" * 2000: {}}},
        {"patternProperties": {str(number): {} for number in range(100)}},
        {"properties": {str(number): {} for number in range(1000)}},
        {"pattern": "a" * 2000},
        {"enum": list(range(MAX_NODES))},
        {"const": json.loads("[" * 100 + "]" * 100)},
        nested(MAX_DEPTH + 1),
        {"allOf": [{"pattern": str(number)} for number in range(MAX_PATTERNS_AT_ONCE + 1)]},
        {"$ref": "#/d0", **{f"d{number}": {"$ref": f"#/d{number + 1}"} for number in range(1500)}},
        {"$ref": "#/$defs/d0", "$defs": {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(1500)}},
        {"properties": {"a": {"$id": "x", "default": json.loads("[" * 700 + "]" * 700)}}},
        {"allOf": [{}], "$ref": "#/allOf/" + "9" * 5000},
    ],
)
def test_what_is_no_schema_or_too_large_is_refused(schema: Any) -> None:
    with pytest.raises(RequestError):
        enforceable(json.dumps(schema))


@pytest.mark.parametrize("text", ["", "{", "nul", '{"minimum": NaN}', '{"const": Infinity}', "[" * 50_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        enforceable(text)


TEXTS = st.sampled_from(["", "a", "#", "#/$defs/a", "#/items", "#/allOf/0", "#a", "string", "date", "^a+$", "(", "x-a"])
PARTS = st.one_of(st.none(), st.booleans(), st.integers(-1, 3), st.floats(), TEXTS)
KEYWORDS = st.sampled_from(
    """type enum const required properties items prefixItems additionalItems additionalProperties patternProperties
    propertyNames discriminator uniqueItems contentEncoding
    minItems maxItems minLength maxLength minimum exclusiveMaximum multipleOf minProperties maxProperties anyOf allOf
    oneOf pattern format $ref $defs definitions $anchor $id id $schema not x-a default a b""".split()
)
SCHEMAS = st.recursive(PARTS, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYWORDS, parts, max_size=4))


@given(SCHEMAS)
def test_any_value_is_a_schema_or_refused(value: Any) -> None:
    try:
        kept = enforceable(json.dumps(value))
    except RequestError:
        return
    assert enforceable(kept)


def test_annotations_are_left_out() -> None:
    annotated = {
        "$id": "https://example.com/x",
        "title": "a",
        "description": "b",
        "default": 1,
        "examples": [{"not": {}}],
        "$comment": "c",
        "deprecated": True,
        "readOnly": True,
        "discriminator": {"propertyName": "kind"},
        "x-guidance": {"lenient": True},
        "type": "object",
        "properties": {"title": {"id": "#/properties/title", "type": "string"}, "x-y": True, "id": {"readonly": True}},
    }
    kept = {"type": "object", "properties": {"title": {"type": "string"}, "x-y": True, "id": {}}}
    assert enforceable(json.dumps(annotated)) == json.dumps(kept)


def test_the_order_of_properties_is_kept() -> None:
    assert enforceable('{"properties": {"b": {}, "a": {}}}') == '{"properties": {"b": {}, "a": {}}}'


def test_one_string_may_meet_several_patterns_but_not_many() -> None:
    def of(count: int, wrap: Any) -> dict[str, Any]:
        return {"allOf": [wrap({"pattern": f"a{number}"}) for number in range(count)]}

    wraps = [
        lambda each: each,
        lambda each: {"properties": {"a": each}},
        lambda each: {"items": {"prefixItems": [each]}},
        lambda each: {"additionalProperties": {"anyOf": [each, {"type": "null"}]}},
    ]
    for wrap in wraps:
        enforceable(json.dumps(of(MAX_PATTERNS_AT_ONCE, wrap)))
        with pytest.raises(RequestError, match="patterns"):
            enforceable(json.dumps(of(MAX_PATTERNS_AT_ONCE + 1, wrap)))


def test_alternatives_and_siblings_do_not_count_together() -> None:
    many = range(MAX_PATTERNS_AT_ONCE + 1)
    enforceable(json.dumps({"anyOf": [{"pattern": f"a{number}"} for number in many]}))
    enforceable(json.dumps({"properties": {f"p{number}": {"pattern": "a"} for number in many}}))


def test_patterns_behind_references_count() -> None:
    definitions = {f"p{number}": {"pattern": f"a{number}"} for number in range(MAX_PATTERNS_AT_ONCE + 1)}
    definitions["anchored"] = {"$anchor": "here", "format": "uuid"}
    references = [{"$ref": f"#/$defs/p{number}"} for number in range(MAX_PATTERNS_AT_ONCE)]
    enforceable(json.dumps({"$defs": definitions, "allOf": references}))
    with pytest.raises(RequestError, match="patterns"):
        enforceable(json.dumps({"$defs": definitions, "allOf": references, "$ref": "#here"}))


def test_a_schema_may_refer_to_itself() -> None:
    tree = {
        "$defs": {"a": {"properties": {"name": {"pattern": "x"}, "next": {"$ref": "#/$defs/a"}}}},
        "$ref": "#/$defs/a",
    }
    assert json.loads(enforceable(json.dumps(tree))) == tree
