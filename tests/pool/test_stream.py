import asyncio
from typing import Any

import pytest

from shimmy.core import ipc
from shimmy.core.errors import ContextOverflow, Fault, WorkerLost
from shimmy.core.events import (
    Accepted,
    Alternative,
    Echoed,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from shimmy.pool.stream import MAX_WAITING_CHARS, MAX_WAITING_EVENTS, Stream
from tests.fakes.pool import run

ACCEPTED = Accepted("r", 3)


def text(text: str, index: int = 0) -> TextDelta:
    return TextDelta("r", index, text)


def finished(index: int = 0) -> Finished:
    return Finished("r", index, "stop", Usage(3, 1), Timings(0, 0, 0))


def a_stream(*events: Event, num_choices: int = 1) -> tuple[Stream, list[Any]]:
    sent: list[Any] = []
    stream = Stream("r", num_choices, sent.append)
    for event in events:
        stream.push(event)
    return stream, sent


async def batches(stream: Stream) -> list[list[Event]]:
    return [batch async for batch in stream]


def test_everything_that_waits_comes_as_one_batch_and_the_last_choice_ends_the_stream() -> None:
    async def test() -> None:
        stream, _ = a_stream(ACCEPTED, text("a"), finished(0), num_choices=2)
        assert await anext(stream) == [ACCEPTED, text("a"), finished(0)]
        assert not stream.over
        stream.push(finished(1))
        assert stream.over
        assert await batches(stream) == [[finished(1)]]
        assert await batches(stream) == []

    run(test())


def test_thoughts_and_arguments_are_joined_but_never_with_what_begins_a_call() -> None:
    def thought(text: str, index: int = 0) -> ReasoningDelta:
        return ReasoningDelta("r", index, text)

    def call(number: int, arguments: str, name: str | None = None) -> ToolCallDelta:
        return ToolCallDelta("r", 0, number, arguments, name and "id", name)

    async def test() -> None:
        thoughts: list[Event] = [thought("a"), thought("b"), thought("c", 1), text("d"), text("e")]
        calls: list[Event] = [
            call(0, "", "f"),
            call(0, "{"),
            call(0, "}"),
            call(1, "", "f"),
            call(1, "{"),
            call(1, "}"),
        ]
        stream, _ = a_stream(*thoughts, *calls, num_choices=2)
        assert await anext(stream) == [
            thought("ab"),
            thought("c", 1),
            text("de"),
            call(0, "", "f"),
            call(0, "{}"),
            call(1, "", "f"),
            call(1, "{}"),
        ]

    run(test())


@pytest.mark.parametrize("delta", [ReasoningDelta("r", 0, "x" * 1000), ToolCallDelta("r", 0, 0, "x" * 1000)])
def test_a_reader_that_is_behind_in_thoughts_or_calls_is_waited_for(delta: Event) -> None:
    async def test() -> None:
        stream, sent = a_stream(*[delta] * (MAX_WAITING_CHARS // 1000 + 1))
        assert sent == [ipc.Pause("r")]
        await anext(stream)
        assert sent == [ipc.Pause("r"), ipc.Resume("r")]

    run(test())


def test_neighbouring_text_of_one_choice_is_joined() -> None:
    async def test() -> None:
        deltas = [text("a"), text("b"), text("c", 1), text("d"), text("e"), text("f")]
        stream, _ = a_stream(ACCEPTED, *deltas, finished(0), finished(1), num_choices=2)
        expected = [ACCEPTED, text("ab"), text("c", 1), text("def"), finished(0), finished(1)]
        assert await batches(stream) == [expected]

    run(test())


def test_their_tokens_are_joined_too() -> None:
    async def test() -> None:
        first, second = TokenLogprob(b"a", -1.0), TokenLogprob(b"b", -2.0, [Alternative(b"c", -1.0)])
        stream, _ = a_stream(TextDelta("r", 0, "a", [first]), TextDelta("r", 0, "b", [second]), finished(0))
        assert await batches(stream) == [[TextDelta("r", 0, "ab", [first, second]), finished(0)]]

    run(test())


def test_tokens_weigh_as_well() -> None:
    alternatives = [Alternative(b"x", -1.0)] * 20
    tokens = [TokenLogprob(b"a", -1.0, alternatives)]
    for event in (TextDelta("r", 0, "a", tokens), Echoed("r", "", tokens)):
        _, sent = a_stream(*([event] * 200))
        assert sent == [ipc.Pause("r")]


def test_a_reader_waits_for_what_is_not_there_yet() -> None:
    async def test() -> None:
        stream, _ = a_stream()
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.push(ACCEPTED)
        assert await waiting == [ACCEPTED]

    run(test())


def test_a_failure_is_raised_after_what_came_before_it() -> None:
    async def test() -> None:
        fault = Fault("context_length_exceeded", "too long", "messages", {"context_length": 5})
        stream, _ = a_stream(ACCEPTED, text("a"), Failed("r", fault))
        assert stream.over
        assert await anext(stream) == [ACCEPTED, text("a")]
        with pytest.raises(ContextOverflow, match="too long") as raised:
            await anext(stream)
        assert raised.value.details == {"context_length": 5}

    run(test())


def test_a_failure_wakes_a_reader_that_waits() -> None:
    async def test() -> None:
        stream, _ = a_stream()
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        stream.fail(WorkerLost("gone"))
        with pytest.raises(WorkerLost):
            await waiting

    run(test())


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ([text("x")] * MAX_WAITING_EVENTS, text("x")),
        ([text("x" * MAX_WAITING_CHARS)], text("x")),
    ],
    ids=["events", "characters"],
)
def test_the_worker_is_paused_once_too_much_waits_and_resumed_when_it_is_taken(
    within: list[Event], beyond: TextDelta
) -> None:
    async def test() -> None:
        stream, sent = a_stream(*within)
        assert sent == []
        stream.push(beyond)
        stream.push(beyond)
        assert sent == [ipc.Pause("r")]
        await anext(stream)
        assert sent == [ipc.Pause("r"), ipc.Resume("r")]
        stream.push(beyond)
        await anext(stream)
        assert len(sent) == 2

    run(test())


def test_a_finished_request_is_not_resumed() -> None:
    async def test() -> None:
        stream, sent = a_stream(*[text("x")] * 300, finished())
        await anext(stream)
        assert sent == [ipc.Pause("r")]

    run(test())


def test_a_worker_that_ignores_the_brake_breaks_the_protocol() -> None:
    async def test() -> None:
        stream, _ = a_stream(text("x" * MAX_WAITING_CHARS * 64))
        with pytest.raises(ipc.FrameError, match="Pause"):
            stream.push(text("x"))

    run(test())
