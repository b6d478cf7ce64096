"""Events as Ollama's objects, each a line of a stream, or added up to one.

Chat and generate differ in where an object has its text, no more.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from shimmy.core.events import (
    Accepted,
    Alternative,
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)

Batches = AsyncGenerator[list[Event], None]
# (text, thoughts, calls) as the fields of an object
Shape = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]

_encode = msgspec.json.encode


def now() -> str:
    """RFC 3339 with nanoseconds, as Go writes it."""
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanos:09}Z"


def nanoseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def chat_shape(text: str, thoughts: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thoughts:
        message["thinking"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def generate_shape(text: str, thoughts: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {"response": text}
    if thoughts:
        fields["thinking"] = thoughts
    if calls:
        fields["tool_calls"] = calls
    return fields


class _Call:
    """One call while its arguments come."""

    def __init__(self, begin: ToolCallDelta) -> None:
        self._id = begin.call_id or ""
        self._index = begin.call
        self._name = begin.name or ""
        self._arguments = begin.arguments

    def add(self, arguments: str) -> None:
        self._arguments += arguments

    def whole(self) -> dict[str, Any] | None:
        """None for one that was cut off, which is no object."""
        try:
            arguments = msgspec.json.decode(self._arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None
        return {"id": self._id, "function": {"index": self._index, "name": self._name, "arguments": arguments}}


class Answer:
    """One answer, whole or in lines. Durations count from when it is made."""

    def __init__(self, model: str, shape: Shape) -> None:
        self._model = model
        self._shape = shape
        self._started_at = time.monotonic()
        self._call: _Call | None = None
        self._fingerprint = ""

    def only(self, reason: str) -> bytes:
        """Where nothing was asked but to load or unload the model."""
        return _encode(self._object("", "", []) | {"done": True, "done_reason": reason})

    async def whole(self, batches: Batches) -> bytes:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        tokens: list[TokenLogprob] = []
        end: dict[str, Any] = {}
        async with aclosing(batches):
            async for events in batches:
                for event in events:
                    calls += self._ended_call(event)
                    if isinstance(event, TextDelta | ReasoningDelta):
                        (texts if isinstance(event, TextDelta) else thoughts).append(event.text)
                        tokens += event.tokens
                    elif isinstance(event, Accepted):
                        self._fingerprint = event.fingerprint
                    elif isinstance(event, Finished):
                        end = self._end(event)
        answer = self._object("".join(texts), "".join(thoughts), calls) | end
        return _encode(answer | _logprobs(tokens))

    async def lines(self, batches: Batches) -> AsyncGenerator[bytes, None]:
        """One piece of bytes per batch."""
        async with aclosing(batches):
            async for events in batches:
                yield b"".join(_encode(each) + b"\n" for event in events for each in self._objects(event))

    def _objects(self, event: Event) -> list[dict[str, Any]]:
        calls = self._ended_call(event)
        objects = [self._object("", "", calls) | {"done": False}] if calls else []
        match event:
            case Accepted():
                self._fingerprint = event.fingerprint
            case TextDelta(_, _, text, tokens):
                objects.append(self._object(text, "", []) | {"done": False} | _logprobs(tokens))
            case ReasoningDelta(_, _, text, tokens):
                objects.append(self._object("", text, []) | {"done": False} | _logprobs(tokens))
            case Finished():
                objects.append(self._object("", "", []) | self._end(event))
        return objects

    def _ended_call(self, event: Event) -> list[dict[str, Any]]:
        """The call that ends with what comes now, if one does: whole, since its arguments are an object."""
        if isinstance(event, ToolCallDelta) and event.name is None:
            if self._call is not None:
                self._call.add(event.arguments)
            return []
        ended, self._call = self._call, _Call(event) if isinstance(event, ToolCallDelta) else None
        whole = ended.whole() if ended is not None else None
        return [whole] if whole is not None else []

    def _object(self, text: str, thoughts: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return {"model": self._model, "created_at": now(), **self._shape(text, thoughts, calls)}

    def _end(self, event: Finished) -> dict[str, Any]:
        end = {
            "done": True,
            "done_reason": "length" if event.reason == "length" else "stop",
            "total_duration": nanoseconds(time.monotonic() - self._started_at),
            "load_duration": nanoseconds(event.timings.load_seconds),
            "prompt_eval_count": event.usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(event.timings.prefill_seconds),
            "eval_count": event.usage.completion_tokens,
            "eval_duration": nanoseconds(event.timings.decode_seconds),
        }
        if self._fingerprint:
            end["system_fingerprint"] = self._fingerprint
        return end | {"warning": event.warning} if event.warning else end


def _logprobs(tokens: list[TokenLogprob]) -> dict[str, Any]:
    if not tokens:
        return {}
    return {"logprobs": [_entry(token) | {"top_logprobs": [_entry(each) for each in token.top]} for token in tokens]}


def _entry(token: TokenLogprob | Alternative) -> dict[str, Any]:
    return {"token": token.bytes.decode("utf-8", "replace"), "logprob": token.logprob, "bytes": list(token.bytes)}
