"""One choice's answer where it is more than text: from pieces to thoughts, calls and content. Knows no batch."""

import os
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from shimmy.worker.chat.arguments import fault
from shimmy.worker.chat.parts import CUT, CallArguments, CallBegin, Content, Doubt, Parser, Part, Thought
from shimmy.worker.chat.plan import Plan
from shimmy.worker.chat.reasoning import Channels, Splitter
from shimmy.worker.text import StopScan, TextStream


class Named(NamedTuple):
    """A call begins; it goes by `call_id`."""

    call: int
    name: str
    call_id: str


Said = Content | Thought | Named | CallArguments


class Reply:
    """Owns what is known of one answer. `forced` are tokens that must come next, `stop` is the string that ended it;
    `num_thought` counts the tokens of thoughts."""

    def __init__(self, plan: Plan, template_stops: Sequence[str]) -> None:
        self.plan = plan
        self.forced: deque[int] = deque()
        self.stop: str | None = None
        self._is_full = False
        self.num_thought = 0
        self.num_calls = 0
        self.warning: str | None = None
        # Whether the answer ended within a call.
        self.has_half_call = False
        # With the last token a call came to where its arguments begin: the tool, and what came of them.
        self.due: tuple[str, str] | None = None
        self._num_read = 0
        self._text = TextStream(template_stops)
        self._splitter = Splitter(plan.marks, plan.place, is_raw=plan.is_raw) if plan.marks else None
        self._parser: Parser | None = plan.new_parser() if plan.new_parser else None
        self._channels = Channels() if plan.reads_thoughts else None
        self._stops = StopScan(plan.stops)
        self._ids: set[str] = set()
        # Of calls that are looked at when they are there: the name, then the arguments.
        self._checked: dict[int, list[str]] = {}
        if plan.budget == 0:
            self.forced.extend(plan.skip)

    @property
    def is_thinking(self) -> bool:
        if self._channels is not None:
            return self._channels.is_thinking
        return self._splitter is not None and self._splitter.is_thinking

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be read."""
        return self._is_full or self.stop is not None

    @property
    def awaits_answer(self) -> bool:
        """Whether what comes next is no part of the answer yet."""
        return self.is_thinking if self._channels is None else not self._channels.has_answered

    @property
    def is_all_calls(self) -> bool:
        """Whether calls have come, of which nothing is said by what the answer must be, and no answer."""
        return self._channels is not None and self._channels.has_called and not self._channels.has_answered

    def close(self) -> None:
        """The thoughts end here."""
        self.forced.extend(self.plan.close)

    def must_close(self, piece: bytes | None) -> bool:
        """Whether, instead of this piece, the thoughts must be closed: they would go on to the end (None), or end in
        the middle of a token whose rest the constraint has not seen."""
        terms = self.plan.terms
        if terms is None or terms.is_for_calls or not self.is_thinking:
            return False
        if piece is None or self._splitter is None:
            return piece is None
        return self._splitter.spills(piece.decode("utf-8", "replace"))

    def push(self, piece: bytes) -> list[Said]:
        """Takes a token's bytes; returns what is certain by now."""
        was_thinking = self.is_thinking
        text, template_stop = self._text.push(piece)
        if self._channels is not None:
            self._channels.push(text)
        said = self._read(text)
        self.due = self._due() if self.plan.holds_arguments else None
        self._num_read += len(text)
        self.num_thought += was_thinking
        if self.plan.budget is not None and self.is_thinking and not self.forced:
            self._keep_to(self.plan.budget)
        self.stop = self.stop or template_stop
        return said

    def finish(self, *, is_cut: bool = False) -> list[Said]:
        """What was held back; nothing after a stop string of the request's. `is_cut` if it was not the model that ended
        the answer."""
        said: list[Said] = []
        if not self._stops.is_reached:
            rest = self._text.flush()
            self._num_read += len(rest)
            said = self._read(rest) + self._ended(is_cut)
        if is_cut and self.plan.calls is not None and self.plan.calls.is_required:
            said = self._only_calls(said)
        for name, *arguments in self._checked.values():
            if reason := fault(self.plan.checked[name], "".join(arguments)):
                self.warning = self.warning or f"the arguments of {name!r} do not meet its schema: {reason}"
        return said

    @property
    def num_certain(self) -> int:
        """How many characters of the model's have left, or were read as something else."""
        return self._num_read - self._stops.num_held

    def _only_calls(self, said: list[Said]) -> list[Said]:
        """Where nothing but calls may come, all text at the end is the beginning of one."""
        if any(isinstance(part, Content) and part.text.strip() for part in said):
            self._doubt(CUT)
        return [part for part in said if not isinstance(part, Content)]

    def _ended(self, is_cut: bool) -> list[Said]:
        parts = self._splitter.finish() if self._splitter else []
        said = self._said(self._parsed(parts))
        if self._parser is not None:
            said += self._said(self._parser.finish(is_cut=is_cut))
        return said + self._held()

    def _held(self) -> list[Said]:
        """What began like a stop string: none goes on behind a call."""
        held = self._stops.flush()
        return [Content(held)] if held else []

    def _due(self) -> tuple[str, str] | None:
        due = self._parser.due() if self._parser else None
        return due and (due[0], due[1] + self._text.held)

    def _read(self, text: str) -> list[Said]:
        if not text:
            return []
        parts: list[Part] = self._splitter.push(text) if self._splitter else [Content(text)]
        return self._said(self._parsed(parts))

    def _parsed(self, parts: list[Part]) -> list[Part]:
        """Thoughts are not looked at for calls."""
        if self._parser is None:
            return parts
        parsed: list[Part] = []
        for part in parts:
            parsed += self._parser.push(part.text) if isinstance(part, Content) else [part]
        return parsed

    def _said(self, parts: list[Part]) -> list[Said]:
        said: list[Said] = []
        for part in parts:
            if self._is_full or self._stops.is_reached:
                break
            match part:
                case Thought(text):
                    said.append(Content(text) if self.plan.is_raw else part)
                case Content(text):
                    said += self._content(text)
                case CallBegin(call, name, call_id):
                    if self.plan.max_calls is not None and call >= self.plan.max_calls:
                        self._is_full = True
                        break
                    self.num_calls += 1
                    said += self._held()
                    said.append(Named(call, name, self._id(call_id)))
                    if name in self.plan.checked:
                        self._checked[call] = [name]
                case CallArguments(call, text):
                    said.append(part)
                    if call in self._checked:
                        self._checked[call].append(text)
                case Doubt(reason):
                    self._doubt(reason)
        return said

    def _doubt(self, reason: str) -> None:
        self.warning = self.warning or reason
        self.has_half_call = self.has_half_call or reason == CUT

    def _content(self, text: str) -> list[Said]:
        safe, stop = self._stops.push(text)
        self.stop = self.stop or stop
        return [Content(safe)] if safe else []

    def _id(self, own: str | None) -> str:
        """The model's own unless it has used it already."""
        id = own if own and own not in self._ids else f"call_{os.urandom(12).hex()}"
        self._ids.add(id)
        return id

    def _keep_to(self, budget: int) -> None:
        if self.num_thought >= budget:
            self.close()
