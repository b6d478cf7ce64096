"""Solar Open: an id, a name and arguments, each with a mark before it."""

from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import NamedCalls
from shimmy.worker.chat.toolcalls.reading import Reading, Steps

_NAME, _ARGUMENTS = "<|tool_call:name|>", "<|tool_call:args|>"


class Solar(NamedCalls, frozen=True, kw_only=True):
    def read_head(self, reading: Reading) -> Steps[tuple[str, str | None]]:
        call_id = yield from reading.name(_NAME)
        name = yield from reading.name(_ARGUMENTS)
        return name, call_id or None

    def head(self, lark: Lark, name: str) -> str:
        return f"/[a-z0-9]{{10}}/ {lark.literal(_NAME + name + _ARGUMENTS)}"


SOLAR = Solar(
    name="solar",
    begins=("<|tool_calls|>",),
    also_begins=("<|tool_call:begin|>",),
    other_marks=("<|calls|>", "<|tool_call:end|>", _NAME, _ARGUMENTS),
    section="<|tool_calls|>",
    section_end="<|calls|>",
    call="<|tool_call:begin|>",
    call_end="<|tool_call:end|>",
    last_may_end=True,
)
