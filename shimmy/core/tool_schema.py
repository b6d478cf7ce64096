"""The tools of a request and the schemas of their arguments, checked for whatever reads them later."""

from collections.abc import Sequence
from typing import Any

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.request import MAX_TOOL_BYTES, MAX_TOOL_DEPTH, MAX_TOOLS_BYTES, Tool


def check_total(field: str, tools: Sequence[Tool]) -> None:
    """Raises `RequestError` naming `field` where they are too much together."""
    if sum(len(tool.parameters) + len(tool.description or "") for tool in tools) > MAX_TOOLS_BYTES:
        raise RequestError(f"{field}: more than {MAX_TOOLS_BYTES} bytes in all", param=field)


def schema_text(field: str, raw: bytes) -> str:
    """A schema as it stands in the request, in which the order of the properties matters. Raises `RequestError` naming
    `field`."""
    if len(raw) > MAX_TOOL_BYTES:
        raise RequestError(f"{field}: more than {MAX_TOOL_BYTES} bytes", param=field)
    try:
        text = raw.decode()
        schema = msgspec.json.decode(raw)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise RequestError(f"{field}: not valid: {error}", param=field) from None
    except RecursionError:
        raise RequestError(f"{field}: nested too deeply", param=field) from None
    if reason := _fault(schema):
        raise RequestError(f"{field}: {reason}", param=field)
    return text


def _fault(schema: Any) -> str | None:
    """What is wrong with a schema of arguments, for whatever reads it later."""
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        return 'expected the schema of an object, with "type": "object"'
    if not isinstance(schema.get("properties", {}), dict):
        return "properties: expected an object"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return "required: expected an array of strings"
    if _is_deeper(schema, MAX_TOOL_DEPTH):
        return f"nested more than {MAX_TOOL_DEPTH} levels deep"
    return None


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        nested = [part for part in level if isinstance(part, dict | list)]
        if not nested:
            return False
        level = [each for part in nested for each in (part.values() if isinstance(part, dict) else part)]
    return any(isinstance(part, dict | list) for part in level)
