"""Functionary: v3.1 writes `<function=name>`, v3.2 `>>>name`, after a prompt that ends with `>>>`."""

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import quoted
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import NamedCalls, read_arguments
from shimmy.worker.chat.toolcalls.reading import NotACall, Reading, Steps

_PYTHON = "<|python_tag|>"


class FunctionTag(NamedCalls, frozen=True, kw_only=True):
    """Code after the tag for it is a call of `python`."""

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        if mark != _PYTHON:
            yield from super().read_call(reading, mark)
        elif (yield from reading.peek()) == "{":
            yield from read_arguments(reading, "python")
        else:
            yield from read_code(reading)

    def read_head(self, reading: Reading) -> Steps[tuple[str, str | None]]:
        return (yield from reading.name(">")), None

    def head(self, lark: Lark, name: str) -> str:
        return lark.literal(f"{name}>")


def read_code(reading: Reading) -> Steps[None]:
    """All that is left is code, for a tool named `python`."""
    reading.begin("python")
    reading.arguments('{"code": "')
    yield from reading.rest(lambda text: reading.arguments(quoted(text)[1:-1]))
    reading.arguments('"}')
    reading.end()


FUNCTIONARY_31 = FunctionTag(
    name="functionary-v3.1",
    begins=("<function=",),
    also_begins=(_PYTHON,),
    other_marks=("</function>",),
    call="<function=",
    call_end="</function>",
)


class Recipients(Dialect, frozen=True, kw_only=True):
    """Each part of an answer begins with the name of whom it is for; `all` is the user."""

    def read(self, reading: Reading) -> Steps[None]:
        reading.keep()
        yield from reading.attempt(self._read_part(reading), is_guess=True)
        yield from super().read(reading)

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from self._read_part(reading)

    def _read_part(self, reading: Reading) -> Steps[None]:
        yield from reading.space()
        name = yield from reading.name("\n")
        if name == "all":
            return
        if name not in reading.tools:
            # Such signs are in texts about Python, too.
            raise NotACall
        if name == "python" and (yield from reading.peek()) != "{":
            yield from read_code(reading)
        else:
            yield from read_arguments(reading, name)

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        call = lark.either(f"{lark.literal(tool.name)} /\\n/ {lark.arguments(tool)}" for tool in tools)
        return lark.several(call, "\n>>>", most)


FUNCTIONARY_32 = Recipients(name="functionary-v3.2", begins=(">>>",))
