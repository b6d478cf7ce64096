"""What a request's events add up to: each choice's text, and the tokens and times of all."""

import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from shimmy import __version__
from shimmy.core.events import Accepted, Event, Finished, FinishReason, TextDelta, TokenLogprob

FINGERPRINT = f"shimmy-{__version__}"

# The number of a prompt within its request, and events that its generation had ready at once.
Batch = tuple[int, list[Event]]
Batches = AsyncGenerator[Batch, None]


class Head(msgspec.Struct, frozen=True):
    """What an answer and all its chunks have in common; `model` is the name that was asked for."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT


def head(id: str, object: str, model: str) -> Head:
    return Head(id, object, int(time.time()), model)


class Choice(msgspec.Struct):
    text: str
    reason: FinishReason
    tokens: list[TokenLogprob] = []

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; without any it is worse than all others."""
        return sum(token.logprob for token in self.tokens) / len(self.tokens) if self.tokens else -math.inf


class Tally:
    """Adds up what finished; the choices of one prompt share one prefill, so that their prompt counts once."""

    def __init__(self) -> None:
        self._prompts: dict[int, Finished] = {}
        self._completion_tokens = 0
        self._decode_seconds = 0.0

    def add(self, prompt: int, event: Finished) -> None:
        first = self._prompts.get(prompt)
        if first is None or event.index < first.index:
            self._prompts[prompt] = event
        self._completion_tokens += event.usage.completion_tokens
        self._decode_seconds = max(self._decode_seconds, event.timings.decode_seconds)

    def usage(self) -> dict[str, Any]:
        prompt_tokens = sum(event.usage.prompt_tokens for event in self._prompts.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens()},
        }

    def timings(self) -> dict[str, Any]:
        """llama-server's fields of this name; with several prompts the longest prefill stands for all."""
        events = self._prompts.values()
        cached = self._cached_tokens()
        return {
            "cache_n": cached,
            "prompt_n": sum(event.usage.prompt_tokens for event in events) - cached,
            "prompt_ms": _ms(max(event.timings.prefill_seconds for event in events)),
            "predicted_n": self._completion_tokens,
            "predicted_ms": _ms(self._decode_seconds),
        }

    def _cached_tokens(self) -> int:
        return sum(event.usage.cached_tokens for event in self._prompts.values())


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


async def collect(batches: Batches, num_choices: int) -> tuple[list[Choice], Tally]:
    """All choices, in the order of their numbers, once the last is finished. `num_choices` is that of one prompt."""
    tally = Tally()
    texts: defaultdict[int, list[str]] = defaultdict(list)
    tokens: defaultdict[int, list[TokenLogprob]] = defaultdict(list)
    reasons: dict[int, FinishReason] = {}
    async with aclosing(batches):
        async for prompt, events in batches:
            for event in events:
                if isinstance(event, TextDelta):
                    texts[prompt * num_choices + event.index].append(event.text)
                    tokens[prompt * num_choices + event.index] += event.tokens
                elif isinstance(event, Accepted) and event.echo:
                    for index in range(num_choices):
                        texts[prompt * num_choices + index].append(event.echo)
                elif isinstance(event, Finished):
                    reasons[prompt * num_choices + event.index] = event.reason
                    tally.add(prompt, event)
    numbers = sorted(reasons)
    return [Choice("".join(texts[number]), reasons[number], tokens[number]) for number in numbers], tally


def best(choices: list[Choice], num_choices: int, num_kept: int) -> list[Choice]:
    """Of each prompt's choices the likeliest, the likeliest first."""
    if num_kept == num_choices:
        return choices
    kept = []
    for start in range(0, len(choices), num_choices):
        ranked = sorted(choices[start : start + num_choices], key=lambda choice: choice.mean_logprob, reverse=True)
        kept += ranked[:num_kept]
    return kept
