"""DeepSeek: R1 and V3, V3.1, and the tags of V3.2 and V4."""

import re
from typing import Any

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.argument_types import types_of
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import NamedCalls
from shimmy.worker.chat.toolcalls.reading import Reading, Steps
from shimmy.worker.chat.toolcalls.tagged import Tagged, plain_value

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```json"
_NOT_SPACE = re.compile(r"[^\s{`]*")
_IS_STRING, _IS_OTHER = ' string="true">', ' string="false">'
# The distilled models spell the first mark in other ways, too.
_SPELLINGS = ("<｜tool▁calls｜>", "<｜tool calls begin｜>", "<｜tool_calls_begin｜>", "<｜tool\\_calls\\_begin｜>")


class DeepSeek(NamedCalls, frozen=True, kw_only=True):
    """R1 and V3 write the type of the tool before the name, and the arguments in a fence. V3.1 does neither. Each is
    read, whatever is expected."""

    fenced: bool

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        return super().read_call(reading, self.section if mark in _SPELLINGS else mark)

    def read_head(self, reading: Reading) -> Steps[tuple[str, str | None]]:
        name = yield from reading.name(_SEPARATOR)
        yield from reading.space()
        if (yield from reading.peek()) not in ("{", ""):
            # That was the type.
            name = (yield from reading.matching(_NOT_SPACE)) or name
            yield from reading.space()
            yield from reading.next_is(_FENCE)
        return name, None

    def read_end(self, reading: Reading) -> Steps[None]:
        yield from reading.space()
        yield from reading.next_is("```")
        yield from super().read_end(reading)

    def head(self, lark: Lark, name: str) -> str:
        return lark.literal(f"function{_SEPARATOR}{name}\n{_FENCE}\n" if self.fenced else name + _SEPARATOR)


_FORM: dict[str, Any] = {
    "begins": (_CALLS,),
    "other_marks": (_CALLS_END, _CALL_END, _SEPARATOR),
    "section": _CALLS,
    "section_end": _CALLS_END,
    "call": _CALL,
    "call_end": _CALL_END,
}
DEEPSEEK_R1 = DeepSeek(
    name="deepseek-r1",
    also_begins=(_CALL, *_SPELLINGS),
    fenced=True,
    tail="\n```",
    separator="\n",
    **_FORM,
)
DEEPSEEK_V31 = DeepSeek(name="deepseek-v3.1", also_begins=(_CALL,), fenced=False, **_FORM)


class Typed(Tagged, frozen=True, kw_only=True):
    """Each argument says whether it is a string."""

    def read_value(self, reading: Reading, types: frozenset[str]) -> Steps[None]:
        attribute = yield from reading.name(">")
        if 'string="true"' in attribute:
            types = frozenset(["string"])
        elif 'string="false"' in attribute:
            types = frozenset(["null"])
        yield from super().read_value(reading, types)

    def written(self, lark: Lark, tool: Tool, schema: dict[str, Any]) -> str:
        types = types_of(schema)
        written = []
        if "string" in types:
            text = plain_value(lark, tool, schema, self.padding, self.value_end)
            written.append(f"{lark.literal(_IS_STRING)} {text}")
        if types != {"string"}:
            written.append(f"{lark.literal(_IS_OTHER)} {lark.schema(schema)} {lark.literal(self.value_end)}")
        return f"({' | '.join(written)})"


def _dsml(name: str, section: str) -> Typed:
    return Typed(
        name=name,
        begins=(f"<｜DSML｜{section}>",),
        other_marks=("｜DSML｜",),
        section=f"<｜DSML｜{section}>",
        section_end=f"</｜DSML｜{section}>",
        call='<｜DSML｜invoke name="',
        name_end='">',
        call_end="</｜DSML｜invoke>",
        key='<｜DSML｜parameter name="',
        key_end='"',
        value_end="</｜DSML｜parameter>",
    )


DEEPSEEK_V32 = _dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "tool_calls")
