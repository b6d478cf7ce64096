"""Mistral: a list of calls after `[TOOL_CALLS]`, or, in newer models, name and arguments of one."""

import re

from shimmy.worker.chat.toolcalls.call_objects import CallObjects, read_objects
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.named_calls import NamedCalls
from shimmy.worker.chat.toolcalls.reading import Reading, Steps

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[^\s\[\]{}]*")


class Mistral(NamedCalls, frozen=True, kw_only=True):
    """Either is read, whichever is expected; the mark between name and arguments may be missing."""

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from reading.space()
        if (yield from reading.peek()) in ("[", "{"):
            yield from read_objects(reading)
        else:
            yield from super().read_call(reading, mark)

    def read_head(self, reading: Reading) -> Steps[tuple[str, str | None]]:
        name = yield from reading.matching(_NAME)
        call_id = None
        if (yield from reading.next_is(_ID)):
            call_id = yield from reading.matching(_NAME)
        yield from reading.space()
        yield from reading.next_is(_ARGUMENTS)
        return name, call_id

    def head(self, lark: Lark, name: str) -> str:
        return lark.literal(name + _ARGUMENTS)


MISTRAL = Mistral(name="mistral", begins=(_CALLS,), other_marks=(_ID, _ARGUMENTS), call=_CALLS)


class MistralList(CallObjects, frozen=True, kw_only=True):
    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from MISTRAL.read_call(reading, mark)


# With ids of nine characters in its own answers, which it then takes from the messages, too.
MISTRAL_LIST = MistralList(name="mistral-list", begins=(_CALLS,), other_marks=(_ID, _ARGUMENTS), close="", in_list=True)
