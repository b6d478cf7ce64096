"""Calls that are a name and then a JSON object with the arguments."""

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.reading import Malformed, Reading, Steps


class NamedCalls(Dialect, frozen=True, kw_only=True):
    """`section` and `section_end` are around all calls, where the format has them, `call` and `call_end` around each.
    `tail` is between the arguments and the end of a call."""

    section: str = ""
    section_end: str = ""
    call: str
    call_end: str = ""
    tail: str = ""
    separator: str = ""
    # The end may be a token that ends the answer, and then it is never seen.
    last_may_end: bool = False

    def read_head(self, reading: Reading) -> Steps[tuple[str, str | None]]:
        """Reads from the name up to the arguments: the name, and the call's id if there is one."""
        raise NotImplementedError

    def read_end(self, reading: Reading) -> Steps[None]:
        if self.call_end:
            yield from reading.close(self.call_end)

    def head(self, lark: Lark, name: str) -> str:
        """The Lark expression for what is read there."""
        raise NotImplementedError

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        if mark == self.section:
            yield from reading.space()
            yield from reading.require(self.call)
        while True:
            name, call_id = yield from self.read_head(reading)
            yield from read_arguments(reading, name, call_id)
            yield from self.read_end(reading)
            yield from reading.space()
            if not (yield from reading.next_is(self.call)):
                break
        if self.section_end:
            yield from reading.close(self.section_end)

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        call = lark.either(self._call(lark, tool) for tool in tools)
        calls = lark.several(call, self.separator, most)
        end = f"{lark.literal(self.section_end)}" if self.section_end else '""'
        return f"{lark.literal(self.section)} {calls} {f'({end})?' if self.last_may_end else end}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        head = f"{lark.literal(self.call)} {self.head(lark, tool.name)}"
        return f"{head} {lark.arguments(tool)} {lark.literal(self.tail + self.call_end)}"


def read_arguments(reading: Reading, name: str, call_id: str | None = None) -> Steps[None]:
    """A JSON object, and with it the call."""
    reading.await_arguments(name)
    yield from reading.space()
    if (yield from reading.peek()) != "{":
        # At the end it was cut.
        yield from reading.require("{")
        raise Malformed("the arguments of a call are not an object")
    reading.begin(name, call_id)
    yield from reading.json(reading.arguments)
    reading.end()
