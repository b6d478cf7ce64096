"""Tells what a model thinks from what it answers, by the marks that its template knows. Knows no tokens."""

import re
from enum import Enum, auto
from typing import NamedTuple

from shimmy.core.request import Chat
from shimmy.worker.chat.parts import Content, Part, Thought


class Marks(NamedTuple):
    """What stands around the thoughts, which come before anything else. `token` is the one that begins `begin`, where
    that is several."""

    begin: str
    end: str
    token: str | None = None

    @property
    def opener(self) -> str:
        return self.token or self.begin


# The order matters for templates that know several: the first one is it.
KNOWN = (
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),
    Marks("◁think▷", "◁/think▷"),
    Marks("<|channel>thought", "<channel|>", token="<|channel>"),
    Marks("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    Marks("<mm:think>", "</mm:think>"),
    Marks("<think>", "</think>"),
    Marks("<thinking>", "</thinking>"),
    Marks("<thought>", "</thought>"),
    Marks("<reasoning>", "</reasoning>"),
)


# Hunyuan 3 puts its marks together.
_HUNYUAN = re.compile(r"HYTK\s*=\s*'([^']{0,40})'")


def recognise(template: str | None) -> Marks | None:
    """The marks of the model with this chat template; None where it does not think, or not in a way that is known."""
    if not template:
        return None
    if found := _HUNYUAN.search(template):
        return Marks(f"<think{found[1]}>", f"</think{found[1]}>")
    return next((marks for marks in KNOWN if marks.end in template or marks.begin in template), None)


def is_open(marks: Marks, prompt: str, chat: Chat) -> bool:
    """Whether the rendered prompt has begun the thoughts. What it ends with may be the template's, which begins them
    for the model, or closes them at once so that there are none; or a message that is gone on with."""
    if not chat.continue_final:
        return prompt.rstrip().endswith(marks.begin)
    last = chat.messages[-1]
    if marks.begin in last.content or marks.end in last.content:
        return last.content.rfind(marks.begin) > last.content.rfind(marks.end)
    return bool(last.reasoning) and not last.content


class Place(Enum):
    BEFORE = auto()
    THINKING = auto()
    AFTER = auto()


class Splitter:
    """A `Parser` for thoughts. White space around them belongs to nobody, unless everything `is_raw`: then thoughts
    come as they are, marks included. Only the beginning of an answer can be a thought: later, marks are text."""

    def __init__(self, marks: Marks, place: Place, *, is_raw: bool = False) -> None:
        self.place = place
        self._marks = marks
        self._is_raw = is_raw
        self._held = ""
        # White space is dropped until something else has come.
        self._is_blank = place is not Place.AFTER

    @property
    def is_thinking(self) -> bool:
        return self.place is Place.THINKING

    def push(self, text: str) -> list[Part]:
        if self.place is Place.AFTER:
            return self._content(text)
        self._held += text
        return self._begun() if self.place is Place.BEFORE else self._thought()

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        if not held or self.place is Place.AFTER:
            return []
        if self.place is Place.BEFORE:
            return [Content(held)]
        kept = held if self._is_raw else held.rstrip()
        return [Thought(kept)] if kept else []

    def spills(self, text: str) -> bool:
        """Whether `text` ends the thoughts, and more than that."""
        before, found, rest = (self._held + text).partition(self._marks.end)
        return bool(self.is_thinking and found and rest.strip())

    def _begun(self) -> list[Part]:
        begin, said = self._marks.begin, self._held.lstrip()
        if said.startswith(begin):
            self.place = Place.THINKING
            at = len(self._held) - len(said) + len(begin)
            mark, self._held = self._held[:at], self._held[at:]
            marked: list[Part] = [Thought(mark)] if self._is_raw else []
            return marked + self._thought()
        if begin.startswith(said):
            return []
        self.place = Place.AFTER
        self._is_blank = False
        held, self._held = self._held, ""
        return [Content(held)]

    def _thought(self) -> list[Part]:
        if not self._is_raw and self._is_blank:
            self._held = self._held.lstrip()
        self._is_blank = self._is_blank and not self._held
        end = self._marks.end
        thought, found, rest = self._held.partition(end)
        if not found:
            safe = len(self._held) - _overlap(self._held, end)
            safe = safe if self._is_raw else len(self._held[:safe].rstrip())
            thought, self._held = self._held[:safe], self._held[safe:]
            return [Thought(thought)] if thought else []
        self.place, self._held = Place.AFTER, ""
        self._is_blank = not self._is_raw
        thought = thought + end if self._is_raw else thought.rstrip()
        parts: list[Part] = [Thought(thought)] if thought else []
        return parts + self._content(rest)

    def _content(self, text: str) -> list[Part]:
        if self._is_blank:
            text = text.lstrip()
            self._is_blank = not text
        return [Content(text)] if text else []


class Channels:
    """The same for gpt-oss, whose answers are messages in channels, each behind a header: what is in `analysis` is
    thought, and what goes to a function is a call. Its marks are tokens of their own, each of which comes as one piece;
    a dialect reads the text itself."""

    CLOSE = "<|end|><|start|>assistant"
    ANSWER = "<|channel|>final<|message|>"

    def __init__(self) -> None:
        self.is_thinking = False
        self.has_answered = False
        self.has_called = False
        self._header: str | None = ""

    def push(self, piece: str) -> None:
        match piece:
            case "<|start|>":
                self.is_thinking = False
                self._header = ""
            case "<|channel|>":
                self._header = (self._header or "") + piece
            case "<|message|>":
                header, self._header = self._header or "", None
                is_call = "to=functions." in header
                channel = header.rpartition("<|channel|>")[2].strip()
                self.is_thinking = channel.startswith("analysis") and not is_call
                self.has_called = self.has_called or is_call
                self.has_answered = self.has_answered or not (self.is_thinking or is_call)
            case "<|end|>":
                self.is_thinking = False
            case _ if self._header is not None:
                self._header += piece


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
