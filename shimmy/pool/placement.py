"""Which worker answers for which model: a loaded one, one that loads, or a new one. One supervisor per model file.

A model that answers goes on answering while another version of it is loaded and tried; then its name leads to that.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import Draining, ModelInvalid, WorkerLost, from_fault
from shimmy.pool.expiry import Expiry
from shimmy.pool.handle import Handle
from shimmy.pool.process import Spawn, spawn_worker
from shimmy.pool.room import Room, Usage, system_memory
from shimmy.pool.stay import Stay
from shimmy.pool.supervisor import Phase, Supervisor, Tools
from shimmy.pool.swap import Switch, SwitchStatus

if TYPE_CHECKING:
    from shimmy.hardware.memory import Memory
    from shimmy.models.listing import Model
    from shimmy.pool.adapters import Adapters
    from shimmy.pool.draft import DraftModel


class ModelStatus(msgspec.Struct, frozen=True):
    """A snapshot; `fraction` of the file read so far, 0 to 1; `reason` when failed; `loaded` when ready; `switch`: the
    last attempt to replace it while it was loaded. `taken_bytes` is its main memory, with what is reserved for it;
    `expires_in_seconds` None for a model that stays."""

    id: str
    state: Phase
    fraction: float = 0.0
    reason: str | None = None
    loaded: ipc.Loaded | None = None
    switch: SwitchStatus | None = None
    taken_bytes: int = 0
    expires_in_seconds: float | None = None


class Placement:
    """Owns the supervisors. `on_progress` gets a model id and the fraction loaded."""

    def __init__(
        self,
        options: ipc.EngineOptions,
        *,
        spawn: Spawn = spawn_worker,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_progress: Callable[[str, float], None] = lambda model_id, fraction: None,
        draft: "DraftModel | None" = None,
        adapters: "Adapters | None" = None,
        memory_limit_bytes: int | None = None,
        keep_alive_seconds: float = inf,
        measure: "Callable[[], Memory | None]" = system_memory,
    ) -> None:
        """Without a limit models may take what `measure` says is left. `keep_alive_seconds` is how long they stay after
        their last request, unless that says otherwise."""
        self._options = options
        self._draft = draft
        self._adapters = adapters
        self._keep_alive_seconds = keep_alive_seconds
        self._room = Room(memory_limit_bytes, self._living, self._loaded, self._make_way, measure)
        self._expiry = Expiry(self._unswitched, self._expire, clock, sleep)
        self.tally: Counter[str] = Counter()
        self._tools = Tools(spawn, clock, sleep, on_progress, self.note_change, self._room, self.tally)
        self._stays: dict[str, Stay] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._switches: dict[str, Switch] = {}
        self._retiring: set[Supervisor] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def acquire(self, model: "Model", keep_alive_seconds: float | None = None) -> Handle:
        """A handle that is ready, loading the model when needed. Raises why that is not possible.

        Whoever submits to it does so at once, before anything else is awaited: only then is the model known to be used.
        """
        if keep_alive_seconds is not None:
            self.stay_of(model.id).keep_alive_seconds = keep_alive_seconds
        handle = await self._acquire(model)
        # It may stay unused.
        self.note_change()
        return handle

    async def _acquire(self, model: "Model") -> Handle:
        while True:
            if self._closed:
                raise Draining("the server is shutting down")
            supervisor = self._supervisor(model)
            switch = self._running_switch(model.id)
            if supervisor.is_ready or switch is None:
                return await supervisor.acquire()
            # The old version is lost, and its file with it: the new one comes sooner.
            await switch.wait()
            # Meanwhile there may be a newer one, which must not give way to this.
            model = newest.model if (newest := self._switches.get(model.id)) is not None else model

    async def reload(self, model: "Model") -> None:
        """Load the model anew, its file changed or not; if it is loaded, it answers until the new one has been tried.
        Raises why that failed."""
        current = self._supervisors.get(model.id)
        if current is None or not current.is_ready or self._closed:
            await self.acquire(model)
            return
        switch = self._running_switch(model.id)
        if switch is None or switch.model.identity != model.identity:
            switch = self._switch(model, current)
        while not switch.over:
            await switch.wait()
            # Should the file have changed again, what became of that counts.
            switch = self._switches.get(model.id, switch)
        if switch.error is not None:
            fault = switch.error.fault()
            raise from_fault(
                msgspec.structs.replace(fault, message=f"{fault.message}; the model stays as it was loaded")
            )

    def follow(self, model: "Model") -> None:
        """The model's file may have changed: if it is loaded, begin to replace it."""
        current = self._supervisors.get(model.id)
        if current is not None and current.is_ready and not self._closed:
            self._supervisor(model)

    def forget(self, model_id: str) -> None:
        """The model's file is gone: end with the last stream."""
        if (supervisor := self._supervisors.get(model_id)) is not None and not self._closed:
            self._remove(supervisor)

    def is_ready(self, model_id: str) -> bool:
        current = self._supervisors.get(model_id)
        return current is not None and current.is_ready

    def status(self, model_id: str) -> ModelStatus:
        supervisor = self._supervisors.get(model_id)
        if supervisor is None:
            return ModelStatus(model_id, "unloaded")
        switch = self._switches.get(model_id)
        remaining = self._expiry.remaining_seconds(supervisor)
        return ModelStatus(
            model_id,
            supervisor.phase,
            supervisor.fraction,
            supervisor.reason,
            supervisor.loaded,
            switch.status if switch is not None else None,
            supervisor.taken_bytes,
            remaining if remaining < inf else None,
        )

    def num_running(self, model_id: str) -> int:
        """Requests that a model's worker has."""
        supervisor = self._supervisors.get(model_id)
        return supervisor.num_running if supervisor is not None else 0

    def stay_of(self, model_id: str) -> Stay:
        """How long it stays, to be read and changed."""
        return self._stays.setdefault(model_id, Stay(self._keep_alive_seconds))

    def usage(self) -> Usage:
        """Of main memory, by all models together."""
        return self._room.usage()

    def statuses(self) -> list[ModelStatus]:
        """Of the models ever asked for."""
        return [self.status(model_id) for model_id in sorted(self._supervisors)]

    async def unload(self, model_id: str) -> bool:
        """End the worker of a model that is loaded and idle, and return once it is gone. False when it is in use."""
        supervisor = self._supervisors.get(model_id)
        if supervisor is None or supervisor.phase in ("unloaded", "failed"):
            return True
        if not supervisor.is_idle:
            return False
        await asyncio.wait([self._remove(supervisor)])
        return True

    async def close(self) -> None:
        """End all workers; whatever still waits or streams gets `Draining`."""
        self._closed = True
        draining = Draining("the server is shutting down")
        await self._expiry.close()
        await asyncio.gather(
            *(switch.cancel(draining) for switch in self._switches.values()),
            *(supervisor.close() for supervisor in (*self._supervisors.values(), *self._retiring)),
        )
        await asyncio.gather(*self._ending)

    def _supervisor(self, model: "Model") -> Supervisor:
        """The one that answers for the model. A changed file is loaded beside one that is ready, which answers until
        then; one that is not is given up for it."""
        current = self._supervisors.get(model.id)
        if current is not None and current.model.identity == model.identity:
            return current
        if current is not None and (current.is_ready or self._running_switch(model.id) is not None):
            last = self._switches.get(model.id)
            # What failed is tried again when somebody asks for that, or when the file changes again.
            if last is None or last.model.identity != model.identity:
                self._switch(model, current)
            return current
        supervisor = self._new_supervisor(model)
        self._switches.pop(model.id, None)
        if current is not None:
            self._retire(current, current.retire())
        self._supervisors[model.id] = supervisor
        return supervisor

    def _new_supervisor(self, model: "Model") -> Supervisor:
        """Raises why it is no use to try."""
        if model.invalid is not None:
            raise ModelInvalid(f"the model {model.id!r} cannot be served: {model.invalid}", param="model")
        return Supervisor(model, self._options_for(model), self._tools, self.stay_of(model.id))

    def _switch(self, model: "Model", current: Supervisor) -> Switch:
        """Begin one; another that still runs has become useless."""
        if (running := self._running_switch(model.id)) is not None:
            self._end(running.cancel(WorkerLost("the model's file changed again")))

        def hand_over(candidate: Supervisor) -> None:
            self._supervisors[model.id] = candidate
            self._retire(current, current.retire())

        switch = self._switches[model.id] = Switch(model, lambda: self._new_supervisor(model), hand_over, self.tally)

        async def note_end() -> None:
            await switch.wait()
            self.note_change()

        self._end(note_end())
        return switch

    def _running_switch(self, model_id: str) -> Switch | None:
        switch = self._switches.get(model_id)
        return switch if switch is not None and not switch.over else None

    def _options_for(self, model: "Model") -> ipc.EngineOptions:
        """No model needs its own guesses."""
        paths = self._draft.paths() if self._draft is not None else ()
        adapters = self._adapters.of(model) if self._adapters is not None else ()
        draft_paths = () if paths == tuple(model.paths) else paths
        return msgspec.structs.replace(self._options, draft_paths=draft_paths, adapters=adapters)

    def _retire(self, supervisor: Supervisor, leaving: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self._retiring.add(supervisor)
        task = self._end(leaving)
        task.add_done_callback(lambda _: self._retiring.discard(supervisor))
        return task

    def _end(self, ending: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Whatever happens to it in the background, `close` waits for."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _remove(self, supervisor: Supervisor) -> "asyncio.Task[None]":
        """Whoever comes from now on has it loaded anew. The task is done once its worker is gone."""
        del self._supervisors[supervisor.model.id]
        switch = self._switches.pop(supervisor.model.id, None)

        async def leave() -> None:
            if switch is not None:
                await switch.cancel(WorkerLost("the model was unloaded"))
            await supervisor.retire()

        return self._retire(supervisor, leave())

    async def _make_way(self, supervisor: Supervisor) -> None:
        self.tally["evictions"] += 1
        await asyncio.wait([self._remove(supervisor)])

    def _expire(self, supervisor: Supervisor) -> None:
        self.tally["expirations"] += 1
        self._remove(supervisor)

    def note_change(self) -> None:
        """Some worker may have nothing to do, or may have to stay for another time."""
        self._room.note_change()
        self._expiry.note_change()

    def _loaded(self) -> list[Supervisor]:
        """Those that names lead to."""
        return list(self._supervisors.values())

    def _unswitched(self) -> list[Supervisor]:
        """Of these, those of which no other version is on its way: it would be lost if they left."""
        return [each for each in self._loaded() if self._running_switch(each.model.id) is None]

    def _living(self) -> list[Supervisor]:
        """All whose workers may still take memory."""
        candidates = (switch.candidate for switch in self._switches.values())
        return list({*self._supervisors.values(), *self._retiring, *filter(None, candidates)})
