"""Which models there are, which of them are loaded, and how long they stay: what is asked about models, not of them.

Knows no wire format, and nothing of what a request wants from a model.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from shimmy.core.errors import ModelInvalid, ModelNotFound, RequestError, WorkerLost
from shimmy.core.request import Embedding, Generation
from shimmy.pool.handle import Handle
from shimmy.pool.placement import ModelStatus, Placement
from shimmy.pool.room import Usage
from shimmy.pool.stay import Priority, PriorityName
from shimmy.server import keep_alive

if TYPE_CHECKING:
    from collections import Counter

    from shimmy.core.modelfile import Own
    from shimmy.models.catalog import Catalog
    from shimmy.models.listing import Change, Model

REFRESH_SECONDS = 2.0
# How much longer than it took a scan is good for, so that requests spend little of the machine on scans.
_REFRESH_SHARE = 10
SETTLING_SECONDS = 2.0
_SETTLING_PAUSE_SECONDS = 0.1


class Resident(NamedTuple):
    """A worker that has the model, and what comes with the model beside its weights."""

    handle: Handle
    own: "Own"


class Residence:
    """Owns the way from a model's name to a worker that has it."""

    def __init__(self, catalog: "Catalog", placement: Placement, clock: Callable[[], float]) -> None:
        self.catalog = catalog
        self._placement = placement
        self._clock = clock
        self._refreshing = asyncio.Lock()
        # When the last scan began, and when it ended.
        self._scanned_at = self._refreshed_at = float("-inf")
        self._refresh_seconds = 0.0

    async def find(self, name: str) -> "Model":
        """A file may have come, or have been repaired, since the last scan. One that is broken now stays as it was
        loaded."""
        try:
            return self.catalog.find(name)
        except (ModelNotFound, ModelInvalid):
            await self.refresh()
        found = self.catalog.look_up(name)
        if found is not None and self.answers(found):
            return found
        return self.catalog.find(name)

    async def acquire(
        self, name: str, keep_alive_seconds: float | None = None, request: Generation | Embedding | None = None
    ) -> Resident:
        """The model is loaded as it is listed now, and what comes with it is of the same listing."""
        generation = request if isinstance(request, Generation) else None
        while True:
            model = await self.find(name)
            try:
                return Resident(await self._placement.acquire(model, keep_alive_seconds, generation), model.own)
            except WorkerLost:
                # Its file was replaced before it was loaded, however often: what has taken its place is asked for.
                await asyncio.sleep(0)

    def answers(self, model: "Model") -> bool:
        """Whether it would, as its file is or as it was loaded before that was broken."""
        return model.invalid is None or self._placement.is_ready(model.id)

    async def only_model(self) -> str:
        """The id of the one model that is loaded, or else of the one that there is, for requests that name none."""
        loaded = [status.id for status in self.statuses() if status.loaded is not None]
        if len(loaded) == 1:
            return loaded[0]
        await self.refresh()
        found = [model.id for model in self.catalog.models() if self.answers(model)]
        if len(found) != 1:
            raise RequestError(f"model: this field is required, since there are {len(found)} models", param="model")
        return found[0]

    async def own(self, name: str) -> "Own":
        """What comes with a model beside its weights."""
        return (await self.find(name)).own

    async def has_chat_template(self, name: str) -> bool:
        """Whether its file has one, as far as that is known."""
        facts = (await self.find(name)).facts
        return facts is None or facts.has_chat_template

    async def header(self, name: str) -> "tuple[Model, dict[str, Any]]":
        """A model, and the keys and values of its file's header; None stands for an array."""
        from shimmy.models.facts import header_keys

        model = await self.find(name)
        return model, await asyncio.to_thread(header_keys, model.paths)

    async def context_length(self, model: str) -> int | None:
        """That of a loaded model; None when it is not loaded."""
        loaded = self._placement.status((await self.find(model)).id).loaded
        return loaded.context_length if loaded is not None else None

    async def preload(self, name: str) -> None:
        """Load a model before anyone asks. Raises why that is not possible. One that is to stay no longer than a
        request does not leave for that before there was one."""
        await self.acquire(name, keep_alive.said() or None)

    async def wait_for_worker(self) -> None:
        """Returns once the first worker process of all has been told what to do."""
        await self._placement.first_worker.wait()

    async def load(self, name: str) -> None:
        """Load a model, or load it anew: meanwhile it goes on answering, and if that fails it goes on after that. One
        that crashed too often has another chance. Returns once it has all of its workers, or as many as there is room
        for. Raises why that is not possible."""
        await self._load(await self._find_settled(name))

    async def keep(
        self,
        name: str,
        *,
        keep_alive_seconds: float | None = None,
        priority: PriorityName | None = None,
        pinned: bool | None = None,
        num_workers: int | None = None,
    ) -> None:
        """Say how a model is to be kept, and see to it that it is loaded, with so many workers: like `load`, but
        nothing is loaded where that would bring what there is."""
        model = await self._find_settled(name)
        if num_workers is not None:
            self._placement.want_workers(model.id, num_workers)
        await self.set_stay(model.id, keep_alive_seconds=keep_alive_seconds, priority=priority, pinned=pinned)
        # At once: it has not left yet, where that is what it is told to.
        if self._placement.is_as_wanted(model):
            await self._placement.filled(model.id)
        else:
            await self._load(model)

    async def _load(self, model: "Model") -> None:
        if self._placement.is_ready(model.id):
            await self._placement.reload(model)
        else:
            if self._placement.status(model.id).state == "failed":
                await self._placement.unload(model.id)
            # Should its file be replaced meanwhile, the new one will do.
            await self.acquire(model.id)
            await self._placement.filled(model.id)

    async def unload(self, name: str) -> bool:
        """End the workers of a model that nobody uses, and return once they are gone; False for one in use."""
        return await self._placement.unload((await self.find(name)).id)

    async def set_stay(
        self,
        name: str,
        *,
        keep_alive_seconds: float | None = None,
        priority: PriorityName | None = None,
        pinned: bool | None = None,
    ) -> None:
        """How long a model stays once it is loaded, and who leaves before it; None leaves a thing as it is. One that is
        pinned stays, whatever others need and however long nobody uses it."""
        stay = self._placement.stay_of((await self.find(name)).id)
        if keep_alive_seconds is not None:
            stay.keep_alive_seconds = keep_alive_seconds
        if priority is not None:
            stay.priority = Priority[priority.upper()]
        if pinned is not None:
            stay.pinned = pinned
        self._placement.note_change()

    async def refresh(self, max_age_seconds: float = REFRESH_SECONDS) -> None:
        """Rescan the catalog, in a thread; a scan that is younger will do, and unless `max_age_seconds` is 0 one that
        took long does for longer. A scan goes on without who asked for it, and is good for who asks next."""
        await asyncio.shield(self._refresh(max_age_seconds))

    async def _refresh(self, max_age_seconds: float) -> None:
        asked_at = self._clock()
        async with self._refreshing:
            # As new as could be asked for.
            if self._scanned_at > asked_at:
                return
            began_at = self._clock()
            if max_age_seconds:
                max_age_seconds = max(max_age_seconds, _REFRESH_SHARE * self._refresh_seconds)
            if began_at - self._refreshed_at >= max_age_seconds:
                await asyncio.to_thread(self.catalog.refresh)
                self._scanned_at, self._refreshed_at = began_at, self._clock()
                self._refresh_seconds = self._refreshed_at - began_at

    def follow_changes(self) -> None:
        """From now on a loaded model whose file a scan finds changed is replaced, and one whose file is gone ends with
        its last request."""
        loop = asyncio.get_running_loop()

        def follow(change: "Change") -> None:
            loop.call_soon_threadsafe(self._follow, change)

        self.catalog.on_change = follow

    async def status(self, name: str) -> ModelStatus:
        """Of one model, asked for or not."""
        return self._placement.status((await self.find(name)).id)

    def statuses(self) -> list[ModelStatus]:
        """Of the models ever asked for."""
        return self._placement.statuses()

    async def num_running(self, name: str) -> int:
        """Requests that a model's workers have, whether they run in them or wait."""
        return self._placement.num_running((await self.find(name)).id)

    @property
    def tally(self) -> "Counter[str]":
        """Loads, failed loads, crashes, evictions, expirations, switches and failed switches so far."""
        return self._placement.tally

    def taken_bytes(self, model_id: str) -> int:
        """Main memory of one model."""
        return self._placement.taken_bytes(model_id)

    def gpu_bytes(self, model_id: str) -> dict[str, int]:
        """Memory of one model on each GPU."""
        return self._placement.gpu_bytes(model_id)

    def usage(self) -> Usage:
        """Of main memory, by all models."""
        return self._placement.usage()

    def gpu_usage(self) -> dict[str, Usage]:
        """Of GPUs, by name."""
        return self._placement.gpu_usage()

    def _follow(self, change: "Change") -> None:
        if change.after is None:
            self._placement.forget(change.id)
        else:
            self._placement.follow(change.after)

    async def _find_settled(self, name: str) -> "Model":
        """As its file is now. A file that has just come may not be whole yet, which shows after a moment."""
        gives_up_at = self._clock() + SETTLING_SECONDS
        while True:
            await self.refresh(max_age_seconds=0)
            model = await self.find(name)
            if self.catalog.unsettled().isdisjoint(model.paths) or self._clock() >= gives_up_at:
                return model
            await asyncio.sleep(_SETTLING_PAUSE_SECONDS)
