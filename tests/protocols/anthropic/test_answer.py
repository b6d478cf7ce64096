"""Blocks out of events, and why an answer ended."""

from typing import Any

import pytest

from shimmy.core.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, Timings, ToolCallDelta, Usage
from shimmy.protocols.anthropic.answer import ending, usage
from shimmy.protocols.anthropic.stream import MessageEncoder
from tests.protocols.anthropic.exchange import read


def finished(reason: FinishReason, num_tokens: int, stop: str | None = None) -> Finished:
    return Finished("r", 0, reason, Usage(5, num_tokens, 2), Timings(0, 0, 0), stop)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (finished("stop", 3), "end_turn"),
        (finished("stop", 3, "x"), "stop_sequence"),
        (finished("length", 10), "max_tokens"),
        (finished("length", 9), "model_context_window_exceeded"),
        (finished("tool_calls", 9), "tool_use"),
    ],
)
def test_why_it_ended(event: Finished, reason: str) -> None:
    assert ending(event, max_tokens=10) == {"stop_reason": reason, "stop_sequence": event.stop}


def test_cached_tokens_are_counted_once() -> None:
    counts = usage(Usage(5, 4, 2))
    assert (counts["input_tokens"], counts["cache_read_input_tokens"], counts["output_tokens"]) == (3, 2, 4)


def test_blocks_are_numbered_in_the_order_in_which_they_come() -> None:
    events: list[Event] = [
        ReasoningDelta("r", 0, "a"),
        TextDelta("r", 0, ""),
        TextDelta("r", 0, "b"),
        ToolCallDelta("r", 0, 0, "", "id0", "f"),
        ToolCallDelta("r", 0, 0, "{}"),
        ToolCallDelta("r", 0, 1, "{}", "id1", "g"),
        TextDelta("r", 0, "c"),
        finished("tool_calls", 4),
    ]
    encoded = MessageEncoder("msg_1", "m", 10, hides_thoughts=False).encode(events)
    shown: list[Any] = [read(event) for event in encoded.split(b"\n\n") if event]
    starts = [
        (event["index"], event["content_block"]["type"]) for event in shown if event["type"] == "content_block_start"
    ]
    assert starts == [(0, "thinking"), (1, "text"), (2, "tool_use"), (3, "tool_use"), (4, "text")]
    stops = [event["index"] for event in shown if event["type"] == "content_block_stop"]
    assert stops == [0, 1, 2, 3, 4]
    assert [event["type"] for event in shown[-3:]] == ["content_block_stop", "message_delta", "message_stop"]


def test_an_answer_of_nothing_has_no_blocks() -> None:
    encoded = MessageEncoder("msg_1", "m", 10, hides_thoughts=False).encode([finished("stop", 0)])
    assert [read(event)["type"] for event in encoded.split(b"\n\n") if event] == ["message_delta", "message_stop"]
