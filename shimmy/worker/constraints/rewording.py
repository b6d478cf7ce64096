"""What older drafts, OpenAPI and libraries say in words that are not enforced, in others that are. Each function gets
one schema, and what it returns has the same values.
"""

import re
from collections.abc import Iterator
from typing import Any

from shimmy.core.errors import RequestError, Unsupported
from shimmy.worker.constraints.references import References

MAX_NAMES = 512
# A longer one counts as several parts of the schema.
_LONG_NAME = 64
# Zod's, which it always says as a pattern, too.
_SPELT_OUT = set("base64 base64url cidrv4 cidrv6 cuid cuid2 e164 ends_with guid hex includes ksuid lowercase".split())
_SPELT_OUT |= set("mac nanoid starts_with ulid uppercase xid".split())
# OpenAPI's and Rust's, of numbers: as far as floats are exact, and llguidance writes them.
_RANGES = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32)}
_RANGES |= {f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32)}
_RANGES |= dict.fromkeys(["int64", "int"], (1024 - 2**63, 2**63 - 1024))
_RANGES |= dict.fromkeys(["uint64", "uint"], (0, 2**63 - 1024))
_MAX_REFERENCES = 8
_BOUNDS = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_SECONDS = r"\d+([.,]\d+)?S"
_TIME = rf"T(\d+H(\d+M)?({_SECONDS})?|\d+M({_SECONDS})?|{_SECONDS})"
_DATE = r"(\d+Y(\d+M)?(\d+D)?|\d+M(\d+D)?|\d+D)"
# Zod's for durations, and for addresses before its version 4.6.
WITHOUT_LOOK_AROUND = {
    r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$": (
        rf"^P(\d+W|{_DATE}({_TIME})?|{_TIME})$"
    ),
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$": (
        r"^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
    ),
}
# What a pattern is made of, as far as its parentheses go. A class without an end takes all: to look for the end of each
# would take the square of their number.
PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]?|.", re.DOTALL)
_QUANTIFIERS = ("*", "+", "?", "{")


def reworded(schema: dict[str, Any]) -> dict[str, Any]:
    """One that has not been checked: what is not as it should be stays as it is."""
    schema = {keyword: value for keyword, value in schema.items() if not _says_nothing(keyword, value, schema)}
    for keyword, bound in _BOUNDS.items():
        if schema.get(keyword) is True and bound in schema:
            schema[keyword] = schema.pop(bound)
    if _is_whole(schema) and isinstance(schema.get("format"), str) and schema["format"] in _RANGES:
        least, most = _RANGES[schema["format"]]
        return _with(schema, "format", [{"minimum": least, "maximum": most}])
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and "(?" in pattern and len(parts := _without_look_around(pattern)) > 0:
        return _with(schema, "pattern", [{"pattern": part} for part in parts])
    return schema


