"""What is plainly wrong with the arguments of a call, where nothing kept the model from writing it. Knows no model."""

import json
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def fault(schema: str, arguments: str) -> str | None:
    """The first thing, of names and of types at the top. None says nothing about what is deeper."""
    try:
        expected, given = json.loads(schema), json.loads(arguments)
    except (ValueError, RecursionError):
        return "they are not valid JSON"
    if not isinstance(given, dict):
        return "they are not an object"
    if not isinstance(expected, dict):
        return None
    properties = expected.get("properties", {})
    for name in expected.get("required", []):
        if name not in given:
            return f"{name!r} is missing"
    for name, value in given.items():
        if name in properties:
            if not _fits(properties[name], value):
                return f"{name!r} is not what it must be"
        elif expected.get("additionalProperties") is False and "patternProperties" not in expected:
            return f"there is no {name[:40]!r}"
    return None


def _fits(schema: Any, value: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is not False
    if "enum" in schema and value not in schema["enum"]:
        return False
    types = schema.get("type", [])
    names = [types] if isinstance(types, str) else types
    return not names or any(_is(name, value) for name in names)


def _is(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, object))
