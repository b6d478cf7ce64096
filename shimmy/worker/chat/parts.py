"""What a model's text is made of, and the shape of what tells it apart. Knows no tokens and no wire format."""

from typing import NamedTuple, Protocol

CUT = "the answer ended within a call"


class Content(NamedTuple):
    """Text for the reader."""

    text: str


class Thought(NamedTuple):
    """Text that the model thinks with."""

    text: str


class CallBegin(NamedTuple):
    """Call number `call`, counted from 0, begins. `call_id` is the model's own, where its format has one."""

    call: int
    name: str
    call_id: str | None = None


class CallArguments(NamedTuple):
    """Some more of the arguments of call number `call`: all of them together are the JSON text of an object."""

    call: int
    text: str


class Doubt(NamedTuple):
    """Something that looked like a call could not be read; its text came, or comes, as `Content`."""

    reason: str


Part = Content | Thought | CallBegin | CallArguments | Doubt


class Parser(Protocol):
    """Reads one answer. The parts, their texts joined, are the same however the text is split into pushes."""

    def push(self, text: str) -> list[Part]:
        """Takes some more text; returns what is certain by now."""
        ...

    def due(self) -> tuple[str, str] | None:
        """If with the last push a call came to where its arguments begin: the name of its tool, and the text that came
        behind that place."""
        ...

    def finish(self, *, is_cut: bool = False) -> list[Part]:
        """The text has ended: what was held back. Where it `is_cut`, a mark with the beginning of a call behind it is
        no text: of that there is only a `Doubt`. Never raises."""
        ...
