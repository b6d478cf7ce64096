"""What a request's events add up to: one message of content blocks, in the order in which they came."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from shimmy.core.errors import ShimmyError
from shimmy.core.events import Accepted, Event, Finished, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage

# Clients send it back with a thought, unread; ours are in the clear, so that there is nothing to sign.
SIGNATURE = "c2hpbW15"

Delta = TextDelta | ReasoningDelta | ToolCallDelta
_REASONS = {"stop": "end_turn", "tool_calls": "tool_use"}


class Opened(msgspec.Struct, frozen=True):
    """A block that begins: its type, and of a call its id and name."""

    type: str
    call: int | None = None
    id: str = ""
    name: str = ""


def opened(event: Delta, current: Opened | None) -> Opened | None:
    """The block that begins with a delta, if it does not go on with the current one."""
    match event:
        case ToolCallDelta(call=call) if current is None or current.call != call:
            return Opened("tool_use", call, event.call_id or "", event.name or "")
        case TextDelta(text=text) if text and (current is None or current.type != "text"):
            return Opened("text")
        case ReasoningDelta(text=text) if text and (current is None or current.type != "thinking"):
            return Opened("thinking")
    return None


def ending(event: Finished, max_tokens: int) -> dict[str, Any]:
    """Why it ended. What ended for its length before it had all its tokens had no room in the context."""
    if event.stop is not None:
        reason = "stop_sequence"
    elif event.reason == "length":
        is_full = event.usage.completion_tokens < max_tokens
        reason = "model_context_window_exceeded" if is_full else "max_tokens"
    else:
        reason = _REASONS[event.reason]
    return {"stop_reason": reason, "stop_sequence": event.stop}


def usage(counted: Usage) -> dict[str, Any]:
    """Tokens that were cached are no input tokens here. Nobody asks for the cache to be written to."""
    counts: dict[str, Any] = {
        "input_tokens": counted.prompt_tokens - counted.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": counted.completion_tokens,
    }
    if counted.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": counted.reasoning_tokens}
    return counts


def timings(measured: Timings) -> dict[str, float]:
    """Where the time went; Anthropic has no field for it. The names are those of /v1/chat/completions."""
    seconds = {
        "load_ms": measured.load_seconds,
        "queue_ms": measured.queue_seconds,
        "prompt_ms": measured.prefill_seconds,
        "predicted_ms": measured.decode_seconds,
    }
    return {name: round(value * 1000, 3) for name, value in seconds.items()}


def head(id: str, model: str, fingerprint: str) -> dict[str, Any]:
    """`model` is the name that was asked for. The `fingerprint` of what answers is ours."""
    named = {"id": id, "type": "message", "role": "assistant", "model": model}
    return named | {"system_fingerprint": fingerprint} if fingerprint else named


async def collect(
    events: AsyncGenerator[list[Event], None], id: str, model: str, max_tokens: int, hides_thoughts: bool
) -> dict[str, Any]:
    """The whole message, once it is finished."""
    blocks: list[tuple[Opened, list[str]]] = []
    finished: Finished | None = None
    fingerprint = ""
    async with aclosing(events):
        async for batch in events:
            for event in batch:
                if isinstance(event, Finished):
                    finished = event
                elif isinstance(event, Accepted):
                    fingerprint = event.fingerprint
                elif isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                    _add(blocks, event)
    if finished is None:
        raise ShimmyError("the answer ended without an end")
    content = [_block(block, "".join(parts), hides_thoughts) for block, parts in blocks]
    message = head(id, model, fingerprint) | {"content": content} | ending(finished, max_tokens)
    message |= {"usage": usage(finished.usage), "timings": timings(finished.timings)}
    return message | {"warning": finished.warning} if finished.warning else message


def _add(blocks: list[tuple[Opened, list[str]]], event: Delta) -> None:
    if block := opened(event, blocks[-1][0] if blocks else None):
        blocks.append((block, []))
    if blocks:
        blocks[-1][1].append(event.arguments if isinstance(event, ToolCallDelta) else event.text)


def _block(block: Opened, text: str, hides_thoughts: bool) -> dict[str, Any]:
    match block.type:
        case "tool_use":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": _input(text)}
        case "thinking":
            return {"type": "thinking", "thinking": "" if hides_thoughts else text, "signature": SIGNATURE}
    return {"type": "text", "text": text}


def _input(arguments: str) -> Any:
    """The object as the model wrote it; an empty one for a call that was cut, as `stop_reason` tells."""
    try:
        is_object = isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError):
        is_object = False
    return msgspec.Raw(arguments.encode()) if is_object else {}
