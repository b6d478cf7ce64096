"""gpt-oss: an answer is messages, each with a header that says in which channel it is and to whom it goes."""

import re

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import read_arguments
from shimmy.worker.chat.toolcalls.reading import Reading, Steps

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_TO = re.compile(r"\bto=([^\s<]+)")
_IN = re.compile(re.escape(_CHANNEL) + r"\s*(\w+)")
_PEOPLE = ("user", "assistant")


class Harmony(Dialect, frozen=True, kw_only=True):
    """What is in the channel `analysis` is thought, what goes to a function is a call, and all else content. The prompt
    ends within the first header."""

    def read(self, reading: Reading) -> Steps[None]:
        reading.keep()
        mark = yield from reading.next_is(" to=", "to=")
        if mark is None:
            reading.forget()
            mark = yield from reading.find(self.marks)
        while mark is not None:
            is_thought = None
            if mark in self.also_begins or mark.endswith("to="):
                is_thought = yield from reading.attempt(self._read_header(reading, mark))
            reading.forget()
            mark = yield from reading.find(self.marks, write=reading.think if is_thought else reading.say)

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from self._read_header(reading, mark)

    def _read_header(self, reading: Reading, mark: str) -> Steps[bool]:
        """A header, and the call that it begins; whether it begins a thought."""
        header = mark + (yield from reading.name(_MESSAGE))
        to, channel = _TO.search(header), _IN.search(header)
        if to and to[1] not in _PEOPLE:
            yield from read_arguments(reading, to[1].removeprefix("functions."))
            return False
        return bool(channel and channel[1] == "analysis")

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        """One call, which ends the answer; the model may think before it."""
        opening = lark.literal(_CHANNEL + "analysis" + _MESSAGE)
        thought = lark.text_up_to("", "<|end|>", char=r"(?:[^<]|<[^<|])")
        analysis = lark.rule(f"{opening} {thought} {lark.literal(_START + 'assistant')}")
        return f"{analysis}? {lark.either(self._call(lark, tool) for tool in tools)}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        header = f"{_CHANNEL}commentary to=functions.{tool.name} {_CONSTRAIN}json{_MESSAGE}"
        return f"{lark.literal(header)} {lark.arguments(tool)}"


HARMONY = Harmony(
    name="harmony",
    begins=(),
    also_begins=(_START, _CHANNEL),
    other_marks=(_MESSAGE, _CONSTRAIN, *_ENDS),
    reads_thoughts=True,
)
