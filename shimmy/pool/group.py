"""The workers of one model: one that is loaded first, and as many more as are asked for.

To others a group is what a supervisor is, one thing that is loaded, used and ended. Knows of each worker what its
supervisor says, and which of them a request goes to; what a worker does after a crash is its supervisor's business.
"""

import asyncio
import logging
from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.errors import Draining, ShimmyError
from shimmy.pool.supervisor import Phase, Supervisor

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from shimmy.core import ipc
    from shimmy.core.request import Generation
    from shimmy.models.listing import Model
    from shimmy.pool.affinity import Affinity
    from shimmy.pool.handle import Handle
    from shimmy.pool.stay import Stay
    from shimmy.pool.supervisor import Tools

log = logging.getLogger(__name__)

# Workers that could not be loaded beside another one are tried again with a request after this time.
RETRY_SECONDS = 60.0
# How near a worker is to one that answers.
_NEARNESS: dict[Phase, int] = {"ready": 0, "loading": 1, "restarting": 2, "failed": 3, "unloaded": 4}
_MISSING = ("failed", "unloaded")


class Group:
    """`workers` has the one that was used last first. `num_wanted` may be changed; `fill` sees to it that there are as
    many. What `loaded`, `phase`, `fraction`, `reason` and `gpu_failure` say is true of the worker that is nearest to an
    answer."""

    def __init__(
        self, model: "Model", options: "ipc.EngineOptions", tools: "Tools", stay: "Stay", num_wanted: int = 1
    ) -> None:
        self.model = model
        self.stay = stay
        self.num_wanted = num_wanted
        self.workers: list[Supervisor] = []
        self.options = options
        self._tools = tools
        self._num_waiting = 0
        self._leaving = False
        self._filling: asyncio.Task[None] | None = None
        self._fill_again_at = -inf
        self._affinity: Affinity | None = None
        self._add(tools)

    @property
    def phase(self) -> Phase:
        return self._nearest().phase

    @property
    def fraction(self) -> float:
        return self._nearest().fraction

    @property
    def reason(self) -> str | None:
        return self._nearest().reason

    @property
    def gpu_failure(self) -> str | None:
        failure = self._nearest().gpu_failure
        return failure.reason if failure is not None else None

    @property
    def loaded(self) -> "ipc.Loaded | None":
        return self._nearest().loaded

    @property
    def num_ready(self) -> int:
        return sum(each.is_ready for each in self.workers)

    @property
    def num_running(self) -> int:
        """Requests that the workers have."""
        return sum(each.num_running for each in self.workers)

    @property
    def is_ready(self) -> bool:
        return any(each.is_ready for each in self.workers)

    @property
    def is_idle(self) -> bool:
        """Ready, and nobody uses it or waits for it, though some of its workers may still be loading."""
        return self.is_ready and not self.is_in_use

    @property
    def is_in_use(self) -> bool:
        """Whether somebody uses it or waits for it."""
        return bool(self._num_waiting) or not all(each.is_idle for each in self.workers if each.is_ready)

    @property
    def idle_since(self) -> float:
        return max(each.idle_since for each in self.workers)

    @property
    def is_leaving(self) -> bool:
        return self._leaving

    @property
    def taken_bytes(self) -> int:
        """Main memory that other models cannot have."""
        return sum(each.taken_bytes for each in self.workers)

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """By the name of the GPU."""
        names = {name: None for each in self.workers if each.needs is not None for name in each.needs.gpu_bytes}
        return {name: self.taken(name) for name in names}

    def taken(self, place: str) -> int:
        """The same of any place."""
        return sum(each.taken(place) for each in self.workers)

    async def acquire(self, request: "Generation | None" = None) -> "Handle":
        """The ready handle that is best for `request`, or without one that with the fewest requests, of several the one
        that was used last. Loads one worker where none is ready, or raises why there is none."""
        self._num_waiting += 1
        try:
            while not self.is_ready:
                try:
                    await self._nearest().acquire()
                except ShimmyError:
                    # Another one may be ready, or about to be.
                    if self._leaving or self._nearest().phase in _MISSING:
                        raise
        finally:
            self._num_waiting -= 1
        chosen = self._choose(request, [each for each in self.workers if each.is_ready])
        self.workers.remove(chosen)
        self.workers.insert(0, chosen)
        return await chosen.acquire()

    def _choose(self, request: "Generation | None", workers: list[Supervisor]) -> Supervisor:
        if request is None or len(self.workers) == 1:
            return min(workers, key=lambda each: each.num_running)
        if self._affinity is None:
            from shimmy.pool.affinity import Affinity

            self._affinity = Affinity()
        return self._affinity.choose(request, workers)

    def fill(self) -> None:
        """Have the workers loaded that are missing, one after the other, while those that there are answer. One that
        crashed comes back without this."""
        if self._leaving or not self.is_ready or not self._lacks_workers():
            return
        if (self._filling is None or self._filling.done()) and self._tools.clock() >= self._fill_again_at:
            self._filling = asyncio.create_task(self._fill())

    async def filled(self) -> None:
        """Returns once all workers are loaded, or those that are missing cannot be had now."""
        self._fill_again_at = -inf
        self.fill()
        if self._filling is not None:
            await asyncio.wait([self._filling])

    async def retire(self) -> None:
        """Another file took the name, or nobody needs it: each worker ends once its last stream is over."""
        await self._end(each.retire() for each in self.workers)

    async def close(self) -> None:
        await self.leave(Draining("the server is shutting down"))

    async def leave(self, error: ShimmyError) -> None:
        """End everything at once, and with `error` whoever waits. Returns once the workers are gone."""
        await self._end(each.leave(error) for each in self.workers)

    async def _end(self, endings: "Iterable[Awaitable[None]]") -> None:
        self._leaving = True
        if self._filling is not None:
            self._filling.cancel()
        await asyncio.gather(*endings)
        if self._filling is not None:
            await asyncio.wait([self._filling])

    def _nearest(self) -> Supervisor:
        return min(self.workers, key=lambda each: (not each.is_ready, _NEARNESS[each.phase]))

    def _lacks_workers(self) -> bool:
        return sum(each.phase not in _MISSING for each in self.workers) < self.num_wanted

    def _add(self, tools: "Tools") -> Supervisor:
        def is_spare() -> bool:
            return any(each.is_ready for each in self.workers if each is not worker)

        worker = Supervisor(self.model, self.options, tools, self.stay, is_spare)
        self.workers.append(worker)
        return worker

    async def _fill(self) -> None:
        # The model is loaded: nobody is told how far these are.
        tools = msgspec.structs.replace(self._tools, on_progress=lambda model_id, fraction: None)
        while self._lacks_workers():
            missing = next((each for each in self.workers if each.phase in _MISSING), None)
            try:
                await (missing or self._add(tools)).acquire()
            except ShimmyError as error:
                self._fill_again_at = self._tools.clock() + RETRY_SECONDS
                log.warning(
                    *("model %s has %d of %d workers: %s", self.model.id, self.num_ready, self.num_wanted),
                    error.message,
                )
                return
