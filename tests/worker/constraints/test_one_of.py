"""Unions of which a value meets one member: whether that can be told, and what can be written then."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import Compiled
from shimmy.worker.constraints.one_of import MAX_TAGGED_CHARS, _value
from shimmy.worker.constraints.schema import enforceable
from tests.worker.constraints.byte_model import ByteModel

COMPILER = Compiler(ByteModel())
REFERENCES = [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
NUMBER = {"type": "number"}


def compiled(schema: dict[str, Any]) -> Compiled:
    return COMPILER.compile(Constraint("json_schema", json.dumps(schema), "field"))


def thing(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def union(cat: dict[str, Any], dog: dict[str, Any], **more: Any) -> dict[str, Any]:
    """As Pydantic writes one."""
    return {"$defs": {"Cat": cat, "Dog": dog}, "oneOf": REFERENCES, **more}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "string"}, {"type": ["number", "null"]}),
        ({"const": "a"}, {"enum": ["b", "c"]}),
        ({"enum": [1, 2]}, {"type": "string"}),
        ({"const": 1}, {"const": True}),
        (thing(["kind"], kind={"const": "a"}), thing(["kind"], kind={"const": "b"})),
        (thing(["kind"], kind={"const": "a"}), thing([], kind={"enum": ["b", "c"]})),
        (thing(["a"], a=NUMBER), thing(["b"], b=NUMBER)),
        (thing(["a"], a=thing(["b"], b={"const": 1})), thing(["a"], a=thing(["b"], b={"const": 2}))),
        (thing([], a=NUMBER) | {"required": ["a"]}, {"type": "object", "properties": {"a": False}}),
        ({"anyOf": [{"const": "a"}, {"type": "null"}]}, {"type": "object"}),
        ({"allOf": [{"maxLength": 3}, {"enum": ["a"]}]}, {"allOf": [{"enum": ["b"]}]}),
    ],
)
def test_members_that_no_value_meets_together_may_be_referred_to(one: dict[str, Any], other: dict[str, Any]) -> None:
    reworded = json.loads(enforceable(json.dumps(union(one, other))))
    assert reworded == {"$defs": {"Cat": one, "Dog": other}, "anyOf": REFERENCES}
    compiled(union(one, other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"type": "integer"}, {"type": "number"}),
        ({"const": 1}, {"const": 1.0}),
        ({"enum": ["a", "b"]}, {"enum": ["b", "c"]}),
        # Neither says that it must be an object.
        (
            {"properties": {"a": {"const": 1}}, "required": ["a"]},
            {"properties": {"a": {"const": 2}}, "required": ["a"]},
        ),
        # Both may leave it out.
        (thing([], kind={"const": "a"}), thing([], kind={"const": "b"})),
        (thing(["a"], a=NUMBER), thing(["a"], a=NUMBER, b=NUMBER)),
        (thing(["a"], a=NUMBER), thing(["a"]) | {"patternProperties": {"^a": NUMBER}}),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, {"enum": ["b"]}),
        ({}, {"type": "string"}),
        ({"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}),
    ],
)
def test_members_that_a_value_may_meet_together_are_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="oneOf: a value may meet two"):
        compiled(union(one, other))


def test_a_discriminator_that_may_be_left_out_is_required() -> None:
    """Pydantic writes a tag with a default like this, and refuses values without it."""
    cat = thing(["meows"], kind={"const": "cat", "default": "cat"}, meows=NUMBER)
    dog = thing(["barks"], kind={"const": "dog", "default": "dog"}, barks=NUMBER)
    overlapping = cat | {"additionalProperties": True}, dog | {"additionalProperties": True}
    constraint = compiled(union(*overlapping, discriminator={"propertyName": "kind"}))
    assert constraint.accepts('{"kind":"cat","meows":1}')
    assert constraint.accepts('{"kind":"dog","barks":1}')
    for text in ('{"meows":1}', '{"kind":"cat","barks":1}', '{"kind":"pig","meows":1}'):
        assert not constraint.accepts(text)
    with pytest.raises(RequestError, match="oneOf: a value may meet two"):
        compiled(union(*overlapping))


def test_a_member_may_have_the_union_in_it_again() -> None:
    tagged = {"oneOf": REFERENCES, "discriminator": {"propertyName": "kind", "mapping": {"sum": "#/$defs/Cat"}}}
    total = {"type": "object", "properties": {"kind": {"const": "sum"}, "of": {"type": "array", "items": tagged}}}
    number = {"type": "object", "properties": {"kind": {"const": "number"}, "is": NUMBER}}
    constraint = compiled({"$defs": {"Cat": total, "Dog": number}, **tagged})
    assert constraint.accepts('{"kind":"sum","of":[{"kind":"number","is":7},{"kind":"sum","of":[]}]}')
    assert not constraint.accepts('{"kind":"sum","of":[{"is":7}]}')


def test_a_union_may_be_a_member_of_another() -> None:
    def of(kind: str, color: str | None = None) -> dict[str, Any]:
        colors = {"color": {"const": color}} if color else {}
        return {"type": "object", "properties": {"kind": {"const": kind}, **colors}}

    colors = {"oneOf": [of("cat", "black"), of("cat", "white")], "discriminator": {"propertyName": "color"}}
    pet = {"oneOf": [colors, of("dog")], "discriminator": {"propertyName": "kind"}}
    constraint = compiled(pet)
    assert constraint.accepts('{"kind":"cat","color":"black"}')
    assert constraint.accepts('{"kind":"dog"}')
    assert not constraint.accepts('{"kind":"cat"}')
    assert not constraint.accepts('{"color":"black"}')


@pytest.mark.parametrize("discriminator", [7, {}, {"propertyName": 7}, "kind", None])
def test_a_discriminator_of_no_sense_says_nothing(discriminator: Any) -> None:
    schema = {"oneOf": [{"type": "string"}, {"type": "null"}], "discriminator": discriminator}
    assert json.loads(enforceable(json.dumps(schema))) == {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_many_members_that_are_long_to_compare_are_given_up() -> None:
    members = [{"allOf": [{"minLength": number}] * 50} for number in range(90)]
    reworded = json.loads(enforceable(json.dumps({"oneOf": members})))
    assert reworded == {"oneOf": members}


@pytest.mark.parametrize("value", [2**61 - 1, 1e300, 0.5])
def test_numbers_cost_no_more_where_python_hashes_them_alike(value: float) -> None:
    equal = {"enum": [value, value * 2]}, {"const": value * 2}
    apart = {"enum": [value, value * 2]}, {"const": value * 3}
    assert "oneOf" in json.loads(enforceable(json.dumps({"oneOf": equal})))
    assert "anyOf" in json.loads(enforceable(json.dumps({"oneOf": apart})))
    hashes = {hash(_value(value * factor)) for factor in range(1, 100)}
    assert len(hashes) == 99


def test_numbers_that_are_too_large_are_no_error_of_ours() -> None:
    with pytest.raises(RequestError):
        COMPILER.compile(Constraint("json_schema", '{"oneOf":[{"const":1e999},{"const":1}]}', "field"))


def test_copies_with_a_discriminator_stay_small() -> None:
    def member(value: int) -> dict[str, Any]:
        tags = {f"tag{number}": {"const": value} for number in range(60)}
        return {"type": "object", "properties": {**tags, "x": {"enum": ["x" * 5000]}}}

    unions = {
        f"u{number}": {"oneOf": REFERENCES, "discriminator": {"propertyName": f"tag{number}"}} for number in range(60)
    }
    text = json.dumps({"$defs": {"Cat": member(1), "Dog": member(2)}, "properties": unions})
    assert len(enforceable(text)) < len(text) + MAX_TAGGED_CHARS


def test_the_whole_schema_may_be_a_member() -> None:
    """Zod refers so to a schema within itself."""
    tagged = {"oneOf": [{"$ref": "#"}, {"$ref": "#/$defs/Leaf"}], "discriminator": {"propertyName": "kind"}}
    node = {"type": "object", "properties": {"kind": {"const": "node"}, "of": tagged}, "required": ["of"]}
    leaf = {"type": "object", "properties": {"kind": {"const": "leaf"}}}
    constraint = compiled(node | {"$defs": {"Leaf": leaf}})
    assert constraint.accepts('{"of":{"kind":"node","of":{"kind":"leaf"}}}')
    assert not constraint.accepts('{"of":{}}')


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({"$ref": "#/properties/u/oneOf/1"}, ['{"u":"x","v":[[]]}'], ['{"v":"x"}']),
        ({"$ref": "#/properties/u/oneOf/1/items"}, ['{"v":[]}'], ['{"v":"x"}']),
        ({"$ref": "#/properties/u/one%4Ff/0"}, ['{"v":"x"}'], ['{"v":[]}']),
        ({"$ref": "#/properties/names/additionalProperties"}, ['{"names":{"a":1},"v":2}'], ['{"v":"x"}']),
        ({"$ref": "#/properties/names/properties/b"}, ['{"v":"y"}'], ['{"names":{"b":"y"}}', '{"v":2}']),
    ],
)
def test_references_lead_to_where_something_was(
    schema: dict[str, Any], accepted: list[str], refused: list[str]
) -> None:
    """As zod-to-json-schema refers to what it wrote before."""
    array = {"type": "array", "items": {"$ref": "#/properties/u/oneOf/1"}}
    names = {"propertyNames": {"enum": ["a"]}, "properties": {"b": {"const": "y"}}, "additionalProperties": NUMBER}
    constraint = compiled(
        {
            "type": "object",
            "properties": {
                "u": {"oneOf": [{"type": "string"}, array]},
                "names": {"type": "object"} | names,
                "v": schema,
            },
        }
    )
    assert [text for text in accepted if not constraint.accepts(text)] == []
    assert [text for text in refused if constraint.accepts(text)] == []


def test_two_anchors_of_one_name_are_refused_in_unions() -> None:
    named = [{"$anchor": "a", "const": 1}, {"$anchor": "a", "const": 2}]
    with pytest.raises(RequestError, match="anchor"):
        enforceable(json.dumps(union(*named)))


def test_schemas_that_refer_to_themselves_are_compared_to_an_end() -> None:
    around = {"allOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}, {"$ref": "#"}]}
    with pytest.raises(RequestError):
        compiled(union(around, around))


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 1, 1.0, 2, "a", "b", [], {}, {"a": 1}, {"a": "b"}, {"b": 1}, {"a": 1, "b": 1}]
)
TYPES = st.sampled_from(["string", "number", "integer", "boolean", "null", "object", "array"])
SIMPLE = st.one_of(
    st.builds(lambda kind: {"type": kind}, TYPES),
    st.builds(lambda value: {"const": value}, VALUES),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=3)),
)


def objects(members: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["a", "b"])
    return st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(names, members | st.booleans(), max_size=2),
            "required": st.lists(names, unique=True),
            "additionalProperties": st.booleans(),
        },
    )


MEMBERS = st.recursive(
    SIMPLE,
    lambda members: (
        objects(members)
        | st.builds(lambda options: {"anyOf": options}, st.lists(members, min_size=1, max_size=2))
        | st.builds(lambda parts: {"allOf": parts}, st.lists(members, min_size=1, max_size=2))
    ),
    max_leaves=6,
)


def meets(value: Any, schema: Any) -> bool:
    """JSON Schema, as far as it is in `MEMBERS`."""
    if isinstance(schema, bool):
        return schema
    if not all(meets(value, each) for each in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(meets(value, each) for each in schema["anyOf"]):
        return False
    constants = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    if not any(isinstance(value, bool) == isinstance(each, bool) and value == each for each in constants):
        return False
    return "type" not in schema or (has_type(value, schema["type"]) and has_properties(value, schema))


def has_type(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (name == "number" or value == int(value))
    return isinstance(value, {"string": str, "boolean": bool, "null": type(None), "object": dict, "array": list}[name])


def has_properties(value: Any, schema: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    properties = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    return set(schema.get("required", ())) <= value.keys() and all(
        meets(each, properties.get(name, rest)) for name, each in value.items()
    )


@given(MEMBERS, MEMBERS, VALUES)
def test_nothing_that_meets_both_is_called_apart(one: dict[str, Any], other: dict[str, Any], value: Any) -> None:
    reworded = json.loads(enforceable(json.dumps({"oneOf": [one, other]})))
    if "anyOf" in reworded:
        assert not (meets(value, one) and meets(value, other))
