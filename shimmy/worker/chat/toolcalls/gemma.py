"""Gemma 4 and FunctionGemma: `call:name{key:value}` with strings between marks of their own."""

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.argument_types import types_of
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import MAX_DEPTH, quoted
from shimmy.worker.chat.toolcalls.lark import FREE_NAME, MAX_FREE, Lark, arguments_of, free_arguments
from shimmy.worker.chat.toolcalls.python_values import read_unquoted
from shimmy.worker.chat.toolcalls.reading import Malformed, Reading, Steps
from shimmy.worker.chat.toolcalls.tagged import plain_value


class Gemma(Dialect, frozen=True, kw_only=True):
    """A call is between `begins[0]` and `close`, a string between two `quote`. Strings and names as JSON writes them
    are read as well."""

    close: str
    quote: str

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from reading.space()
        yield from reading.require("call:")
        name = yield from reading.name("{")
        reading.begin(name)
        reading.await_arguments(name)
        yield from self._read_entries(reading, 0)
        reading.end()
        yield from reading.close(self.close)

    def _read_entries(self, reading: Reading, depth: int) -> Steps[None]:
        """What follows the brace of an object."""
        reading.arguments("{")
        yield from reading.space()
        is_first = True
        while not (yield from reading.next_is("}")):
            if not is_first:
                reading.arguments(", ")
            is_first = False
            if not (yield from self._read_string(reading)):
                reading.arguments(quoted((yield from reading.name_before(":"))))
                yield from reading.space()
            yield from reading.space()
            yield from reading.require(":")
            reading.arguments(": ")
            yield from reading.space()
            yield from self._read_value(reading, depth + 1)
            if (yield from reading.item_end("}")):
                break
        reading.arguments("}")

    def _read_items(self, reading: Reading, depth: int) -> Steps[None]:
        reading.arguments("[")
        yield from reading.space()
        is_first = True
        while not (yield from reading.next_is("]")):
            if not is_first:
                reading.arguments(", ")
            is_first = False
            yield from self._read_value(reading, depth + 1)
            if (yield from reading.item_end("]")):
                break
        reading.arguments("]")

    def _read_value(self, reading: Reading, depth: int) -> Steps[None]:
        if depth == MAX_DEPTH:
            raise Malformed(f"a call is nested more than {MAX_DEPTH} deep")
        if (yield from self._read_string(reading)):
            return
        if (yield from reading.next_is("{")):
            yield from self._read_entries(reading, depth)
            return
        if (yield from reading.next_is("[")):
            yield from self._read_items(reading, depth)
            return
        reading.arguments((yield from read_unquoted(reading)))

    def _read_string(self, reading: Reading) -> Steps[bool]:
        if (yield from reading.peek()) == '"':
            yield from reading.json(reading.arguments)
            return True
        if not (yield from reading.next_is(self.quote)):
            return False
        reading.arguments('"')
        yield from reading.until(self.quote, write=lambda text: reading.arguments(quoted(text)[1:-1]))
        reading.arguments('"')
        return True

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        return lark.several(lark.either(self._call(lark, tool) for tool in tools), "", most)

    def _call(self, lark: Lark, tool: Tool) -> str:
        opening = lark.literal(f"{self.begins[0]}call:{tool.name}{{")
        return lark.rule(f"{opening} {self.arguments(lark, tool)} {lark.literal(self.close)}")

    def arguments(self, lark: Lark, tool: Tool) -> str:
        first: list[str] = []
        rest: list[str] = []
        for each in arguments_of(tool):
            if types_of(each.schema) == {"string"}:
                value = f"{lark.literal(self.quote)} {plain_value(lark, tool, each.schema, '', self.quote)}"
            else:
                value = lark.schema(each.schema)
            (first if each.is_required else rest).append(lark.rule(f"{lark.literal(each.name + ':')} {value}"))
        inside = lark.arranged(first, rest, ",")
        if (free := free_arguments(tool)) is not None:
            named = lark.rule(f"{FREE_NAME} {lark.literal(':')} {lark.schema(free)}")
            inside = f"({lark.several(named, ',', MAX_FREE)})?"
        return f"{inside} {lark.literal('}')}"


GEMMA = Gemma(
    name="gemma",
    begins=("<|tool_call>",),
    other_marks=("<tool_call|>", '<|"|>'),
    close="<tool_call|>",
    quote='<|"|>',
)
FUNCTION_GEMMA = Gemma(
    name="function-gemma",
    begins=("<start_function_call>",),
    other_marks=("<end_function_call>", "<escape>"),
    close="<end_function_call>",
    quote="<escape>",
)
