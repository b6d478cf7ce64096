"""Calls as Python writes them: `[f(a=1), g(b="x")]`."""

import re

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.argument_types import argument_schemas
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import quoted
from shimmy.worker.chat.toolcalls.lark import FREE_NAME, MAX_FREE, Lark, arguments_of, free_arguments
from shimmy.worker.chat.toolcalls.python_values import read_value
from shimmy.worker.chat.toolcalls.reading import Malformed, NotACall, Reading, Steps

_NAME = re.compile(r"[\w.\-]*")


class PythonCalls(Dialect, frozen=True, kw_only=True):
    """A list of calls, between `begins[0]` and `close` where the format has such marks. Without them a list counts only
    at the beginning of a line, and if it begins with a call of a tool."""

    close: str = ""

    def read(self, reading: Reading) -> Steps[None]:
        if self.close:
            yield from super().read(reading)
            return
        while (yield from reading.find((), at_line_start=("[",))) is not None:
            yield from reading.attempt(read_calls(reading, known=True), is_guess=True)

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from reading.space()
        if (yield from reading.next_is("[")):
            yield from read_calls(reading)
        else:
            yield from read_call(reading)
        yield from reading.close(self.close)

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        call = lark.either(self._call(lark, tool) for tool in tools)
        opening = self.begins[0] if self.close else ""
        return f"{lark.literal(opening + '[')} {lark.several(call, ', ', most)} {lark.literal(']' + self.close)}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        return lark.rule(f"{lark.literal(tool.name + '(')} {self.arguments(lark, tool)}")

    def arguments(self, lark: Lark, tool: Tool) -> str:
        """JSON is nearly Python; the words of JSON are read as well."""
        first: list[str] = []
        rest: list[str] = []
        for each in arguments_of(tool):
            value = lark.rule(f"{lark.literal(each.name + '=')} {lark.schema(each.schema)}")
            (first if each.is_required else rest).append(value)
        inside = lark.arranged(first, rest, ", ")
        if (free := free_arguments(tool)) is not None:
            named = lark.rule(f"{FREE_NAME} {lark.literal('=')} {lark.schema(free)}")
            inside = f"({lark.several(named, ', ', MAX_FREE)})?"
        return f"{inside} {lark.literal(')')}"


def read_calls(reading: Reading, *, known: bool = False) -> Steps[None]:
    """What follows the bracket of a list."""
    ended = False
    while not ended:
        yield from reading.space()
        yield from read_call(reading, known=known)
        ended = yield from reading.item_end("]")


def read_call(reading: Reading, *, known: bool = False, suffix: str = "") -> Steps[None]:
    """A call whose name must end with `suffix`, which is no part of it."""
    name = yield from reading.matching(_NAME)
    if not name.endswith(suffix):
        raise Malformed("what is there is not a call")
    name = name.removesuffix(suffix)
    if known and name not in reading.tools:
        raise NotACall
    yield from reading.require("(")
    reading.begin(name)
    if not suffix:
        reading.await_arguments(name)
    positional = list(argument_schemas(reading.tools[name])) if name in reading.tools else []
    opening = "{"
    yield from reading.space()
    while not (yield from reading.next_is(")")):
        key = yield from _read_key(reading, positional)
        if key in positional:
            positional.remove(key)
        reading.arguments(f"{opening}{quoted(key)}: ")
        opening = ", "
        yield from read_value(reading, reading.arguments)
        if (yield from reading.item_end(")")):
            break
    reading.arguments("{}" if opening == "{" else "}")
    reading.end()


def _read_key(reading: Reading, positional: list[str]) -> Steps[str]:
    """Up to the value, whose name may be missing. A word and a number begin alike, so only a quote tells them apart."""
    if (yield from reading.peek()) in ("'", '"', "[", "{"):
        if not positional:
            raise Malformed("an argument of a call has no name")
        return positional[0]
    key = yield from reading.matching(_NAME)
    yield from reading.space()
    yield from reading.require("=")
    yield from reading.space()
    return key
