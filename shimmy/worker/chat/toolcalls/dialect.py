"""What is known of how one family of models writes calls. Knows no tokens but the ids that a grammar must name."""

from collections.abc import Mapping, Sequence

import msgspec

from shimmy.core.request import Tool, ToolChoice
from shimmy.worker.chat.parts import Parser
from shimmy.worker.chat.toolcalls.lark import ANYTHING, LINE_BREAK, SPACE, Lark
from shimmy.worker.chat.toolcalls.reading import Reading, Steps

# So that no model calls for ever.
MAX_CALLS = 64


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """One per family. `marks` are all strings by which a call and its parts are told apart; models often have control
    tokens for them, whose text the parser must get like any other's. `begins` are those of them that begin calls, in
    the grammar too; where a dialect has none, calls have no sign but their shape. What is in `also_begins` begins calls
    where the model departs from its format. With `reads_thoughts` the parser tells thoughts from content by itself, and
    gives `Thought`.

    Calls of tools that are not among those given pass where a mark announced the call: clients answer such a call with
    an error, and the model corrects itself, where text would end its turn. Where nothing but its shape tells a call
    from an answer, a name that is not a tool's makes it content, without doubt.
    """

    name: str
    begins: tuple[str, ...]
    also_begins: tuple[str, ...] = ()
    other_marks: tuple[str, ...] = ()
    reads_thoughts: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.begins, *self.also_begins, *self.other_marks)

    def parser(self, tools: Sequence[Tool], parallel: bool) -> Parser:
        """A new one, for one answer. Without `parallel` a second call is content, and doubted. A call whose arguments
        do not become valid JSON is followed by a `Doubt`, and its text by `Content`."""
        return Reading(self.read, tools, parallel)

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice, control: Mapping[str, int] | None = None) -> str:
        """The whole of an answer that must be a call, of the tool that is named where one is: Lark as llguidance reads
        it, without options. `control` has the control tokens of the vocabulary by their text, end tokens left out:
        where a literal has such a text it is that token that must come.

        Raises `RequestError` for parameters that cannot be enforced, and where there is nothing to call.
        """
        lark = Lark(control or {})
        asked = lark.asked(tools, choice)
        lark.start(self.answer(lark, asked, MAX_CALLS if choice.parallel else 1))
        return lark.text()

    def held_arguments(self, tools: Sequence[Tool], control: Mapping[str, int] | None = None) -> str:
        """For calls that need not come: the name of one of `tools`, a line break, what is written from where the
        parser says that arguments are `due` up to their end, and then anything. The rest is as with `grammar`."""
        lark = Lark(control or {})
        each = [f"{lark.literal(tool.name)} {LINE_BREAK} {self.arguments(lark, tool)}" for tool in tools]
        return f"start: ({' | '.join(each)}) {ANYTHING}\n{lark.text()}"

    def instructions(self, tools: Sequence[Tool]) -> str | None:
        """How to tell the model of its tools, for its system message; None where its template does that."""
        return None

    def read(self, reading: Reading) -> Steps[None]:
        """Reads an answer: content, and calls that begin with a mark."""
        while (mark := (yield from reading.find((*self.begins, *self.also_begins)))) is not None:
            yield from reading.attempt(self.read_call(reading, mark))

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        """Reads what follows a mark that begins calls: a call, or several."""
        raise NotImplementedError

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        """The Lark expression of an answer of one to `most` calls of `tools`."""
        raise NotImplementedError

    def arguments(self, lark: Lark, tool: Tool) -> str:
        """The Lark expression for what is read from `Reading.await_arguments` up to the end of the arguments."""
        return f"{SPACE} {lark.arguments(tool)}"
