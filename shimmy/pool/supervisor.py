"""Keeps one model file loaded: one load shared by everyone who waits, restarts with back-off, an end to crash loops."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import Draining, Fault, ModelFailed, ShimmyError, WorkerLost, from_fault
from shimmy.pool.handle import Handle, State
from shimmy.pool.process import Spawn
from shimmy.pool.stay import Stay

if TYPE_CHECKING:
    from shimmy.models.listing import Model
    from shimmy.pool.demand import Needs
    from shimmy.pool.gpus import GpuFailure
    from shimmy.pool.room import Room

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STABLE_SECONDS = 60.0
MAX_CRASHES = 3
CRASH_WINDOW_SECONDS = 300.0
# Main memory among the places where a model takes memory; the others are GPUs, by their names.
MAIN = ""

Phase = Literal["unloaded", "loading", "ready", "failed", "restarting"]


class Tools(msgspec.Struct, frozen=True):
    """What a supervisor works with: how to start a worker, how to tell and wait for time, whom to tell of progress and
    of ends of work, and who finds room in memory: `room`, if anybody does. `tally` counts what happens."""

    spawn: Spawn
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    on_progress: Callable[[str, float], None]
    on_idle: Callable[[], None] = lambda: None
    room: "Room | None" = None
    tally: Counter[str] = msgspec.field(default_factory=Counter)


class Held(NamedTuple):
    """Main memory that a worker has: of its own, and pages of the model's file that it goes on reading; in bytes."""

    anonymous_bytes: int
    mapped_bytes: int


