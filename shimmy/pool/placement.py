"""Which workers answer for which model: loaded ones, some that load, or new ones. One group of them per model file.

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
from shimmy.pool.group import Group
from shimmy.pool.handle import Handle
from shimmy.pool.process import OnEnd, OnMessage, Spawn, WorkerProcess, spawn_worker
from shimmy.pool.room import Room, Usage, system_memory, without_gpu_backend
from shimmy.pool.stay import Stay
from shimmy.pool.supervisor import Phase, Supervisor, Tools
from shimmy.pool.swap import Switch, SwitchStatus

if TYPE_CHECKING:
    from shimmy.core.request import Generation
    from shimmy.hardware.memory import Memory
    from shimmy.models.listing import Model
    from shimmy.pool.adapters import Adapters
    from shimmy.pool.draft import DraftModel
    from shimmy.pool.gpus import Survey
    from shimmy.pool.watchdog import Watchdog

# Of a load.
_UNWATCHED_SECONDS = 1.0


class ModelStatus(msgspec.Struct, frozen=True):
    """A snapshot; `fraction` of the file read so far, 0 to 1; `reason` when failed; `loaded` when ready; `switch`: the
    last attempt to replace it while it was loaded. `expires_in_seconds` is None for a model that stays; `num_workers`
    are ready. `gpu_failure`: why it has no layers on GPUs, where it should have had some."""

    id: str
    state: Phase
    fraction: float = 0.0
    reason: str | None = None
    loaded: ipc.Loaded | None = None
    switch: SwitchStatus | None = None
    expires_in_seconds: float | None = None
    num_workers: int = 0
    gpu_failure: str | None = None


class Placement:
    """Owns the groups. `on_progress` gets a model id and the fraction loaded."""

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
        num_workers: int = 1,
        hang_seconds: float = inf,
        measure: "Callable[[], Memory | None]" = system_memory,
        survey: "Survey | None" = None,
        has_gpu_backend: Callable[[], Awaitable[bool]] = without_gpu_backend,
    ) -> None:
        """Without a limit models may take what `measure` says is left, and of GPUs what `survey` says, or a worker that
        is asked; where `has_gpu_backend` layers go there unless `options` say something of that. `keep_alive_seconds`
        is how long models stay after their last request, unless that says otherwise, and `num_workers` how many each
        one has. One that has done nothing for `hang_seconds` though somebody waits for it is ended."""
        self._options = options
        self._draft = draft
        self._adapters = adapters
        self._keep_alive_seconds = keep_alive_seconds
        self._num_workers = num_workers
        survey = survey or self._survey
        self._hung_backends: dict[str, str] = {}
        self._room = Room(
            memory_limit_bytes, self._living, self._loaded, self._make_way, measure, survey, has_gpu_backend
        )
        self._expiry = Expiry(self._unswitched, self._expire, clock, sleep)
        self.tally: Counter[str] = Counter()
        # Set with the start of the first worker, and seen only when that one has been told what to do.
        self.first_worker = asyncio.Event()
        self._spawn_unwatched = spawn
        self._tools = Tools(self._spawn, clock, sleep, on_progress, self.note_change, self._room, self.tally)
        self._stays: dict[str, Stay] = {}
        self._nums_wanted: dict[str, int] = {}
        self._groups: dict[str, Group] = {}
        self._switches: dict[str, Switch] = {}
        self._retiring: set[Group] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._hang_seconds = hang_seconds
        self._watchdog: Watchdog | None = None
        self._closed = False

    async def acquire(
        self, model: "Model", keep_alive_seconds: float | None = None, request: "Generation | None" = None
    ) -> Handle:
        """A handle that is ready, the best one for `request`, loading the model when needed. Raises why that is not
        possible.

        Whoever submits to it does so at once, before anything else is awaited: only then is the model known to be used.
        """
        if keep_alive_seconds is not None:
            self.stay_of(model.id).keep_alive_seconds = keep_alive_seconds
        handle = await self._acquire(model, request)
        # It may stay unused.
        self.note_change()
        self._watch()
        return handle

    async def _acquire(self, model: "Model", request: "Generation | None") -> Handle:
        while True:
            if self._closed:
                raise Draining("the server is shutting down")
            group = self._group(model)
            switch = self._running_switch(model.id)
            if group.is_ready or switch is None:
                handle = await group.acquire(request)
                group.fill()
                return handle
            # The old version is lost, and its file with it: the new one comes sooner.
            await switch.wait()
            # Meanwhile there may be a newer one, which must not give way to this.
            model = newest.model if (newest := self._switches.get(model.id)) is not None else model

    async def reload(self, model: "Model") -> None:
        """Load the model anew, its file changed or not; if it is loaded, it answers until the new one has been tried.
        Raises why that failed. Returns once it has all of its workers, or as many as there is room for."""
        current = self._groups.get(model.id)
        if current is None or not current.is_ready or self._closed:
            await self.acquire(model)
        else:
            await self._replace(model, current)
        await self.filled(model.id)

    async def filled(self, model_id: str) -> None:
        """Returns once a model has all of its workers, or as many as there is room for."""
        if (group := self._groups.get(model_id)) is not None:
            await group.filled()

    async def _replace(self, model: "Model", current: Group) -> None:
        switch = self._running_switch(model.id)
        if switch is None or switch.model.version != model.version:
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
        """The model's file may have changed: if it is loaded, begin to replace it, and if it failed, forget that."""
        current = self._groups.get(model.id)
        if current is None or self._closed:
            return
        if current.phase == "failed" and self._running_switch(model.id) is None:
            self._remove(current)
        elif current.is_ready:
            self._group(model)

    def forget(self, model_id: str) -> None:
        """The model's file is gone: end with the last stream."""
        if (group := self._groups.get(model_id)) is not None and not self._closed:
            self._remove(group)

    def is_ready(self, model_id: str) -> bool:
        current = self._groups.get(model_id)
        return current is not None and current.is_ready

    def is_as_wanted(self, model: "Model") -> bool:
        """Whether to load it anew would only bring what is loaded: this version of it, with the options and the number
        of workers that it would get. Raises why it could get none."""
        current = self._groups.get(model.id)
        if current is None or not current.is_ready or current.model.version != model.version:
            return False
        return current.options == self._options_for(model) and current.num_wanted == self._num_wanted(model.id)

    def status(self, model_id: str) -> ModelStatus:
        group = self._groups.get(model_id)
        if group is None:
            return ModelStatus(model_id, "unloaded")
        switch = self._switches.get(model_id)
        remaining = self._expiry.remaining_seconds(group)
        return ModelStatus(
            model_id,
            group.phase,
            group.fraction,
            group.reason,
            group.loaded,
            switch.status if switch is not None else None,
            remaining if remaining < inf else None,
            group.num_ready,
            group.gpu_failure,
        )

    def num_running(self, model_id: str) -> int:
        """Requests that a model's workers have."""
        group = self._groups.get(model_id)
        return group.num_running if group is not None else 0

    def taken_bytes(self, model_id: str) -> int:
        """Main memory of a model, with what is reserved for it. The system is asked, which takes longer than the rest
        of what there is to say."""
        group = self._groups.get(model_id)
        return group.taken_bytes if group is not None else 0

    def gpu_bytes(self, model_id: str) -> dict[str, int]:
        """The same of each GPU; llama.cpp's own figures once it is loaded."""
        group = self._groups.get(model_id)
        return group.gpu_bytes if group is not None else {}

    def stay_of(self, model_id: str) -> Stay:
        """How long it stays, to be read and changed."""
        return self._stays.setdefault(model_id, Stay(self._keep_alive_seconds))

    def want_workers(self, model_id: str, num_workers: int) -> None:
        """How many a model has from its next load on."""
        self._nums_wanted[model_id] = num_workers
        if (group := self._groups.get(model_id)) is not None and not group.is_ready:
            group.num_wanted = num_workers

    def usage(self) -> Usage:
        """Of main memory, by all models together."""
        return self._room.usage()

    def gpu_usage(self) -> dict[str, Usage]:
        """The same of GPUs, by name."""
        return self._room.gpu_usage()

    def statuses(self) -> list[ModelStatus]:
        """Of the models ever asked for."""
        return [self.status(model_id) for model_id in sorted(self._groups)]

    async def unload(self, model_id: str) -> bool:
        """End the workers of a model that nobody uses, and return once they are gone. False for one in use. One that
        failed is loaded anew for whoever asks next."""
        group = self._groups.get(model_id)
        if group is None:
            return True
        if group.is_in_use:
            return False
        await asyncio.wait([self._remove(group)])
        return True

    async def close(self) -> None:
        """End all workers; whatever still waits or streams gets `Draining`."""
        self._closed = True
        draining = Draining("the server is shutting down")
        await self._expiry.close()
        if self._watchdog is not None:
            await self._watchdog.close()
        await asyncio.gather(
            *(switch.cancel(draining) for switch in self._switches.values()),
            *(group.close() for group in (*self._groups.values(), *self._retiring)),
        )
        await asyncio.gather(*self._ending)

    def _group(self, model: "Model") -> Group:
        """The one that answers for the model. A changed file is loaded beside one that is ready, which answers until
        then; one that is not is given up for it."""
        current = self._groups.get(model.id)
        if current is not None and current.model.version == model.version:
            return current
        if current is not None and (current.is_ready or self._running_switch(model.id) is not None):
            last = self._switches.get(model.id)
            # What failed is tried again when somebody asks for that, or when the file changes again.
            if last is None or last.model.version != model.version:
                self._switch(model, current)
            return current
        group = self._new_group(model)
        self._switches.pop(model.id, None)
        if current is not None:
            self._retire(current, current.retire())
        self._groups[model.id] = group
        return group

    def _new_group(self, model: "Model") -> Group:
        """Raises why it is no use to try."""
        if model.invalid is not None:
            raise ModelInvalid(f"the model {model.id!r} cannot be served: {model.invalid}", param="model")
        num_workers = self._num_wanted(model.id)
        return Group(model, self._options_for(model), self._tools, self.stay_of(model.id), num_workers)

    def _num_wanted(self, model_id: str) -> int:
        return self._nums_wanted.get(model_id, self._num_workers)

    def _switch(self, model: "Model", current: Group) -> Switch:
        """Begin one; another that still runs has become useless."""
        if (running := self._running_switch(model.id)) is not None:
            self._end(running.cancel(WorkerLost("the model's file changed again")))

        def hand_over(candidate: Group) -> None:
            self._groups[model.id] = candidate
            self._retire(current, current.retire())
            # Only now: the old workers are in the way of these no more.
            candidate.fill()

        switch = self._switches[model.id] = Switch(model, lambda: self._new_group(model), hand_over, self.tally)

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
        return msgspec.structs.replace(
            self._options,
            draft_paths=() if paths == tuple(model.paths) else paths,
            adapters=(*adapters, *_own_adapters(model)),
            context_length=self._options.context_length or model.own.context_length,
        )

    def _retire(self, group: Group, leaving: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self._retiring.add(group)
        task = self._end(leaving)
        task.add_done_callback(lambda _: self._retiring.discard(group))
        return task

    def _end(self, ending: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Whatever happens to it in the background, `close` waits for."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _remove(self, group: Group) -> "asyncio.Task[None]":
        """Whoever comes from now on has it loaded anew. The task is done once its workers are gone."""
        del self._groups[group.model.id]
        switch = self._switches.pop(group.model.id, None)

        async def leave() -> None:
            if switch is not None:
                await switch.cancel(WorkerLost("the model was unloaded"))
            await group.retire()

        return self._retire(group, leave())

    async def _make_way(self, group: Group) -> None:
        self.tally["evictions"] += 1
        await asyncio.wait([self._remove(group)])

    async def _survey(self, only: str | None) -> list[ipc.Device]:
        from shimmy.pool.devices import list_devices

        return (await list_devices(self._tools.spawn, only, self._hung_backends)).devices

    def _expire(self, group: Group) -> None:
        self.tally["expirations"] += 1
        self._remove(group)

    def note_change(self) -> None:
        """Some worker may have nothing to do, or may have to stay for another time."""
        self._room.note_change()
        self._expiry.note_change()

    async def _spawn(self, on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        worker = await self._spawn_unwatched(on_message, on_end)
        self.first_worker.set()
        # A load waits for nothing that is only imported to watch it.
        asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._watch)
        return worker

    def _watch(self) -> None:
        """See to it that nobody waits for ever for the workers there are."""
        if self._hang_seconds == inf or self._closed:
            return
        if self._watchdog is None:
            from shimmy.pool.watchdog import Watchdog

            self._watchdog = Watchdog(self._handles, self._hang_seconds)
        self._watchdog.note_work()

    def _handles(self) -> list[Handle]:
        """Of all workers for which somebody may wait."""
        return [handle for each in self._living() if (handle := each.last_handle()) is not None]

    def _loaded(self) -> list[Group]:
        """Those that names lead to."""
        return list(self._groups.values())

    def _unswitched(self) -> list[Group]:
        """Of these, those of which no other version is on its way: it would be lost if they left."""
        return [each for each in self._loaded() if self._running_switch(each.model.id) is None]

    def _living(self) -> list[Supervisor]:
        """All whose workers may still take memory."""
        candidates = (switch.candidate for switch in self._switches.values())
        groups = {*self._groups.values(), *self._retiring, *filter(None, candidates)}
        return [worker for group in groups for worker in group.workers]


def _own_adapters(model: "Model") -> list[ipc.Adapter]:
    """Those that come with it. Nobody gave them names."""
    paths = model.own.adapters
    names = ["own"] if len(paths) == 1 else [f"own-{number}" for number in range(1, len(paths) + 1)]
    return [ipc.Adapter(name, path) for name, path in zip(names, paths, strict=True)]
