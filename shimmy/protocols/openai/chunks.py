"""A request's events as server-sent events. Chat and plain completions differ in what a choice looks like, no more."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from shimmy.core.events import Accepted, Echoed, Event, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from shimmy.protocols.openai.answer import Batches, Head, Tally
from shimmy.protocols.openai.logprobs import Form, Offsets

DONE = b"data: [DONE]\n\n"

encode = msgspec.json.encode


class Shape(msgspec.Struct, frozen=True):
    """A choice within a chunk, encoded: when it begins (if that is worth a chunk), goes on, with what is told of its
    tokens, and ends. Where nobody thinks or calls there is no `reasoning` and no `call`."""

    begin: Callable[[int], bytes]
    text: Callable[[int, str, bytes], bytes]
    finish: Callable[[int, Finished], bytes]
    reasoning: Callable[[int, str, bytes], bytes] | None = None
    call: Callable[[int, ToolCallDelta], bytes] | None = None


class ChunkEncoder:
    """Encodes the chunks of one stream; what is the same in all of them is encoded once."""

    def __init__(
        self, head: Head, shape: Shape, form: Form, num_prompts: int, num_choices: int, include_usage: bool
    ) -> None:
        """`num_choices` is that of one prompt. The last chunk has the timings: that with the usage, or, without
        `include_usage`, that in which the last choice ends."""
        self.tally = Tally()
        self._head = head
        self._num_ends = -1 if include_usage else num_prompts * num_choices
        self._form = form
        self._offsets: defaultdict[int, Offsets] = defaultdict(Offsets)
        self._shape = shape
        self._num_choices = num_choices
        self._opening = b""
        # With include_usage every other chunk says that it has none (OpenAI API reference, stream_options).
        self._closing = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def encode(self, prompt: int, events: list[Event]) -> bytes:
        choices: list[bytes] = []
        for event in events:
            choices += self._choices(prompt * self._num_choices, prompt, event)
        chunks = [self._opening + choice + self._closing for choice in choices]
        if chunks and self.tally.num_finished == self._num_ends:
            chunks[-1] = self._opening + choices[-1] + b"]," + self._totals()
        return b"".join(chunks)

    def usage(self) -> bytes:
        """The last chunk, if it was asked for: no choices, but the counts of all."""
        return self._opening + b"]," + self._totals(usage=self.tally.usage())

    def _totals(self, **more: Any) -> bytes:
        """The end of the last chunk."""
        return encode(more | {"timings": self.tally.timings()} | self.tally.truncation())[1:] + b"\n\n"

    def _open(self, event: Accepted) -> None:
        self.tally.accept(event)
        head = msgspec.structs.replace(self._head, system_fingerprint=self.tally.fingerprint)
        self._opening = b"data: " + encode(head)[:-1] + b',"choices":['

    def _choices(self, base: int, prompt: int, event: Event) -> list[bytes]:
        match event:
            case TextDelta(_, index, text, tokens):
                return [self._shape.text(base + index, text, self._told(base + index, tokens))]
            case ReasoningDelta(_, index, text, tokens) if self._shape.reasoning:
                return [self._shape.reasoning(base + index, text, self._told(base + index, tokens))]
            case ToolCallDelta(_, index) if self._shape.call:
                return [self._shape.call(base + index, event)]
            case Finished(_, index):
                self.tally.add(prompt, event)
                return [self._shape.finish(base + index, event)]
            case Accepted():
                self._open(event)
                begun = [self._shape.begin(base + index) for index in range(self._num_choices)]
                return [choice for choice in begun if choice]
            case Echoed(_, text, tokens):
                numbers = range(base, base + self._num_choices)
                return [self._shape.text(number, text, self._told(number, tokens)) for number in numbers]
        return []

    def _told(self, number: int, tokens: list[TokenLogprob]) -> bytes:
        return encode(self._form(tokens, self._offsets[number])) if tokens else b"null"


async def stream(
    batches: Batches, encoder: ChunkEncoder, num_prompts: int, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """One piece of bytes per batch. Holds everything back until all prompts are accepted: until then the request can
    still fail as a whole."""
    held: list[bytes] = []
    num_waiting, has_begun = num_prompts, False
    async with aclosing(batches):
        async for prompt, events in batches:
            num_waiting -= sum(isinstance(event, Accepted) for event in events)
            held.append(encoder.encode(prompt, events))
            if num_waiting == 0 and (any(held) or not has_begun):
                # What begins the answer may be empty, as its status waits for it.
                has_begun = True
                yield b"".join(held)
                held.clear()
    yield (encoder.usage() if include_usage else b"") + DONE
