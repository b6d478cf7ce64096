"""One request as the server sees it: the events that wait for its reader, and the brake on the worker.

Knows nothing of processes or wire formats; what it has to tell the worker goes through the callback it is given.
"""

import asyncio
from collections.abc import Callable

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError, from_fault
from shimmy.core.events import Echoed, Embedded, Event, Failed, Finished, ReasoningDelta, TextDelta, ToolCallDelta

MAX_WAITING_CHARS = 64 << 10
MAX_WAITING_EVENTS = 256
_OVERRUN = 64
# What telling of a token or of an alternative to it counts for.
_TOKEN_CHARS = 16


class Stream:
    """An async iterator of batches: every event that waits, never an empty list.

    Ends after the last choice's `Finished`, or the last `Embedded`; a failure is raised, after the events that came
    before it. For one reader.
    """

    def __init__(self, id: str, num_results: int, send: Callable[[ipc.Pause | ipc.Resume], None]) -> None:
        self.id = id
        self._send = send
        self._num_open = num_results
        self._error: ShimmyError | None = None
        self._events: list[Event] = []
        self._num_chars = 0
        self._paused = False
        self._arrived = asyncio.Event()

    @property
    def over(self) -> bool:
        """Nothing more will arrive, though events may still wait."""
        return self._num_open == 0 or self._error is not None

    @property
    def is_paused(self) -> bool:
        """The worker waits for the reader."""
        return self._paused

    def push(self, event: Event) -> None:
        """Raises `ipc.FrameError` when the worker goes on far beyond a `Pause`."""
        if isinstance(event, Failed):
            return self.fail(from_fault(event.fault))
        if isinstance(event, Finished | Embedded):
            self._num_open -= 1
        elif isinstance(event, ToolCallDelta):
            self._num_chars += len(event.arguments)
        elif isinstance(event, Echoed | TextDelta | ReasoningDelta):
            self._num_chars += len(event.text) + sum(_TOKEN_CHARS * (1 + len(token.top)) for token in event.tokens)
        self._events.append(event)
        self._arrived.set()
        self._brake()

    def fail(self, error: ShimmyError) -> None:
        self._error = error
        self._arrived.set()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> list[Event]:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._num_open == 0:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._take()

    def _take(self) -> list[Event]:
        batch, self._events, self._num_chars = self._events, [], 0
        if self._paused:
            self._paused = False
            if not self.over:
                self._send(ipc.Resume(self.id))
        return _merged(batch) if len(batch) > 1 else batch

    def _brake(self) -> None:
        fullness = max(self._num_chars / MAX_WAITING_CHARS, len(self._events) / MAX_WAITING_EVENTS)
        if fullness > _OVERRUN:
            raise ipc.FrameError("the worker ignores Pause")
        if fullness > 1 and not self._paused and not self.over:
            self._paused = True
            self._send(ipc.Pause(self.id))


def _merged(batch: list[Event]) -> list[Event]:
    """Neighbouring deltas that go on with the same, as one."""
    merged: list[Event] = []
    run: list[Event] = []
    for event in batch:
        if run and _goes_on(run[-1], event):
            run.append(event)
            continue
        _join(merged, run)
        merged.append(event)
        run = [event]
    _join(merged, run)
    return merged


def _goes_on(last: Event, event: Event) -> bool:
    if isinstance(last, ToolCallDelta) and isinstance(event, ToolCallDelta):
        # What begins a call stays alone, as clients expect it.
        return (last.index, last.call) == (event.index, event.call) and last.name is None and event.name is None
    if isinstance(last, TextDelta) and isinstance(event, TextDelta):
        return last.index == event.index
    return isinstance(last, ReasoningDelta) and isinstance(event, ReasoningDelta) and last.index == event.index


def _join(merged: list[Event], run: list[Event]) -> None:
    if len(run) < 2:
        return
    if isinstance(run[0], ToolCallDelta):
        arguments = "".join(event.arguments for event in run if isinstance(event, ToolCallDelta))
        merged[-1] = msgspec.structs.replace(run[0], arguments=arguments)
    elif isinstance(run[0], TextDelta | ReasoningDelta):
        deltas = [event for event in run if isinstance(event, TextDelta | ReasoningDelta)]
        text = "".join(delta.text for delta in deltas)
        tokens = [token for delta in deltas for token in delta.tokens]
        merged[-1] = msgspec.structs.replace(run[0], text=text, tokens=tokens)
