"""Kimi K2: a call is named with its number, which is its id."""

from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import NamedCalls
from shimmy.worker.chat.toolcalls.reading import Reading, Steps


class Kimi(NamedCalls, frozen=True, kw_only=True):
    def read_head(self, reading: Reading) -> Steps[tuple[str, str | None]]:
        call_id = yield from reading.name("<|tool_call_argument_begin|>")
        name, _, number = call_id.removeprefix("functions.").rpartition(":")
        return (name, call_id) if number.isdecimal() else (call_id, None)

    def head(self, lark: Lark, name: str) -> str:
        named = lark.literal(f"functions.{name}:")
        return f"{named} /[0-9]{{1,3}}/ {lark.literal('<|tool_call_argument_begin|>')}"


KIMI_K2 = Kimi(
    name="kimi-k2",
    begins=("<|tool_calls_section_begin|>",),
    also_begins=("<|tool_call_begin|>",),
    other_marks=("<|tool_calls_section_end|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"),
    section="<|tool_calls_section_begin|>",
    section_end="<|tool_calls_section_end|>",
    call="<|tool_call_begin|>",
    call_end="<|tool_call_end|>",
)
