"""A request's events as server-sent events: message_start, each block from its start to its stop, message_stop."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from shimmy.core.events import Accepted, Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from shimmy.protocols.anthropic.answer import SIGNATURE, Delta, Opened, ending, head, opened, timings, usage

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%s}\n\n'
_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":%s}}\n\n'
)
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'

_encode = msgspec.json.encode


class MessageEncoder:
    """Encodes one message; holds which of its blocks is open."""

    def __init__(self, id: str, model: str, max_tokens: int, hides_thoughts: bool) -> None:
        self._id, self._model = id, model
        self._max_tokens = max_tokens
        self._hides_thoughts = hides_thoughts
        self._index = -1
        self._block: Opened | None = None

    def encode(self, events: list[Event]) -> bytes:
        return b"".join(map(self._event, events))

    def _event(self, event: Event) -> bytes:
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                return self._begin(event) + self._go_on(event)
            case Accepted():
                return self._message_start(event) + PING
            case Finished():
                return self._end_block() + self._message_delta(event) + _MESSAGE_STOP
        return b""

    def _message_start(self, event: Accepted) -> bytes:
        """What of the prompt was cached is known at the end only, and told there."""
        counts = usage(Usage(event.prompt_tokens, 0))
        message = head(self._id, self._model, event.fingerprint)
        message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": counts}
        return _named("message_start", {"message": message})

    def _begin(self, event: Delta) -> bytes:
        block = opened(event, self._block)
        if block is None:
            return b""
        ended = self._end_block()
        self._block = block
        self._index += 1
        return ended + _START % (self._index, _empty(block))

    def _go_on(self, event: Delta) -> bytes:
        match event:
            case TextDelta(text=text) if text:
                return self._delta(b"text_delta", b"text", text)
            case ReasoningDelta(text=text) if text and not self._hides_thoughts:
                return self._delta(b"thinking_delta", b"thinking", text)
            case ToolCallDelta(arguments=text) if text:
                return self._delta(b"input_json_delta", b"partial_json", text)
        return b""

    def _delta(self, kind: bytes, field: bytes, text: str) -> bytes:
        return _DELTA % (self._index, kind, field, _encode(text))

    def _end_block(self) -> bytes:
        if self._block is None:
            return b""
        signed = b""
        if self._block.type == "thinking":
            signed = self._delta(b"signature_delta", b"signature", SIGNATURE)
        self._block = None
        return signed + _STOP % self._index

    def _message_delta(self, event: Finished) -> bytes:
        delta = ending(event, self._max_tokens)
        if event.warning:
            delta["warning"] = event.warning
        told: dict[str, object] = {"delta": delta, "usage": usage(event.usage), "timings": timings(event.timings)}
        return _named("message_delta", told)


async def stream(events: AsyncGenerator[list[Event], None], encoder: MessageEncoder) -> AsyncGenerator[bytes, None]:
    """One piece of bytes per batch."""
    async with aclosing(events):
        async for batch in events:
            if encoded := encoder.encode(batch):
                yield encoded


def _empty(block: Opened) -> bytes:
    match block.type:
        case "tool_use":
            return _encode({"type": "tool_use", "id": block.id, "name": block.name, "input": {}})
        case "thinking":
            return b'{"type":"thinking","thinking":"","signature":""}'
    return b'{"type":"text","text":""}'


def _named(name: str, content: dict[str, object]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode({"type": name} | content))
