"""Apertus: a list of objects that have the name of a tool, and with it its arguments."""

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.call_objects import read_string
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import quoted
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import read_arguments
from shimmy.worker.chat.toolcalls.reading import Reading, Steps

_BEGIN, _END = "<|tools_prefix|>", "<|tools_suffix|>"


class Apertus(Dialect, frozen=True, kw_only=True):
    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from reading.space()
        yield from reading.require("[")
        yield from reading.space()
        ended = False
        while not ended:
            yield from reading.require("{")
            yield from reading.space()
            name = yield from read_string(reading)
            yield from reading.space()
            yield from reading.require(":")
            yield from read_arguments(reading, name)
            yield from reading.space()
            yield from reading.require("}")
            ended = yield from reading.item_end("]")
        yield from reading.close(_END)

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        call = lark.either(
            f"{lark.literal('{' + quoted(tool.name) + ': ')} {lark.arguments(tool)} {lark.literal('}')}"
            for tool in tools
        )
        return f"{lark.literal(_BEGIN + '[')} {lark.several(call, ', ', most)} {lark.literal(']' + _END)}"


APERTUS = Apertus(name="apertus", begins=(_BEGIN,), other_marks=(_END,))