def with_names(schema: dict[str, Any], references: References, path: str) -> int:
    """Changes one with `propertyNames` that has been checked, and returns how many parts it got: many may refer to one
    list. Raises `Unsupported` where they cannot be said as properties or patterns."""
    num_parts = 0
    names = _followed(schema["propertyNames"], references)
    rest = schema.get("additionalProperties", True)
    if names is True or _constrains(names) == set():
        pass
    elif "patternProperties" not in schema and _constrains(names) <= {"const", "enum"}:
        listed = dict.fromkeys(name for name in _values(names) if isinstance(name, str))
        if len(listed) > MAX_NAMES:
            raise RequestError(f"{path}/propertyNames: more than {MAX_NAMES} names")
        num_parts = sum(1 + len(name) // _LONG_NAME for name in listed)
        known = schema.get("properties", {})
        order = [*(name for name in known if name in listed), *(name for name in listed if name not in known)]
        rest = references.define(rest) if isinstance(rest, dict) else rest
        schema["properties"] = {name: known.get(name, rest) for name in order}
        schema["additionalProperties"] = False
    elif not schema.keys() & {"properties", "patternProperties"} and _constrains(names) == {"pattern"}:
        schema["patternProperties"] = {names["pattern"]: rest}
        schema["additionalProperties"] = False
    else:
        raise Unsupported(
            f"{path}/propertyNames: not supported, and would not be enforced, but for a list of names, or a pattern "
            "where nothing else names properties"
        )
    del schema["propertyNames"]
    return num_parts


def _says_nothing(keyword: str, value: Any, schema: dict[str, Any]) -> bool:
    if keyword in ("uniqueItems", *_BOUNDS):
        return value is False
    if keyword == "format" and value in ("float", "double"):
        return schema.get("type") in ("number", "integer")
    if keyword == "format" or (keyword == "contentEncoding" and value == schema.get("format")):
        return isinstance(value, str) and value in _SPELT_OUT and _has_pattern(schema)
    return False


def _has_pattern(schema: dict[str, Any]) -> bool:
    parts = schema.get("allOf")
    whole = [schema, *(parts if isinstance(parts, list) else [])]
    return any(isinstance(each, dict) and "pattern" in each for each in whole)


def _is_whole(schema: dict[str, Any]) -> bool:
    """Whether all numbers that it takes are integers."""
    types = schema.get("type")
    return types == "integer" or (isinstance(types, list) and "integer" in types and "number" not in types)


def _with(schema: dict[str, Any], instead_of: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Said with `allOf` instead."""
    more = schema.get("allOf", [])
    if not isinstance(more, list):
        return schema
    rest = {keyword: value for keyword, value in schema.items() if keyword != instead_of}
    return rest | (parts[0] if len(parts) == 1 and not parts[0].keys() & rest.keys() else {"allOf": [*more, *parts]})


def _without_look_around(pattern: str) -> list[str]:
    """Patterns that a text meets all of, if it meets this one; none where this one stays as it is."""
    if pattern in WITHOUT_LOOK_AROUND:
        return [WITHOUT_LOOK_AROUND[pattern]]
    parts, rest = [], pattern.removeprefix("^")
    while rest.startswith("(?=") and (end := _closing(rest)):
        parts.append(f"^(?:{rest[3:end]})")
        rest = rest[end + 1 :]
    # What may be left out says nothing.
    if not parts or not pattern.startswith("^") or rest.startswith(_QUANTIFIERS) or _has_alternatives(rest):
        return []
    return [*parts, f"^{rest}"]


def _closing(pattern: str) -> int:
    """Where the parenthesis ends that it begins with; 0 where it does not."""
    return next((piece.start() for piece in _outside(pattern)), 0)


def _has_alternatives(pattern: str) -> bool:
    """Whether there are some outside of all parentheses."""
    return any(piece[0] == "|" for piece in _outside(pattern))


def _outside(pattern: str) -> Iterator[re.Match[str]]:
    """Its pieces outside of all parentheses, and those that close the outermost ones."""
    depth = 0
    for piece in PIECE.finditer(pattern):
        depth += {"(": 1, ")": -1}.get(piece[0], 0)
        if depth == 0:
            yield piece


def _followed(schema: Any, references: References) -> Any:
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, dict) or schema.keys() != {"$ref"}:
            break
        schema = references.target(schema["$ref"])
    return schema


def _constrains(names: Any) -> set[str]:
    """Keywords, besides the type, that say something of a name; for `false`, a keyword of none."""
    if not isinstance(names, dict):
        return {"false"}
    is_text = "string" in _listed(names.get("type", "string"))
    return names.keys() - {"type"} if is_text else {"type"}


def _values(names: dict[str, Any]) -> list[Any]:
    if "const" not in names:
        return list(names["enum"])
    return [names["const"]] if names["const"] in names.get("enum", [names["const"]]) else []


def _listed(types: Any) -> list[Any]:
    return [types] if isinstance(types, str) else types
