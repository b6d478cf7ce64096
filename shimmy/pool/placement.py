"""Which worker answers for which model: a loaded one, one that loads, or a new one. One supervisor per model file."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import Draining
from shimmy.pool.handle import Handle
from shimmy.pool.process import Spawn, spawn_worker
from shimmy.pool.supervisor import Phase, Supervisor, Tools

if TYPE_CHECKING:
    from shimmy.models.listing import Model
    from shimmy.pool.adapters import Adapters
    from shimmy.pool.draft import DraftModel


class ModelStatus(msgspec.Struct, frozen=True):
    """A snapshot; `fraction` of the file read so far, 0 to 1; `reason` when failed; `loaded` when ready."""

    id: str
    state: Phase
    fraction: float = 0.0
    reason: str | None = None
    loaded: ipc.Loaded | None = None


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
    ) -> None:
        self._options = options
        self._draft = draft
        self._adapters = adapters
        self._tools = Tools(spawn, clock, sleep, on_progress)
        self._supervisors: dict[str, Supervisor] = {}
        self._retiring: dict[Supervisor, asyncio.Task[None]] = {}
        self._closed = False

    async def acquire(self, model: "Model") -> Handle:
        """A handle that is ready, loading the model when needed. Raises why that is not possible."""
        if self._closed:
            raise Draining("the server is shutting down")
        return await self._supervisor(model).acquire()

    def status(self, model_id: str) -> ModelStatus:
        supervisor = self._supervisors.get(model_id)
        if supervisor is None:
            return ModelStatus(model_id, "unloaded")
        return ModelStatus(model_id, supervisor.phase, supervisor.fraction, supervisor.reason, supervisor.loaded)

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
        # Whoever comes from now on has it loaded anew.
        del self._supervisors[model_id]
        await asyncio.wait([self._retire(supervisor)])
        return True

    async def close(self) -> None:
        """End all workers; whatever still waits or streams gets `Draining`."""
        self._closed = True
        await asyncio.gather(*(supervisor.close() for supervisor in (*self._supervisors.values(), *self._retiring)))
        await asyncio.gather(*self._retiring.values())

    def _supervisor(self, model: "Model") -> Supervisor:
        """The one for this very file: a changed file is loaded beside the old one, which ends when its streams do."""
        current = self._supervisors.get(model.id)
        if current is not None and current.model.identity == model.identity:
            return current
        supervisor = Supervisor(model, self._options_for(model), self._tools)
        if current is not None:
            self._retire(current)
        self._supervisors[model.id] = supervisor
        return supervisor

    def _options_for(self, model: "Model") -> ipc.EngineOptions:
        """No model needs its own guesses."""
        paths = self._draft.paths() if self._draft is not None else ()
        adapters = self._adapters.of(model) if self._adapters is not None else ()
        draft_paths = () if paths == tuple(model.paths) else paths
        return msgspec.structs.replace(self._options, draft_paths=draft_paths, adapters=adapters)

    def _retire(self, supervisor: Supervisor) -> "asyncio.Task[None]":
        task = self._retiring[supervisor] = asyncio.create_task(supervisor.retire())
        task.add_done_callback(lambda _: self._retiring.pop(supervisor, None))
        return task
