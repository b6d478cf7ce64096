"""What types a tool's schema has for its arguments, for formats that write them as plain text."""

import json
from functools import lru_cache
from typing import Any

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.json_scanner import as_json, quoted

_STARTS = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
_ALL = frozenset(("string", "object", "array", "boolean", "null", "number", "integer"))


@lru_cache(maxsize=64)
def argument_schemas(tool: Tool) -> dict[str, Any]:
    """The schema of each argument that is named; none where the schema cannot be read."""
    try:
        schema = json.loads(tool.parameters)
    except (ValueError, RecursionError):
        return {}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def argument_types(tool: Tool | None, name: str) -> frozenset[str]:
    """All types, where nothing is said of it."""
    return types_of(argument_schemas(tool).get(name) if tool else None)


def types_of(schema: Any) -> frozenset[str]:
    if not isinstance(schema, dict):
        return _ALL
    if "const" in schema or "enum" in schema:
        values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
        return frozenset(_type_of(json.dumps(value)) for value in values)
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            return frozenset().union(*map(types_of, schema[keyword]))
    types = schema.get("type")
    named = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    return frozenset(each for each in named if isinstance(each, str)) or _ALL


def converted(text: str, types: frozenset[str]) -> str:
    """Plain text as JSON of one of `types`; a string, where it is nothing else."""
    if types == {"string"}:
        return quoted(text)
    value = as_json(text)
    if value is None:
        return quoted(text)
    found = _type_of(value)
    if "string" not in types or types == _ALL:
        return value
    if found != "string" and (found in types or (found == "number" and "integer" in types)):
        return value
    return quoted(text)


def _type_of(value: str) -> str:
    return _STARTS.get(value[0], "number")
