"""One loaded model as the server sees it: its worker process, its state and its running streams.

Knows one life only; what comes after a death is the supervisor's business.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import Enum, auto
from itertools import count

from shimmy.core import ipc
from shimmy.core.errors import ModelFailed, ShimmyError, TooLarge, Unavailable, WorkerLost, from_fault
from shimmy.core.request import Embedding, Generation
from shimmy.pool.asked import Asked
from shimmy.pool.process import Exit, Spawn, WorkerProcess
from shimmy.pool.stream import Stream

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
_serial_numbers = count(1)


class State(Enum):
    STARTING = auto()
    LOADING = auto()
    READY = auto()
    LOST = auto()
    CLOSED = auto()


_MOVES = {
    State.STARTING: {State.LOADING, State.LOST, State.CLOSED},
    State.LOADING: {State.READY, State.LOST, State.CLOSED},
    State.READY: {State.LOST, State.CLOSED},
    State.LOST: {State.CLOSED},
    State.CLOSED: {State.CLOSED},
}


class Handle:
    """`open` it, `submit` to it, `close` it; `ended` is set once the worker is gone, `idle` while it has no stream and
    nobody waits for an answer. `on_idle` is called when it becomes so."""

    def __init__(
        self,
        name: str,
        load: ipc.Load,
        on_progress: Callable[[float], None],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        # No two have the same, as process ids may.
        self.serial = next(_serial_numbers)
        self.state = State.STARTING
        self.loaded: ipc.Loaded | None = None
        self.exit: Exit | None = None
        self.ended = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self._load = load
        self._on_progress = on_progress
        self._on_idle = on_idle
        self._opened = asyncio.Event()
        self._error: ShimmyError | None = None
        self._opening: str | None = None
        self._process: WorkerProcess | None = None
        self._streams: dict[str, Stream] = {}
        self._asked: dict[int, Asked] = {}
        self._num_asked = 0

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    @property
    def pid(self) -> int | None:
        """Of the worker, as long as it lives."""
        return self._process.pid if self._process is not None and not self.ended.is_set() else None

    @property
    def has_crashed(self) -> bool:
        """It was ready, and ended on its own."""
        return self.state is State.LOST and self.loaded is not None

    @property
    def has_work(self) -> bool:
        """Somebody waits for it: for the model, for an answer, or for what requests make it compute."""
        return self.state in (State.STARTING, State.LOADING) or bool(self._asked) or self.has_requests

    @property
    def has_requests(self) -> bool:
        """There are some, and it does not wait for their readers. It may for as long as one of them is behind."""
        return bool(self._streams) and not any(stream.is_paused for stream in self._streams.values())

    @property
    def work(self) -> str:
        """What that is, for the log."""
        if self.state is not State.READY:
            return "it loads"
        return f"{len(self._streams)} requests, {len(self._asked)} questions"

    async def open(self, spawn: Spawn) -> None:
        """Start the worker and load the model. Raises what the worker says is wrong, or `ModelFailed`."""
        try:
            self._process = await spawn(self._on_message, self._on_end)
        except OSError as error:
            raise ModelFailed(f"model {self.name!r} cannot have a worker process: {error.strerror}") from error
        if self.state is State.STARTING:
            self._move(State.LOADING)
            self._process.send(self._load)
        await self._opened.wait()
        if self._error is not None:
            raise self._error

    async def submit(self, request: Generation | Embedding) -> Stream:
        """Hand a request to the worker, once it has read the ones before. Raises `WorkerLost` when there is none."""
        if self.state is not State.READY or self._process is None:
            raise WorkerLost("the model's worker process is gone")
        if request.id in self._streams:
            raise ShimmyError(f"request id {request.id!r} is in use")
        stream = self._streams[request.id] = Stream(request.id, request.num_results, self._process.send)
        message = ipc.Embed(request) if isinstance(request, Embedding) else ipc.Generate(request)
        self.idle.clear()
        try:
            await self._process.send_in_turn(message)
        except ipc.FrameError as error:
            self._forget(request.id)
            raise TooLarge(str(error)) from error
        except BaseException:
            self._forget(request.id)
            raise
        return stream

    async def ask(self, question: ipc.Question) -> ipc.Tokenized | ipc.Counted | ipc.Written:
        """What the worker says to something that needs no context. Raises `WorkerLost` when there is none."""
        if self.state is not State.READY or self._process is None:
            raise WorkerLost("the model's worker process is gone")
        self._num_asked += 1
        id = self._num_asked
        asked = self._asked[id] = Asked()
        self.idle.clear()
        try:
            await self._process.send_in_turn(ipc.Ask(id, question))
            return await asked.answer
        except ipc.FrameError as error:
            raise TooLarge(str(error)) from error
        finally:
            asked.forget()
            self._asked.pop(id, None)
            self._note_idle()

    def abort(self, stream: Stream) -> None:
        """The reader has left; nothing happens for a stream that is over."""
        if self._streams.get(stream.id) is stream:
            self._forget(stream.id)
            if self._process is not None:
                self._process.send(ipc.Abort(stream.id))

    def end_hung(self) -> None:
        """Like a crash."""
        if self._process is not None:
            self._process.end_hung()

    async def close(self, error: ShimmyError) -> None:
        """End the worker, and with `error` whatever still waits for it. Returns once the process is gone."""
        grace_seconds = 0.0
        if self.state is State.READY:
            grace_seconds = CLOSE_SECONDS + (ipc.STORE_SECONDS if self._load.options.disk_cache else 0.0)
        self._move(State.CLOSED)
        self._fail(error)
        if self._process is not None:
            await self._process.close(grace_seconds)

    def _on_message(self, message: ipc.FromWorker) -> None:
        match message:
            case ipc.Events(events):
                for event in events:
                    if (stream := self._streams.get(event.id)) is not None:
                        stream.push(event)
                        if stream.over:
                            self._forget(event.id)
            case ipc.Answer(id, answer, more):
                # Whoever asked may have left.
                if (asked := self._asked.get(id)) is not None:
                    asked.push(answer, more=more)
            case ipc.LoadProgress(fraction) if self.state is State.LOADING:
                self._opening = None
                self._on_progress(fraction)
            case ipc.Opening(path) if self.state is State.LOADING:
                self._opening = path
            case ipc.Loaded() if self.state is State.LOADING:
                self.loaded = message
                self._move(State.READY)
                log.info("model %s is ready after %.2f s", self.name, message.load_seconds)
                self._opened.set()
            case ipc.LoadFailed(fault) if self.state is State.LOADING:
                log.error("model %s cannot be loaded: %s", self.name, fault.message)
                self._error = from_fault(fault)
                self._opened.set()
            case _ if self.state is not State.CLOSED:
                raise ipc.FrameError(f"{type(message).__name__} is out of place while {self.state.name.lower()}")

    def _on_end(self, exit: Exit) -> None:
        self.exit = exit
        if self.state is State.READY:
            error: ShimmyError = WorkerLost(f"the model's worker process ended ({exit})")
        else:
            error = self._not_loaded(exit)
        if self.state is not State.CLOSED:
            self._move(State.LOST)
            tail = "".join(f"\n  {line}" for line in exit.stderr_tail)
            log.error("worker of model %s ended: %s %s%s", self.name, exit, exit.violation or "", tail)
        self._fail(error)
        self.ended.set()

    def _not_loaded(self, exit: Exit) -> ShimmyError:
        what = f" while it opened {self._opening}" if self._opening is not None else ""
        if exit.has_hung:
            return Unavailable(
                f"model {self.name!r} cannot be loaded now: its worker process did nothing any more{what}, "
                "as if the drive that holds the model did not answer"
            )
        return ModelFailed(f"model {self.name!r} cannot be loaded: its worker process ended ({exit}){what}")

    def _fail(self, error: ShimmyError) -> None:
        """End everyone who waits; the first error stands."""
        if not self._opened.is_set():
            self._error = error
            self._opened.set()
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()
        for asked in self._asked.values():
            asked.fail(error)
        self.idle.set()

    def _forget(self, id: str) -> None:
        self._streams.pop(id, None)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._streams and not self._asked and not self.idle.is_set():
            self.idle.set()
            self._on_idle()

    def _move(self, state: State) -> None:
        if state not in _MOVES[self.state]:
            raise RuntimeError(f"worker of {self.name}: {self.state.name} cannot become {state.name}")
        self.state = state
