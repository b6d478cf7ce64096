"""Reads one answer as it comes: what every dialect needs to tell calls from text. Knows no dialect.

A dialect is written as generators that say what comes next; each `yield` in them waits for more text. What they see
depends on the text alone and not on how it was split. Text of a call is kept until the call is complete: if it cannot
be read it comes back as content. Reading goes on behind it, so that no character is read twice.
"""

import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TypeVar

from shimmy.core.request import Tool
from shimmy.worker.chat.parts import CUT, CallArguments, CallBegin, Content, Doubt, Part, Thought
from shimmy.worker.chat.toolcalls.json_scanner import JsonScanner, NotJson

MAX_CALL_CHARS = 1 << 20
MAX_NAME_CHARS = 256

Value = TypeVar("Value")
Steps = Generator[None, None, Value]

_SPACE = re.compile(r"\s*")


class Malformed(Exception):
    """What looked like a call cannot be read; says why."""


class NotACall(Exception):
    """What could have been the beginning of a call was text."""


class Cut(Exception):
    """The text has ended within a call."""


class Reading:
    """One answer, and the `Parser` of it. White space before a call, and after the last, is no content."""

    def __init__(self, answer: Callable[["Reading"], Steps[None]], tools: Sequence[Tool], parallel: bool) -> None:
        """`answer` reads all of it."""
        self.tools = {tool.name: tool for tool in tools}
        self.num_calls = 0
        self.at_line_start = True
        self._parallel = parallel
        self._parts: list[Part] = []
        self._blank: list[str] = []
        # What has come and is not read yet: _text from _at on.
        self._text = ""
        self._at = 0
        self._has_ended = False
        self._is_cut = False
        self._kept: list[str] = []
        self._kept_chars = 0
        self._is_keeping = False
        self._is_open = False
        self._is_after_call = False
        # The tool whose arguments are being read since the last push.
        self._due: str | None = None
        self._behind: list[str] = []
        self._steps = answer(self)
        next(self._steps)

    def push(self, text: str) -> list[Part]:
        self._text = self._text[self._at :] + text
        self._at = 0
        self._due = None
        self._go_on()
        return self._taken()

    def due(self) -> tuple[str, str] | None:
        return None if self._due is None else (self._due, "".join(self._behind) + self._text[self._at :])

    def finish(self, *, is_cut: bool = False) -> list[Part]:
        self._has_ended = True
        self._is_cut = is_cut
        self._go_on()
        if not self._is_after_call:
            self._put(Content("".join(self._blank)))
        self._blank.clear()
        return self._taken()

    def _go_on(self) -> None:
        next(self._steps, None)

    def _taken(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    # What a dialect writes.

    def say(self, text: str) -> None:
        """Content. White space at its end waits for what follows."""
        if not text:
            return
        line = text[text.rfind("\n") + 1 :]
        self.at_line_start = not line.strip() and (len(line) < len(text) or self.at_line_start)
        if visible := text.rstrip():
            self._put(Content("".join(self._blank) + visible))
            self._blank.clear()
            self._is_after_call = False
        self._blank.append(text[len(visible) :])

    def think(self, text: str) -> None:
        self._put(Thought(text))

    def begin(self, name: str, call_id: str | None = None) -> None:
        if not name:
            raise Malformed("a call has no name")
        if self.num_calls and not self._parallel:
            raise Malformed("there is more than one call, and only one was asked for")
        self._blank.clear()
        self._parts.append(CallBegin(self.num_calls, name, call_id))
        self.num_calls += 1
        self._is_open = True

    def await_arguments(self, name: str) -> None:
        """Those of a call of this tool are next, as `Dialect.arguments` has them."""
        self._due = name
        self._behind.clear()

    def arguments(self, text: str) -> None:
        self._put(CallArguments(self.num_calls - 1, text))

    def end(self) -> None:
        """The call is complete, whatever follows."""
        self._is_open = False
        self._is_after_call = True
        self._due = None
        self._kept.clear()
        self._kept_chars = 0

    def _put(self, part: Content | Thought | CallArguments) -> None:
        if not part.text:
            return
        last = self._parts[-1] if self._parts else None
        if type(last) is type(part) and not isinstance(last, CallBegin | Doubt) and last is not None:
            self._parts[-1] = part._replace(text=last.text + part.text)
        else:
            self._parts.append(part)

    # What a dialect reads.

    def attempt(self, call: Steps[Value], *, is_guess: bool = False) -> Steps[Value | None]:
        """Reads `call`, or gives back what was read of it. If it was only a guess that there is one, there is no doubt
        before it has a name."""
        found = None
        try:
            found = yield from call
        except NotACall:
            self.say("".join(self._kept))
        except Malformed as error:
            self._doubt(str(error), is_guess)
            self.say("".join(self._kept))
        except Cut:
            self._cut(is_guess)
        self._is_open = False
        self._due = None
        self.forget()
        return found

    def _doubt(self, reason: str, is_guess: bool) -> None:
        if self._is_open or not is_guess:
            self._parts.append(Doubt(reason))

    def _cut(self, is_guess: bool) -> None:
        """The beginning of a call that has been told is all that there is to tell of it, and what the mark of one began
        would have become one."""
        text = "".join(self._kept) + self._rest()
        if self._is_open or text.strip():
            self._doubt(CUT, is_guess)
        if self._is_cut and not is_guess:
            self._is_after_call = True
        elif not self._is_open:
            self.say(text)

    def find(
        self, marks: Sequence[str], *, at_line_start: Sequence[str] = (), write: Callable[[str], None] | None = None
    ) -> Steps[str | None]:
        """All up to one of `marks` is content, or goes to `write`. Reads that mark and keeps it; None at the end of the
        text. Those of `at_line_start` count only where nothing but space is before them in their line."""
        write = write or self.say
        every = (*marks, *at_line_start)
        pattern = _pattern(every)
        while True:
            match = pattern.search(self._text, self._at)
            if match is None:
                if self._has_ended:
                    write(self._rest())
                    return None
                write(self._take(self.available - self._partial(every)))
                yield
                continue
            write(self._take(match.start() - self._at))
            if match[0] in at_line_start and not self.at_line_start:
                write(self._take(len(match[0])))
                continue
            self._is_keeping = True
            return self._take(len(match[0]))

    def keep(self) -> None:
        """What is read from here on belongs to a call."""
        self._is_keeping = True

    def forget(self) -> None:
        """It does not."""
        self._is_keeping = False
        self._kept.clear()
        self._kept_chars = 0

    @property
    def available(self) -> int:
        return len(self._text) - self._at

    def more(self) -> Steps[None]:
        if self._has_ended:
            raise Cut
        yield

    def space(self) -> Steps[None]:
        """Skips white space up to something else, or the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._take(match.end() - self._at)
            if self.available or self._has_ended:
                return
            yield

    def peek(self) -> Steps[str]:
        """The next character; "" at the end."""
        while not self.available:
            if self._has_ended:
                return ""
            yield
        return self._text[self._at]

    def char(self) -> Steps[str]:
        """The next character, and reads it."""
        while not self.available:
            yield from self.more()
        return self._take(1)

    def next_is(self, *literals: str) -> Steps[str | None]:
        """Reads the one of `literals` that comes next, the first that fits; None, and nothing read, if none does."""
        while True:
            waiting = False
            for literal in literals:
                if self._text.startswith(literal, self._at):
                    return self._take(len(literal))
                waiting = waiting or (self.available < len(literal) and literal.startswith(self._text[self._at :]))
                if waiting:
                    break
            if not waiting or self._has_ended:
                return None
            yield

    def item_end(self, close: str) -> Steps[bool]:
        """Reads what follows an item of a list: whether that is `close`. A comma may come before it, too."""
        yield from self.space()
        if not (yield from self.next_is(",")):
            yield from self.require(close)
            return True
        yield from self.space()
        return (yield from self.next_is(close)) is not None

    def require(self, *literals: str) -> Steps[str]:
        found = yield from self.next_is(*literals)
        if found is not None:
            return found
        if self._has_ended and any(literal.startswith(self._text[self._at :]) for literal in literals):
            raise Cut
        raise Malformed(f"{literals[0]!r} is missing in a call")

    def close(self, literal: str) -> Steps[None]:
        """Reads the mark at a call's end if it is there. One that was cut is no content."""
        yield from self.space()
        if not (yield from self.next_is(literal)) and self._has_ended and literal.startswith(self._text[self._at :]):
            self._rest()

    def until(
        self, *marks: str, write: Callable[[str], None], limit: int = MAX_CALL_CHARS, reads_mark: bool = True
    ) -> Steps[str]:
        """Reads up to one of `marks`, which it returns, and that too; what was before it goes to `write`."""
        pattern = _pattern(marks)
        num_chars = 0
        while True:
            match = pattern.search(self._text, self._at)
            length = match.start() - self._at if match else self.available - self._partial(marks)
            text = self._take(min(length, limit - num_chars, self._room))
            num_chars += len(text)
            if text:
                write(text)
            if len(text) < length:
                raise Malformed("a part of a call is too long")
            if match:
                return self._take(len(match[0])) if reads_mark else match[0]
            yield from self.more()

    def name(self, *marks: str) -> Steps[str]:
        """What is before one of `marks`, and reads that mark too."""
        parts: list[str] = []
        yield from self.until(*marks, limit=MAX_NAME_CHARS, write=parts.append)
        return "".join(parts).strip()

    def name_before(self, *marks: str) -> Steps[str]:
        """The same, without the mark."""
        parts: list[str] = []
        yield from self.until(*marks, limit=MAX_NAME_CHARS, write=parts.append, reads_mark=False)
        return "".join(parts).strip()

    def matching(self, pattern: re.Pattern[str], limit: int = MAX_NAME_CHARS) -> Steps[str]:
        """The longest text of characters that `pattern`, a repeated class of them, takes."""
        parts: list[str] = []
        num_chars = 0
        while True:
            match = pattern.match(self._text, self._at)
            assert match is not None
            length = match.end() - self._at
            parts.append(self._take(min(length, limit - num_chars)))
            num_chars += len(parts[-1])
            if len(parts[-1]) < length:
                raise Malformed("a part of a call is too long")
            if self.available or self._has_ended:
                return "".join(parts)
            yield

    def rest(self, write: Callable[[str], None]) -> Steps[None]:
        """Reads all that there is."""
        while True:
            if self.available:
                write(self._take(min(self.available, self._room)))
            if self.available:
                raise Malformed("a call is too long")
            if self._has_ended:
                return
            yield

    def json(self, write: Callable[[str], None]) -> Steps[None]:
        """Reads one JSON value, whose text goes to `write`."""
        scanner = JsonScanner()
        while True:
            text = self._text if self.available <= self._room else self._text[: self._at + self._room]
            wrong = None
            try:
                end, written = scanner.feed(text, self._at)
            except NotJson as error:
                wrong, end, written = error.reason, error.at, error.written
            self._take(end - self._at)
            if written:
                write(written)
            if wrong:
                raise Malformed(f"a call is not valid JSON: {wrong}")
            if scanner.is_done:
                return
            if not self._room:
                raise Malformed("a call is too long")
            yield from self.more()

    def _partial(self, marks: Sequence[str]) -> int:
        """How much at the end of the text may be the beginning of a mark."""
        beginnings, longest = _beginnings(tuple(marks))
        for length in range(min(self.available, longest), 0, -1):
            if self._text[len(self._text) - length :] in beginnings:
                return length
        return 0

    def _take(self, length: int) -> str:
        is_too_long = length > self._room
        text = self._text[self._at : self._at + min(length, self._room)]
        self._at += len(text)
        if self._due is not None:
            self._behind.append(text)
        if self._is_keeping and text:
            self._kept.append(text)
            self._kept_chars += len(text)
        if is_too_long:
            raise Malformed("a call is too long")
        return text

    @property
    def _room(self) -> int:
        """How much there may still be of a call."""
        return MAX_CALL_CHARS - self._kept_chars if self._is_keeping else self.available

    def _rest(self) -> str:
        text = self._text[self._at :]
        self._at = len(self._text)
        return text


@lru_cache(maxsize=256)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    # The longest first, where one begins with another.
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))


@lru_cache(maxsize=256)
def _beginnings(marks: tuple[str, ...]) -> tuple[frozenset[str], int]:
    """All beginnings of marks, and the length of the longest."""
    found = frozenset(mark[:length] for mark in marks for length in range(1, len(mark)))
    return found, max(map(len, found), default=0)
