"""Writes a grammar in llguidance's Lark (docs/syntax.md there), rule by rule. Knows no dialect."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from shimmy.core.errors import RequestError
from shimmy.core.request import Tool, ToolChoice
from shimmy.worker.constraints.schema import enforceable

# At each place at most so much, so that no model writes spaces for ever.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
LINE_BREAK, SPACE, ANYTHING = r"/\n/", r"/[ \t\r\n]{0,8}/", r"/[\s\S]*/"
# What an argument may be called that no schema names, as a terminal, and how many of them there may be.
FREE_NAME = "/[A-Za-z_][A-Za-z0-9_]{0,63}/"
MAX_FREE = 32
_ANY = r"[\s\S]"


class Lark:
    """Expressions are strings, put together by the caller; what needs a name of its own becomes a rule."""

    def __init__(self, control: Mapping[str, int]) -> None:
        """`control`: tokens whose text must not be spelled by others."""
        self._control = control
        self._split = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True)))) if control else None
        self._rules: list[str] = []

    def asked(self, tools: Sequence[Tool], choice: ToolChoice) -> list[Tool]:
        """The tools of which one must be called."""
        asked = [tool for tool in tools if choice.name in (None, tool.name)]
        if not asked:
            missing = f"there is no tool named {choice.name[:100]!r}" if choice.name else "there are no tools to call"
            raise RequestError(missing, param="tool_choice")
        return asked

    def start(self, expression: str) -> None:
        """The answer; some models have line breaks before it."""
        self._rules.insert(0, f"start: /\\n{{0,2}}/ {expression}")

    def text(self) -> str:
        return "\n".join(self._rules)

    def rule(self, expression: str) -> str:
        name = f"r_{len(self._rules)}"
        self._rules.append(f"{name}: {expression}")
        return name

    def literal(self, text: str) -> str:
        """`text` as it is, control tokens in it as tokens."""
        if not text:
            return '""'
        if self._split is None:
            return _quoted(text)
        written, at = [], 0
        for match in self._split.finditer(text):
            written += [_quoted(text[at : match.start()])] if match.start() > at else []
            written.append(f"<[{self._control[match[0]]}]>")
            at = match.end()
        if at < len(text):
            written.append(_quoted(text[at:]))
        return " ".join(written)

    def either(self, expressions: Iterable[str]) -> str:
        return self.rule("\n  | ".join(expressions))

    def several(self, expression: str, separator: str, most: int) -> str:
        """One to `most` of them with a literal between."""
        if most == 1:
            return expression
        again = f" ({self.literal(separator)} {expression})" if separator else f" ({expression})"
        return f"{expression}{again}{{0,{most - 1}}}"

    def arranged(self, first: Sequence[str], rest: Sequence[str], separator: str) -> str:
        """All of `first`, then any of `rest`, in their order, with a literal between."""
        between = self.literal(separator)
        # What may follow once there is something, from the last on.
        tails = [""]
        for each in reversed(rest):
            tails.append(self.rule(f"({between} {each})? {tails[-1]}"))
        tails.reverse()
        if first:
            return f" {between} ".join(first) + f" {tails[0]}"
        starts = [f"{each} {tail}" for each, tail in zip(rest, tails[1:], strict=True)]
        return self.either([*starts, '""'])

    def schema(self, schema: Any) -> str:
        """JSON by a schema that can be enforced."""
        options = {"x-guidance": {"whitespace_pattern": _WHITESPACE}}
        return self.rule("%json " + json.dumps(options | schema, ensure_ascii=False))

    def arguments(self, tool: Tool) -> str:
        return self.schema(parameters(tool))

    def text_up_to(
        self, padding: str, end: str, shortest: int = 0, longest: int | None = None, char: str = _ANY
    ) -> str:
        """Any text of so many characters that does not have `end` in it, and that end with `padding` before it. What
        counts as a character is a regular expression."""
        length = f"/{char}{{{shortest},{'' if longest is None else longest}}}"
        ending = _in_regex(end)
        name = f"T_{len(self._rules)}"
        if self._split and self._split.search(end):
            # What is spelled like the control token would be read like it.
            self._rules.append(f"{name}: {length}/ & ~/{_ANY}*{ending}{_ANY}*/ & /{_ANY}+/")
            return f"{name}{'' if shortest else '?'} {self.literal(padding + end)}"
        self._rules.append(f"{name}: {length}{_in_regex(padding)}{ending}/ & ~/{_ANY}*{ending}{_ANY}+/")
        return name


def parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, an object's, as it can be enforced. Raises `RequestError` naming the tool."""
    try:
        schema = json.loads(enforceable(tool.parameters))
    except RequestError as error:
        raise type(error)(f"the parameters of {tool.name[:100]!r}: {error.message}", param="tools") from None
    if schema is False:
        raise RequestError(f"the parameters of {tool.name[:100]!r}: nothing can meet the schema false", param="tools")
    schema = {} if schema is True else schema
    types = schema.get("type", "object")
    if types != "object" and "object" not in types:
        raise RequestError(f"the parameters of {tool.name[:100]!r}: must be an object", param="tools")
    return {**schema, "type": "object"}


class Argument(NamedTuple):
    """One that a tool's schema names; `schema` stands for itself."""

    name: str
    schema: dict[str, Any]
    is_required: bool


def arguments_of(tool: Tool) -> list[Argument]:
    """Raises `RequestError` like `parameters`."""
    schema = parameters(tool)
    shared = {keyword: value for keyword, value in schema.items() if keyword in ("$defs", "definitions")}
    required = schema.get("required", [])
    return [
        Argument(name, {**(each if isinstance(each, dict) else {}), **shared}, name in required)
        for name, each in schema.get("properties", {}).items()
        if each is not False
    ]


def free_arguments(tool: Tool) -> dict[str, Any] | None:
    """What the value of an argument must be where the schema names none, and leaves it to the model."""
    schema = parameters(tool)
    rest = schema.get("additionalProperties", True)
    if schema.get("properties") or rest is False:
        return None
    shared = {keyword: value for keyword, value in schema.items() if keyword in ("$defs", "definitions")}
    return {**(rest if isinstance(rest, dict) else {}), **shared}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_regex(text: str) -> str:
    return "".join(f"\\x{{{ord(char):x}}}" for char in text)
