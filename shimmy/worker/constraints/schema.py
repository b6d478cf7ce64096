"""What of JSON Schema (draft 2020-12) is enforced, and that nothing else passes unnoticed. Knows no llguidance.

llguidance ignores keywords that it does not know, and a few formats it takes wider than their definition. So every
keyword must be in a table here, or the request fails and says which one; and those formats become patterns.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from typing import Any

from shimmy.core.errors import RequestError, Unsupported
from shimmy.worker.constraints.one_of import OneOf
from shimmy.worker.constraints.references import References
from shimmy.worker.constraints.rewording import reworded, with_names

MAX_DEPTH = 64
MAX_NODES = 5000
MAX_PROPERTIES = 512
MAX_PATTERN_CHARS = 1024
# llguidance compares each with each.
MAX_PATTERN_PROPERTIES = 32
# How many patterns may hold for one string: to find out whether any string meets them all takes twice as long for each.
MAX_PATTERNS_AT_ONCE = 6
_MAX_PLACES = 20_000

_ANNOTATIONS = {"title", "description", "default", "examples", "example", "$comment", "deprecated", "readOnly"}
_ANNOTATIONS |= {"writeOnly", "discriminator", "externalDocs", "xml"}
# Of older drafts, of editors, of code generators, and of Snowplow.
_ANNOTATIONS |= {"readonly", "links", "enumNames", "enumDescriptions", "markdownDescription", "javaType", "self"}
# JSON Schema leaves it to applications whether these are checked; here they would not be.
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}

_DAY = r"(?:0[1-9]|1\d|2[0-8])"
_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    rf"(?:\d{{4}}-(?:(?:0[1-9]|1[0-2])-{_DAY}|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# RFC 3339 without leap seconds, and host names without what is only valid where it decodes as Punycode.
_STRICTER: dict[str, list[dict[str, Any]]] = {
    "date": [{"pattern": f"^{_DATE}$"}],
    "time": [{"pattern": f"^{_TIME}$"}],
    "date-time": [{"pattern": f"^{_DATE}[Tt]{_TIME}$"}],
    "hostname": [
        {"pattern": rf"^{_LABEL}(?:\.{_LABEL})*$", "maxLength": 253},
        {"pattern": r"^[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*$"},
    ],
}


def enforceable(text: str) -> str:
    """The schema as it is handed on. Raises `RequestError` that says what is wrong where, for what is no schema, what
    cannot be enforced, and what is too large."""
    try:
        enforced = json.dumps(_checked(_parsed(text)), ensure_ascii=False)
        enforced.encode()
        return enforced
    except UnicodeEncodeError:
        raise RequestError("the schema has half a character, a surrogate without its other half") from None
    except RecursionError:
        # Annotations are not counted as parts, and a chain of references is not nested.
        raise RequestError("the schema is nested too deeply, or its references lead too far") from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise RequestError(f"the schema is not valid JSON: {error}") from None


def _checked(schema: Any) -> Any:
    check = _Check()
    checked = check.schema(schema, "#", 0)
    if isinstance(checked, dict):
        references = References(checked, check.schemas)
        if check.with_names or check.with_one_of:
            references.settle()
        for path, each in check.with_names:
            check.count(with_names(each, references, path))
        one_of = OneOf(references)
        for each in check.with_one_of:
            one_of.reword(each)
        _Patterns(checked, references).check()
    return checked


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


class _Check:
    """Goes through a schema, and makes one without annotations of it. `with_names` and `with_one_of` are parts of that
    which are not enforced as they are, `schemas` all of it."""

    def __init__(self) -> None:
        self._num_nodes = 0
        self.schemas: list[dict[str, Any]] = []
        self.with_names: list[tuple[str, dict[str, Any]]] = []
        self.with_one_of: list[dict[str, Any]] = []

    def count(self, num_nodes: int) -> None:
        self._num_nodes += num_nodes
        if self._num_nodes > MAX_NODES:
            raise RequestError(f"the schema has more than {MAX_NODES} parts")

    def schema(self, schema: Any, path: str, depth: int) -> Any:
        self.count(1)
        if depth > MAX_DEPTH:
            raise RequestError(f"the schema is nested more than {MAX_DEPTH} deep")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise RequestError(f"{path}: a schema is an object, true or false")
        _check_pattern(schema.get("pattern"), f"{path}/pattern")
        schema = reworded(schema)
        kept: dict[str, Any] = {}
        for keyword, value in schema.items():
            if not _says_nothing(keyword) and not (_is_name(keyword, value) and (depth == 0 or not _refers(schema))):
                kept[keyword] = self._value(keyword, value, f"{path}/{keyword}", depth + 1)
        _check_num_properties(kept, path)
        kept = _with_stricter_format(kept)
        self.schemas.append(kept)
        if "propertyNames" in kept:
            self.with_names.append((path, kept))
        if "oneOf" in kept:
            kept |= _discriminator(schema)
            self.with_one_of.append(kept)
        return kept

    def _value(self, keyword: str, value: Any, path: str, depth: int) -> Any:
        if keyword in _SCHEMA:
            return self.schema(value, path, depth)
        if keyword in _SCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
            return self._list(value, path, depth)
        if keyword == "items":
            return self.schema(value, path, depth)
        if keyword in _SCHEMA_MAPS:
            return self._map(value, path, depth)
        is_right = _VALUES.get(keyword)
        if is_right is None:
            raise Unsupported(f"{path}: the keyword {keyword[:40]!r} is not supported, and would not be enforced")
        if not is_right(value):
            raise RequestError(f"{path}: not a value of this keyword")
        if keyword in ("const", "enum"):
            self._data(value, depth)
        if is_right is _is_count:
            return int(value)
        if keyword == "format" and value not in _FORMATS:
            raise Unsupported(f"{path}: the format {value[:40]!r} is not supported, and would not be enforced")
        return value

    def _list(self, value: Any, path: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise RequestError(f"{path}: must be a list of schemas")
        return [self.schema(each, f"{path}/{at}", depth) for at, each in enumerate(value)]

    def _map(self, value: Any, path: str, depth: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise RequestError(f"{path}: must be an object with schemas")
        if path.endswith("/properties") and len(value) > MAX_PROPERTIES:
            raise RequestError(f"{path}: more than {MAX_PROPERTIES} properties")
        if path.endswith("/patternProperties"):
            if len(value) > MAX_PATTERN_PROPERTIES:
                raise RequestError(f"{path}: more than {MAX_PATTERN_PROPERTIES} patterns")
            if any(len(name) > MAX_PATTERN_CHARS for name in value):
                raise RequestError(f"{path}: a pattern of more than {MAX_PATTERN_CHARS} characters")
        return {name: self.schema(each, f"{path}/{name[:100]}", depth) for name, each in value.items()}

    def _data(self, value: Any, depth: int) -> None:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES or depth > MAX_DEPTH:
            raise RequestError(f"the schema has more than {MAX_NODES} parts, or is nested more than {MAX_DEPTH} deep")
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for part in parts:
            self._data(part, depth + 1)


def _check_pattern(pattern: Any, path: str) -> None:
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN_CHARS:
        raise RequestError(f"{path}: more than {MAX_PATTERN_CHARS} characters")


def _says_nothing(keyword: str) -> bool:
    return keyword in _ANNOTATIONS or keyword.startswith("x-")


def _discriminator(schema: dict[str, Any]) -> dict[str, Any]:
    """As long as it is needed to tell the members of `oneOf` apart."""
    discriminator = schema.get("discriminator")
    has_name = isinstance(discriminator, dict) and isinstance(discriminator.get("propertyName"), str)
    return {"discriminator": discriminator} if has_name else {}


def _is_name(keyword: str, value: Any) -> bool:
    return keyword in ("$id", "id") and isinstance(value, str)


def _refers(schema: Any) -> bool:
    """Whether it makes a difference that a schema within another has a name: references in it start from there."""
    if isinstance(schema, dict):
        return "$ref" in schema or any(map(_refers, schema.values()))
    return isinstance(schema, list) and any(map(_refers, schema))


def _check_num_properties(schema: dict[str, Any], path: str) -> None:
    """Properties that the schema does not name may come twice under one name, which then counts once."""
    required = schema.get("required", ())
    if schema.get("minProperties", 0) > len(set(required)) + 1:
        raise Unsupported(
            f"{path}/minProperties: not supported, and would not be enforced, when it is larger than the number of "
            "required properties and one"
        )


def _with_stricter_format(schema: dict[str, Any]) -> dict[str, Any]:
    stricter = _STRICTER.get(schema.get("format", ""))
    if stricter is None:
        return schema
    rest = {keyword: value for keyword, value in schema.items() if keyword != "format"}
    return {**rest, "allOf": [*schema.get("allOf", []), *stricter]}


class _Patterns:
    """Counts the patterns that may hold for one string. Names and indices lead to places; what is said of all others is
    counted under a name of its own."""

    def __init__(self, root: dict[str, Any], references: References) -> None:
        self._root = root
        self._references = references
        self._known: dict[str, Counter[str]] = {}

    def check(self) -> None:
        for place, count in self._of(self._root).items():
            if count > MAX_PATTERNS_AT_ONCE:
                where = place or "the whole value"
                raise RequestError(f"more than {MAX_PATTERNS_AT_ONCE} patterns or formats for one string: {where}")

    def _of(self, schema: Any) -> Counter[str]:
        if not isinstance(schema, dict):
            return Counter()
        counts = Counter({"": 1} if "pattern" in schema or "format" in schema else {})
        for each in schema.get("allOf", ()):
            counts += self._of(each)
        for keyword in ("anyOf", "oneOf"):
            # Of several only one holds for a value.
            counts += reduce(or_, map(self._of, schema.get(keyword, ())), Counter())
        if "$ref" in schema:
            counts += self._of_target(schema["$ref"])
        for step, each in _parts(schema):
            counts += Counter({f"/{step}{place}": count for place, count in self._of(each).items()})
        if len(counts) > _MAX_PLACES:
            raise RequestError("the schema has too many patterns in schemas that refer to each other")
        return counts

    def _of_target(self, reference: str) -> Counter[str]:
        if reference not in self._known:
            # Until it is known, for one that leads to itself.
            self._known[reference] = Counter()
            self._known[reference] = self._of(self._references.target(reference))
        return self._known[reference]


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Schemas for what is in a value; "*" is whatever is not named."""
    yield from schema.get("properties", {}).items()
    for each in schema.get("patternProperties", {}).values():
        yield "*", each
    items = schema.get("items")
    first = schema.get("prefixItems", items if isinstance(items, list) else [])
    yield from ((str(at), each) for at, each in enumerate(first))
    for keyword in ("additionalProperties", "additionalItems", "items"):
        yield "*", schema.get(keyword)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_types(value: Any) -> bool:
    return isinstance(value, str) or (_are_names(value) and bool(value))


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("#")


_SCHEMA = {"additionalProperties", "additionalItems", "propertyNames"}
_SCHEMA_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SCHEMA_MAPS = {"properties", "patternProperties", "$defs", "definitions"}
_VALUES: dict[str, Callable[[Any], bool]] = {
    "type": _are_types,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "const": lambda value: True,
    "required": _are_names,
    "pattern": _is_text,
    "format": _is_text,
    "$ref": _is_local,
    "$schema": _is_text,
    "$anchor": _is_text,
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"], _is_number),
    **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"], _is_count),
}
