"""Writes a grammar in llguidance's Lark (docs/syntax.md there), rule by rule. Knows no dialect."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shimmy.core.errors import RequestError
from shimmy.core.request import Tool, ToolChoice
from shimmy.worker.constraints.schema import enforceable

# At each place at most so much, so that no model writes spaces for ever.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"


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

    def schema(self, schema: Any) -> str:
        """JSON by a schema that can be enforced."""
        options = {"x-guidance": {"whitespace_pattern": _WHITESPACE}}
        return self.rule("%json " + json.dumps(options | schema, ensure_ascii=False))

    def arguments(self, tool: Tool) -> str:
        return self.schema(parameters(tool))


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


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
