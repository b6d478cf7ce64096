"""Which schemas no value can meet two of, so that "oneOf" is "anyOf" for them; what the rest is, llguidance says.

llguidance finds that out itself, but not behind references, where libraries put the members of a union.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from shimmy.worker.constraints.references import References

# For one schema; each takes some microseconds, and a long list counts as several.
MAX_COMPARISONS = 50_000
# Copies of members that get a required property, and what they may add to the schema.
MAX_TAGGED = 128
MAX_TAGGED_CHARS = 64 << 10
_MAX_DEPTH = 8
_LONG_LIST = 4
# What is referred to, which a copy does not replace.
_ONCE = {"$defs", "definitions", "$anchor", "$schema"}


class _Facts(NamedTuple):
    """What a schema says itself: `types` and `values` that a value may have, None where any."""

    schema: dict[str, Any]
    types: set[str] | None
    values: set[tuple[str, Any]] | None


class OneOf:
    """For one schema that has been checked, but for `discriminator`, which is still in it."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._comparisons_left = MAX_COMPARISONS
        self._chars_left = MAX_TAGGED_CHARS
        # By the identity of what they are about, which must not be another's meanwhile.
        self._facts: dict[int, _Facts] = {}
        self._tagged_members: dict[tuple[int, str], dict[str, str]] = {}

    def reword(self, schema: dict[str, Any]) -> None:
        """Changes one with `oneOf`. Where its members can only be told apart by the property that its `discriminator`
        names, they get it as a required one: OpenAPI has it so, and programs that read such a value look for it."""
        tag = schema.pop("discriminator", {}).get("propertyName")
        members = schema["oneOf"]
        if "anyOf" in schema:
            return
        if not self._are_apart(members):
            if tag is None or not self._may_tag(members, tag):
                return
            if not self._are_apart([_with_required(self._whole(each), tag) for each in members]):
                return
            members = [self._tagged(each, tag) for each in members]
        del schema["oneOf"]
        schema["anyOf"] = members

    def _are_apart(self, members: list[Any]) -> bool:
        return all(self._is_apart(one, other, 0) for at, one in enumerate(members) for other in members[:at])

    def _is_apart(self, one: Any, other: Any, depth: int) -> bool:
        """Whether it is certain that no value meets both."""
        if one is False or other is False:
            return True
        if depth > _MAX_DEPTH or not isinstance(one, dict) or not isinstance(other, dict):
            return False
        ones, others = self._all_of(one), self._all_of(other)
        if not self._may_spend(len(ones) * len(others)):
            return False
        if any(self._contradict(each, every, depth) for each in ones for every in others):
            return True
        return any(
            all(self._is_apart(option, whole, depth + 1) for option in options)
            for parts, whole in ((ones, other), (others, one))
            for part in parts
            for options in _options(part.schema)
        )

    def _may_spend(self, cost: int) -> bool:
        self._comparisons_left -= cost
        return self._comparisons_left >= 0

    def _all_of(self, schema: dict[str, Any]) -> list[_Facts]:
        """Of the schemas that a value of this one meets as well, and of itself."""
        found: dict[int, _Facts] = {}
        waiting: list[Any] = [schema]
        while waiting:
            each = waiting.pop()
            if isinstance(each, dict) and id(each) not in found and self._may_spend(1):
                found[id(each)] = self._facts_of(each)
                waiting += each.get("allOf", ())
                if "$ref" in each:
                    waiting.append(self._references.target(each["$ref"]))
        return list(found.values())

    def _facts_of(self, schema: dict[str, Any]) -> _Facts:
        if id(schema) not in self._facts:
            values = _values(schema)
            self._facts[id(schema)] = _Facts(schema, _types(schema, values), values)
        return self._facts[id(schema)]

    def _contradict(self, one: _Facts, other: _Facts, depth: int) -> bool:
        if one.types is None or other.types is None:
            return False
        both = one.types & other.types
        if not both:
            return True
        if one.values is not None and other.values is not None:
            cost = min(len(one.values), len(other.values)) // _LONG_LIST
            return self._may_spend(cost) and not one.values & other.values
        return both == {"object"} and self._have_different_properties(one.schema, other.schema, depth)

    def _have_different_properties(self, one: dict[str, Any], other: dict[str, Any], depth: int) -> bool:
        listed = [one.get("required", ()), other.get("required", ())]
        return self._may_spend(sum(map(len, listed)) // _LONG_LIST) and any(
            _is_forbidden(name, one)
            or _is_forbidden(name, other)
            or (
                name in one.get("properties", ())
                and name in other.get("properties", ())
                and self._is_apart(one["properties"][name], other["properties"][name], depth + 1)
            )
            for name in set().union(*listed)
        )

    def _may_tag(self, members: list[Any], tag: str) -> bool:
        """Whether there may be as many copies more as that takes."""
        if self._chars_left < 0:
            return False
        wholes = {id(whole): whole for whole in map(self._whole, members) if _with_required(whole, tag) is not whole}
        new = [whole for whole in wholes.values() if (id(whole), tag) not in self._tagged_members]
        self._chars_left -= sum(len(json.dumps(_with_required(each, tag))) for each in new)
        return self._chars_left >= 0 and len(self._tagged_members) + len(new) <= MAX_TAGGED

    def _whole(self, member: Any) -> Any:
        """What a member is that is nothing but a reference."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(member, dict) or set(member) != {"$ref"}:
                break
            member = self._references.target(member["$ref"])
        return member

    def _tagged(self, member: Any, tag: str) -> Any:
        """A copy, which is referred to where the member was: it may contain itself."""
        whole = self._whole(member)
        if _with_required(whole, tag) is whole:
            return member
        if (id(whole), tag) not in self._tagged_members:
            copy = _with_required(whole, tag)
            self._tagged_members[id(whole), tag] = self._references.define(copy)
            if "oneOf" in copy:
                self.reword(copy)
        return self._tagged_members[id(whole), tag]


def _with_required(schema: Any, name: str) -> Any:
    if not isinstance(schema, dict) or name in schema.get("required", ()):
        return schema
    copied = {keyword: value for keyword, value in schema.items() if keyword not in _ONCE}
    return copied | {"required": [*schema.get("required", ()), name]}


def _options(schema: dict[str, Any]) -> Iterator[list[Any]]:
    """Lists of schemas of which a value meets one."""
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            yield schema[keyword]


def _is_forbidden(name: str, schema: dict[str, Any]) -> bool:
    properties = schema.get("properties", {})
    if name in properties:
        return properties[name] is False
    return schema.get("additionalProperties") is False and not schema.get("patternProperties")


def _types(schema: dict[str, Any], values: set[tuple[str, Any]] | None) -> set[str] | None:
    if values is not None:
        return {kind for kind, _ in values}
    types = schema.get("type")
    if types is None:
        return None
    # Every integer is a number, and some numbers are integers.
    return {"number" if each == "integer" else each for each in ([types] if isinstance(types, str) else types)}


def _values(schema: dict[str, Any]) -> set[tuple[str, Any]] | None:
    if "const" in schema:
        return {_value(schema["const"])}
    return {_value(each) for each in schema["enum"]} if "enum" in schema else None


def _value(value: Any) -> tuple[str, Any]:
    """Its type, and something that is equal where values are: 1 and 1.0 are, 1 and true are not."""
    match value:
        case bool():
            return "boolean", value
        case int() | float():
            # As text: which numbers have the same hash is known, and comparing many of those takes long.
            is_whole = math.isfinite(value) and value == int(value)
            return "number", f"{int(value):x}" if is_whole else repr(value)
        case str():
            return "string", value
        case list():
            return "array", tuple(map(_value, value))
        case dict():
            return "object", frozenset((name, _value(each)) for name, each in value.items())
        case _:
            return "null", None
