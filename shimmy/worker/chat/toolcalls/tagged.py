"""Calls whose arguments stand in tags, each by itself: text for strings, JSON for all else."""

import json
from typing import Any

from shimmy.core.errors import Unsupported
from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.argument_types import argument_types, converted, types_of
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import quoted
from shimmy.worker.chat.toolcalls.lark import FREE_NAME, MAX_FREE, Lark, arguments_of, free_arguments
from shimmy.worker.chat.toolcalls.python_values import read_value
from shimmy.worker.chat.toolcalls.reading import Reading, Steps

_NOT_IN_TEXT = {"pattern", "format"}


class Tagged(Dialect, frozen=True, kw_only=True):
    """`section` and `section_end` are around all calls, where the format has them; a call is its name between `call`
    and `name_end`, arguments, and `call_end`; an argument its name between `key` and `key_end`, its text between
    `value` and `value_end`. `gap` is what the template writes between all these, `padding` what is around a value."""

    section: str = ""
    section_end: str = ""
    call: str
    name_end: str
    call_end: str
    key: str
    key_end: str
    value: str = ""
    value_end: str
    gap: str = "\n"
    padding: str = ""
    # Between calls, within a section or without.
    separator: str = "\n"
    # Whether each call has a section of its own.
    one_each: bool = False

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        if mark == self.section:
            yield from reading.space()
            yield from reading.require(self.call)
        while True:
            yield from self._read_one(reading)
            yield from reading.space()
            if not (yield from reading.next_is(self.call)):
                break
        if self.section_end:
            yield from reading.close(self.section_end)

    def _read_one(self, reading: Reading) -> Steps[None]:
        name = yield from self.read_name(reading)
        reading.begin(name)
        reading.await_arguments(name)
        tool = reading.tools.get(name)
        opening = "{"
        yield from reading.space()
        # Some forget the end of a call before that of the section.
        ends = (self.call_end, self.section_end) if self.section_end else (self.call_end,)
        while (yield from reading.require(self.key, *ends)) == self.key:
            key = yield from reading.name(self.key_end)
            reading.arguments(f"{opening}{quoted(key)}: ")
            opening = ", "
            yield from self.read_value(reading, argument_types(tool, key))
            yield from reading.space()
        reading.arguments("{}" if opening == "{" else "}")
        reading.end()

    def read_name(self, reading: Reading) -> Steps[str]:
        return (yield from reading.name(self.name_end))

    def read_value(self, reading: Reading, types: frozenset[str]) -> Steps[None]:
        if self.value:
            yield from reading.space()
            yield from reading.require(self.value)
        if self.padding:
            yield from reading.next_is(self.padding)
        ends = (self.padding + self.value_end, self.value_end) if self.padding else (self.value_end,)
        yield from self.read_text(reading, types, *ends)

    def read_text(self, reading: Reading, types: frozenset[str], *ends: str) -> Steps[None]:
        """A value and what ends it; a string is written as it comes, and so is what cannot be one: in its strings there
        may be what looks like its end."""
        if "string" not in types and (yield from reading.peek()) in ("{", "["):
            yield from read_value(reading, reading.arguments)
            yield from reading.space()
            yield from reading.require(self.value_end)
            return
        if types == {"string"}:
            reading.arguments('"')
            yield from reading.until(*ends, write=lambda text: reading.arguments(quoted(text)[1:-1]))
            reading.arguments('"')
            return
        parts: list[str] = []
        yield from reading.until(*ends, write=parts.append)
        reading.arguments(converted("".join(parts), types))

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        call = lark.either(self._call(lark, tool) for tool in tools)
        opening = lark.literal(self.section + self.gap) if self.section else '""'
        closing = lark.literal(self.gap + self.section_end) if self.section else '""'
        if self.one_each:
            return lark.several(lark.rule(f"{opening} {call} {closing}"), self.separator, most)
        return f"{opening} {lark.several(call, self.separator, most)} {closing}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        return lark.rule(f"{lark.literal(self.call + tool.name + self.name_end)} {self.arguments(lark, tool)}")

    def arguments(self, lark: Lark, tool: Tool) -> str:
        parts = [lark.literal(self.gap)]
        for each in arguments_of(tool):
            argument = f"{lark.literal(self.key + each.name + self.key_end)} {self.written(lark, tool, each.schema)}"
            rule = lark.rule(f"{argument} {lark.literal(self.gap)}")
            parts.append(rule if each.is_required else f"{rule}?")
        if (free := free_arguments(tool)) is not None:
            named = f"{lark.literal(self.key)} {FREE_NAME} {lark.literal(self.key_end)}"
            parts.append(f"({named} {self.written(lark, tool, free)} {lark.literal(self.gap)}){{0,{MAX_FREE}}}")
        return f"{' '.join(parts)} {lark.literal(self.call_end)}"

    def written(self, lark: Lark, tool: Tool, schema: dict[str, Any]) -> str:
        """A value, what is before it, and its end."""
        before = lark.literal((self.gap + self.value if self.value else "") + self.padding)
        return f"{before} {plain_value(lark, tool, schema, self.padding, self.value_end)}"


def plain_value(lark: Lark, tool: Tool, schema: dict[str, Any], padding: str, end: str) -> str:
    """The Lark expression for a value that is not quoted, and what ends it."""
    if "string" not in types_of(schema):
        return f"{lark.schema(schema)} {lark.literal(padding + end)}"
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        texts = (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
        return f"({' | '.join(map(lark.literal, texts))}) {lark.literal(padding + end)}"
    if tool.strict and (found := _NOT_IN_TEXT & schema.keys()):
        raise Unsupported(
            f"the parameters of {tool.name[:100]!r}: {found.pop()!r} cannot be enforced in the way this model writes "
            "strings",
            param="tools",
        )
    return lark.text_up_to(padding, end, schema.get("minLength", 0), schema.get("maxLength"))
