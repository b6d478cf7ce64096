"""What a request's events add up to: each choice's text, and the tokens and times of all."""

import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from shimmy.core.events import (
    Accepted,
    Dropped,
    Echoed,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)

# A shorter time is that of no step, so that there is no speed to tell.
_LEAST_SECONDS = 0.0001

# The number of a prompt within its request, and events that its generation had ready at once.
Batch = tuple[int, list[Event]]
Batches = AsyncGenerator[Batch, None]


class Head(msgspec.Struct, frozen=True):
    """What an answer and all its chunks have in common; `model` is the name that was asked for, and the fingerprint
    that of who answers, known once the request is accepted."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str = ""


def head(id: str, object: str, model: str) -> Head:
    return Head(id, object, int(time.time()), model)


class Call(msgspec.Struct):
    id: str
    name: str
    arguments: str = ""


class Choice(msgspec.Struct):
    text: str
    reason: FinishReason
    tokens: list[TokenLogprob] = []
    prompt_tokens: list[TokenLogprob] = []
    reasoning: str = ""
    calls: list[Call] = []
    warning: str | None = None

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; without any it is worse than all others."""
        logprobs = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(logprobs) / len(logprobs) if logprobs else -math.inf


class Tally:
    """Adds up what was accepted and what finished; the choices of one prompt share one prefill, so that their prompt
    counts once."""

    def __init__(self) -> None:
        self.fingerprint = ""
        self.num_finished = 0
        self._dropped: list[Dropped] = []
        self._prompts: dict[int, Finished] = {}
        self._completion_tokens = 0
        self._drafted_tokens = self._accepted_tokens = self._reasoning_tokens = 0
        self._decode_seconds = 0.0

    def accept(self, event: Accepted) -> None:
        self.fingerprint = self.fingerprint or event.fingerprint
        if event.dropped is not None:
            self._dropped.append(event.dropped)

    def add(self, prompt: int, event: Finished) -> None:
        self.num_finished += 1
        first = self._prompts.get(prompt)
        if first is None or event.index < first.index:
            self._prompts[prompt] = event
        self._completion_tokens += event.usage.completion_tokens
        self._drafted_tokens += event.usage.drafted_tokens
        self._accepted_tokens += event.usage.accepted_tokens
        self._reasoning_tokens += event.usage.reasoning_tokens
        self._decode_seconds = max(self._decode_seconds, event.timings.decode_seconds)

    def usage(self) -> dict[str, Any]:
        prompt_tokens = sum(event.usage.prompt_tokens for event in self._prompts.values())
        usage: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens()},
        }
        details = {"reasoning_tokens": self._reasoning_tokens} if self._reasoning_tokens else {}
        if self._drafted_tokens:
            details |= {
                "accepted_prediction_tokens": self._accepted_tokens,
                "rejected_prediction_tokens": self._drafted_tokens - self._accepted_tokens,
            }
        return usage | {"completion_tokens_details": details} if details else usage

    def timings(self) -> dict[str, Any]:
        """llama-server's fields of this name, and what came before; docs/timings.md. With several prompts or choices
        the longest of each time stands for all."""
        times = [event.timings for event in self._prompts.values()]
        cached = self._cached_tokens()
        prompt_n = sum(event.usage.prompt_tokens for event in self._prompts.values()) - cached
        timings = {
            "load_ms": _ms(max((each.load_seconds for each in times), default=0.0)),
            "queue_ms": _ms(max((each.queue_seconds for each in times), default=0.0)),
            "cache_n": cached,
            **_speed("prompt", prompt_n, max((each.prefill_seconds for each in times), default=0.0)),
            **_speed("predicted", self._completion_tokens, self._decode_seconds),
        }
        if self._drafted_tokens:
            timings |= {"draft_n": self._drafted_tokens, "draft_n_accepted": self._accepted_tokens}
        return timings

    def truncation(self) -> dict[str, Any]:
        """What was dropped of the prompts, as a field of the answer; nothing where nothing was."""
        return truncation_field(self._dropped)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The same for those who do not look into the body."""
        return truncation_headers(self.truncation())

    def _cached_tokens(self) -> int:
        return sum(event.usage.cached_tokens for event in self._prompts.values())


def truncation_field(dropped: Sequence[Dropped]) -> dict[str, Any]:
    """What several prompts lost, which is all by the same policy."""
    if not dropped:
        return {}
    return {
        "truncation": {
            "policy": dropped[0].what,
            "dropped_messages": sum(each.num_messages for each in dropped),
            "dropped_tokens": sum(each.num_tokens for each in dropped),
        }
    }


def truncation_headers(field: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    if not (told := field.get("truncation")):
        return []
    value = f"{told['policy']}; messages={told['dropped_messages']}; tokens={told['dropped_tokens']}"
    return [(b"x-shimmy-truncated", value.encode())]


def _speed(name: str, count: int, seconds: float) -> dict[str, float]:
    is_measured = count > 0 and seconds >= _LEAST_SECONDS
    return {
        f"{name}_n": count,
        f"{name}_ms": _ms(seconds),
        f"{name}_per_token_ms": _ms(seconds / count) if is_measured else 0.0,
        f"{name}_per_second": round(count / seconds, 3) if is_measured else 0.0,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


class _Parts:
    """What came of one choice so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._prompt_tokens: list[TokenLogprob] = []
        self._calls: dict[int, Call] = {}
        self._arguments: defaultdict[int, list[str]] = defaultdict(list)
        self.finished: Finished | None = None

    def echo(self, event: Echoed) -> None:
        self._texts.append(event.text)
        self._prompt_tokens += event.tokens

    def add(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        if isinstance(event, ToolCallDelta):
            self._arguments[event.call].append(event.arguments)
            if event.name is not None:
                self._calls[event.call] = Call(event.call_id or "", event.name)
        else:
            texts = self._texts if isinstance(event, TextDelta) else self._thoughts
            texts.append(event.text)
            self._tokens += event.tokens

    def choice(self, finished: Finished) -> Choice:
        for number, call in self._calls.items():
            call.arguments = "".join(self._arguments[number])
        calls = [call for _, call in sorted(self._calls.items())]
        text, reasoning = "".join(self._texts), "".join(self._thoughts)
        return Choice(text, finished.reason, self._tokens, self._prompt_tokens, reasoning, calls, finished.warning)


async def collect(batches: Batches, num_choices: int) -> tuple[list[Choice], Tally]:
    """All choices, in the order of their numbers, once the last is finished. `num_choices` is that of one prompt."""
    tally = Tally()
    parts: defaultdict[int, _Parts] = defaultdict(_Parts)
    async with aclosing(batches):
        async for prompt, events in batches:
            for event in events:
                if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                    parts[prompt * num_choices + event.index].add(event)
                elif isinstance(event, Accepted):
                    tally.accept(event)
                elif isinstance(event, Echoed):
                    for index in range(num_choices):
                        parts[prompt * num_choices + index].echo(event)
                elif isinstance(event, Finished):
                    parts[prompt * num_choices + event.index].finished = event
                    tally.add(prompt, event)
    return [each.choice(each.finished) for _, each in sorted(parts.items()) if each.finished is not None], tally


async def without_thoughts(batches: Batches) -> Batches:
    """The same for those who do not want to see them."""
    async with aclosing(batches):
        async for prompt, events in batches:
            yield prompt, [event for event in events if not isinstance(event, ReasoningDelta)]


def best(choices: list[Choice], num_choices: int, num_kept: int) -> list[Choice]:
    """Of each prompt's choices the likeliest, the likeliest first."""
    if num_kept == num_choices:
        return choices
    kept = []
    for start in range(0, len(choices), num_choices):
        ranked = sorted(choices[start : start + num_choices], key=lambda choice: choice.mean_logprob, reverse=True)
        kept += ranked[:num_kept]
    return kept