class Crashes:
    """The ends a model came to lately, and the rule that follows: how long to wait, when to give up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: deque[float] = deque(maxlen=MAX_CRASHES)
        self._streak = 0

    def record(self, lived_seconds: float) -> None:
        self._streak = 1 if lived_seconds >= STABLE_SECONDS else self._streak + 1
        self._at.append(self._clock())

    def delay_seconds(self) -> float:
        """How much longer the next start has to wait."""
        if not self._at:
            return 0.0
        pause = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._streak - 1, 10))
        return max(0.0, self._at[-1] + pause - self._clock())

    def too_many(self) -> bool:
        """Three in five minutes; over again once the first of them is five minutes old."""
        return len(self._at) == MAX_CRASHES and self._clock() - self._at[0] < CRASH_WINDOW_SECONDS


class Supervisor:
    """Owns the current handle of one model file, identity included, and the one task that loads and restarts it.

    A load that fails is tried again when the model is asked for again; a worker that dies is replaced unasked, within
    one load once. Both count as crashes.
    """

    def __init__(
        self,
        model: "Model",
        options: ipc.EngineOptions,
        tools: Tools,
        stay: Stay | None = None,
        is_spare: Callable[[], bool] = lambda: False,
    ) -> None:
        """How long it stays loaded, and whether the model answers without it: others read that. Who finds room for it
        sets `needs`, which others cannot have meanwhile, `load_options`, as it is loaded then, and `gpu_failure`."""
        self.model = model
        self.options = options
        self.stay = stay or Stay()
        self.is_spare = is_spare
        self.load_options = options
        self.needs: Needs | None = None
        self.gpu_failure: GpuFailure | None = None
        self.idle_since = tools.clock()
        self.phase: Phase = "unloaded"
        self.fraction = 0.0
        self._tools = tools
        self._crashes = Crashes(tools.clock)
        self._handle: Handle | None = None
        self._failure: Fault | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._leaving = False

    @property
    def reason(self) -> str | None:
        return self._failure.message if self._failure is not None else None

    @property
    def loaded(self) -> ipc.Loaded | None:
        handle = self.ready_handle()
        return handle.loaded if handle is not None else None

    @property
    def num_running(self) -> int:
        """Requests that the worker has."""
        handle = self.ready_handle()
        return handle.num_streams if handle is not None else 0

    @property
    def is_ready(self) -> bool:
        return self.ready_handle() is not None

    @property
    def is_idle(self) -> bool:
        """Ready, and nobody uses it."""
        handle = self.ready_handle()
        return handle is not None and handle.idle.is_set()

    @property
    def is_leaving(self) -> bool:
        return self._leaving

    @property
    def taken_bytes(self) -> int:
        """Main memory that others cannot have: what is reserved for it, or what it has where that is more."""
        held = self.held()
        return max(self._reserved(MAIN), sum(held) if held is not None else 0)

    def taken(self, place: str) -> int:
        """The same of any place."""
        return self.taken_bytes if place == MAIN else self._reserved(place)

    def _reserved(self, place: str) -> int:
        return self.needs.bytes.get(place, 0) if self.needs is not None else 0

    def held(self) -> Held | None:
        """None where there is no worker, or where the system does not say."""
        if self._handle is None or (pid := self._handle.pid) is None:
            return None
        from shimmy.hardware.memory import anonymous_bytes

        anonymous = anonymous_bytes(pid)
        return Held(anonymous, _mapped_bytes(self._handle.loaded)) if anonymous is not None else None

    async def acquire(self) -> Handle:
        """The ready handle; starts or joins the load. Raises why there is none; `WorkerLost` is worth another try."""
        while (handle := self.ready_handle()) is None:
            self._begin()
            await self._changed.wait()
            if self._failure is not None:
                raise from_fault(self._failure)
        return handle

    async def retire(self) -> None:
        """Another file took the name, or nobody needs it: no restarts, and an end once the last stream is over."""
        self._leaving = True
        if (handle := self.ready_handle()) is not None:
            await handle.idle.wait()
        await self.leave(WorkerLost("the model was unloaded, or its file replaced"))

    async def close(self) -> None:
        await self.leave(Draining("the server is shutting down"))

    async def leave(self, error: ShimmyError) -> None:
        """End everything at once, and with `error` whoever waits. Returns once the worker is gone."""
        self._leaving = True
        self._settle("unloaded", error.fault())
        if self._task is not None:
            self._task.cancel()
        if self._handle is not None:
            await self._handle.close(error)
        if self._task is not None:
            await asyncio.wait([self._task])
        self._give_back()

    def ready_handle(self) -> Handle | None:
        """None where there is none."""
        return self._handle if self._handle is not None and self._handle.state is State.READY else None

    def last_handle(self) -> Handle | None:
        """Of the worker that loads, is ready, or was the last one."""
        return self._handle

    def _begin(self) -> None:
        if self._leaving or (self._failure is not None and self._crashes.too_many()):
            raise from_fault(self._failure or WorkerLost("the model was unloaded, or its file replaced").fault())
        if self._task is None or self._task.done():
            self._failure = None
            self.phase = "loading"
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._keep_loaded()
        except ShimmyError as error:
            # Without GPUs it is no better: the next load may have them again.
            self.gpu_failure = None
            self._give_back()
            self._settle("failed", error.fault())
        except Exception:
            log.exception("cannot keep model %s loaded", self.model.id)
            self._give_back()
            self._settle("failed", ModelFailed(f"model {self.model.id!r} cannot be loaded").fault())

    async def _keep_loaded(self) -> None:
        """Returns only when the supervisor leaves; raises why the model cannot be kept."""
        while not self._leaving:
            handle = await self._open()
            self.idle_since = ready_at = self._tools.clock()
            self._progress(1.0)
            if self._tools.room is not None:
                self._tools.room.note_loaded(self)
            self._settle("ready", None)
            # Whoever had it loaded may have left meanwhile.
            self._tools.on_idle()
            await handle.ended.wait()
            self._tools.tally["crashes"] += 1
            self._crashes.record(self._tools.clock() - ready_at)
            self.phase = "restarting"
            if self._crashes.too_many():
                error = ModelFailed(f"model {self.model.id!r} crashed too often, the last time with {handle.exit}")
                room = self._tools.room
                # Had nobody asked for the GPUs that it has layers on, it is tried without: one more crash is the end.
                if room is None or not room.leaves_out_gpus(self, error, has_died=False):
                    raise error
            self._give_back()
            log.warning("model %s is loaded again in %.1f s", self.model.id, self._crashes.delay_seconds())

    async def _open(self) -> Handle:
        """A ready one. Who loads the model may be killed for no fault of it, so one that dies without a word of what is
        wrong has a successor; where less memory of GPUs was left than there seemed to be, fewer layers go there; and
        where it fails with layers there that nobody asked for, it is tried once without, which is no crash of it."""
        is_last, leaves_out_gpus, room = False, False, self._tools.room
        while True:
            self.fraction = 0.0
            await self._tools.sleep(self._crashes.delay_seconds())
            await self._make_room(has_failed=leaves_out_gpus)
            load = ipc.Load(list(self.model.paths), self.load_options)
            handle = self._handle = Handle(self.model.id, load, self._progress, self._note_idle)
            try:
                await handle.open(self._tools.spawn)
            except ShimmyError as error:
                self._tools.tally["failed_loads"] += 1
                if room is not None and room.expects_more(self, error):
                    await handle.close(error)
                    continue
                if self._can_do_without_gpus(handle, error):
                    is_last = leaves_out_gpus = True
                    await handle.close(error)
                    self._give_back()
                    continue
                self._crashes.record(0.0)
                if is_last or handle.state is not State.LOST or self._crashes.too_many():
                    await handle.close(error)
                    raise
                is_last = True
                log.warning("model %s is loaded once more in %.1f s", self.model.id, self._crashes.delay_seconds())
            else:
                self._tools.tally["loads"] += 1
                return handle

    async def _make_room(self, *, has_failed: bool) -> None:
        """`has_failed` on GPUs just now: where there is no room without them that is a crash after all, or else each
        request would bring it about again."""
        if self._tools.room is None:
            return
        try:
            await self._tools.room.make(self)
        except ShimmyError:
            if has_failed:
                self._crashes.record(0.0)
            raise

    def _can_do_without_gpus(self, handle: Handle, error: ShimmyError) -> bool:
        """Of a worker that could not even be started they are not the reason. One that hung may have waited for a
        drive, and did not die of them."""
        room = self._tools.room
        if room is None or handle.state is State.STARTING:
            return False
        has_hung = handle.exit is not None and handle.exit.has_hung
        return room.leaves_out_gpus(self, error, has_died=handle.state is State.LOST and not has_hung)

    def _note_idle(self) -> None:
        self.idle_since = self._tools.clock()
        self._tools.on_idle()

    def _give_back(self) -> None:
        """Its memory, for which others may wait."""
        self.needs = None
        if self._tools.room is not None:
            self._tools.room.note_change()

    def _progress(self, fraction: float) -> None:
        self.fraction = fraction
        self._tools.on_progress(self.model.id, fraction)

    def _settle(self, phase: Phase, failure: Fault | None) -> None:
        """Wake everyone who waits now; later ones wait for the next change."""
        self.phase = phase
        self._failure = failure
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _mapped_bytes(loaded: ipc.Loaded | None) -> int:
    """Of the model's file. What was arranged anew for the CPU is not read from there again."""
    buffers = loaded.buffers if loaded is not None else {}
    mapped = sum(size for kind, size in buffers.items() if kind.endswith("_Mapped"))
    return max(0, mapped - sum(size for kind, size in buffers.items() if kind.endswith("_REPACK")))
