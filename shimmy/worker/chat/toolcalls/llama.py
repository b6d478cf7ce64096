"""Llama 3: a JSON object and nothing before it, or after the tag for code."""

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.call_objects import read_object, read_objects
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import quoted
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.python_calls import read_call
from shimmy.worker.chat.toolcalls.reading import Reading, Steps


class Llama(Dialect, frozen=True, kw_only=True):
    """An object counts only at the beginning of a line, and if it has the name of a tool."""

    def read(self, reading: Reading) -> Steps[None]:
        while (mark := (yield from reading.find(self.begins, at_line_start=("{",)))) is not None:
            yield from reading.attempt(self.read_call(reading, mark), is_guess=mark == "{")

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        if mark != "{":
            yield from reading.space()
            # A call of one of the tools that the model was made with is written like one in Python.
            is_object = (yield from reading.peek()) == "{"
            yield from read_objects(reading) if is_object else read_call(reading, suffix=".call")
            return
        yield from read_object(reading, known=True)
        yield from reading.space()
        while (yield from reading.next_is(";", ",")):
            yield from reading.space()
            yield from reading.require("{")
            yield from read_object(reading, known=True)
            yield from reading.space()

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        """One call: the template refuses messages with several."""
        return f"{lark.literal(self.begins[0])}? {lark.either(self._call(lark, tool) for tool in tools)}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        named = f'{{"name": {quoted(tool.name)}, "parameters": '
        return f"{lark.literal(named)} {lark.arguments(tool)} {lark.literal('}')}"


LLAMA = Llama(name="llama", begins=("<|python_tag|>",))
