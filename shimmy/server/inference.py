"""The only thing protocols see of the engine: a request in, batches of events out, errors raised.

Knows no wire format. Finds the model, takes a place, gets it loaded, and sees to it that nobody waits for ever.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import ModelInvalid, ModelNotFound, RequestError, ShimmyError, WorkerLost
from shimmy.core.events import Accepted, Embedded, Event, Finished
from shimmy.core.request import Chat, Embedding, Generation, Prompt
from shimmy.pool.admission import Admission
from shimmy.pool.handle import Handle
from shimmy.pool.placement import ModelStatus, Placement
from shimmy.pool.room import Usage
from shimmy.pool.stay import Priority, PriorityName
from shimmy.pool.stream import Stream
from shimmy.pool.suspects import Asked, Suspects
from shimmy.server import keep_alive

if TYPE_CHECKING:
    from collections import Counter

    from shimmy.core.modelfile import Own
    from shimmy.models.catalog import Catalog
    from shimmy.models.listing import Change, Model
    from shimmy.pool.deadline import Deadline
    from shimmy.server.limits import Meter

REFRESH_SECONDS = 2.0
# How much longer than it took a scan is good for, so that requests spend little of the machine on scans.
_REFRESH_SHARE = 10
SETTLING_SECONDS = 2.0
_SETTLING_PAUSE_SECONDS = 0.1
Reply = TypeVar("Reply", ipc.Tokenized, ipc.Counted, ipc.Written)


class Inference:
    """Owns the way of a request through catalog, admission and placement; `close` ends the workers too."""

    def __init__(
        self,
        catalog: "Catalog",
        placement: Placement,
        admission: Admission,
        clock: Callable[[], float] = time.monotonic,
        *,
        queue_seconds: float | None = None,
    ) -> None:
        """`queue_seconds` is how long a request may wait for its turn, if it does not say less."""
        self.catalog = catalog
        self._placement = placement
        self._admission = admission
        self._clock = clock
        self._queue_seconds = queue_seconds
        self._suspects = Suspects(clock)
        # What counts the tokens of a tenant's next request, if anything does.
        self.meter: Callable[[str], Meter | None] = lambda tenant: None
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")
        self._refresh_seconds = 0.0
        # Set once nothing is to go on: for what waits for something else than a worker.
        self.closing = asyncio.Event()

    async def generate(self, request: Generation, *, whole: bool = False) -> AsyncGenerator[list[Event], None]:
        """Batches of every event that waits, never empty; the first one starts with `Accepted`. How long the model
        stays loaded after it, as after all that is asked here, keep_alive.py knows.

        Ends after the last choice's `Finished`; any failure is raised as a `ShimmyError`. Closing the generator, or
        cancelling the task that runs it, aborts the request. A worker lost before the first text is made up for once,
        and one lost later as well if the answer is wanted `whole`: then there is one batch.
        """
        from shimmy.pool.deadline import Deadline

        with self._admission.admit(request.tenant):
            sent, meter, began_at = _Sent(whole), self.meter(request.tenant), self._clock()
            request = await self._completed(request)
            deadline = Deadline(request, self._queue_seconds)
            while True:
                try:
                    async with self._stream(request, deadline) as stream:
                        load_seconds = self._clock() - began_at
                        async for batch in stream:
                            fresh = _timed(sent.note(batch), load_seconds)
                            if meter:
                                meter.note(fresh)
                            if whole:
                                sent.kept += fresh
                            elif fresh:
                                yield fresh
                    if whole:
                        yield sent.kept
                    return
                except WorkerLost:
                    if not sent.may_retry():
                        raise

    async def embed(self, request: Embedding) -> AsyncGenerator[list[Embedded], None]:
        """What came of the inputs, in any order, as it comes. Failures are raised, and closing the generator aborts the
        request, as with `generate`. A worker that is lost is made up for once: what it did may come a second time.
        """
        from shimmy.pool.deadline import Deadline

        with self._admission.admit(request.tenant):
            deadline, meter = Deadline(request, self._queue_seconds), self.meter(request.tenant)
            for is_last in (False, True):
                try:
                    async with self._stream(request, deadline) as stream:
                        async for batch in stream:
                            if meter:
                                meter.note(batch)
                            yield [event for event in batch if isinstance(event, Embedded)]
                        return
                except WorkerLost:
                    if is_last:
                        raise

    async def tokenize(self, model: str, question: ipc.Tokenize, tenant: str = "") -> ipc.Tokenized:
        """The tokens of a prompt, whether or not it would fit."""
        return await self._ask(model, question, tenant, ipc.Tokenized)

    async def count_tokens(self, model: str, prompt: Prompt, tenant: str = "") -> int:
        """How many tokens a prompt has, with all that the model's template adds to it."""
        return (await self._ask(model, ipc.CountTokens(prompt), tenant, ipc.Counted)).num_tokens

    async def detokenize(self, model: str, tokens: list[int], tenant: str = "") -> str:
        return (await self._ask(model, ipc.Detokenize(tokens), tenant, ipc.Written)).text

    async def render(self, model: str, chat: Chat, tenant: str = "") -> str:
        """What the model's template makes of a chat."""
        return (await self._ask(model, ipc.Render(chat), tenant, ipc.Written)).text

    async def explain(self, request: Generation) -> ipc.Explanation:
        """What would be computed for a request. Raises what the request itself would fail with."""
        question = ipc.Explain(await self._completed(request))
        answer = await self._ask(request.model, question, request.tenant, ipc.Written)
        return msgspec.json.decode(answer.text, type=ipc.Explanation)

    async def context_length(self, model: str) -> int | None:
        """That of a loaded model; None when it is not loaded."""
        loaded = self._placement.status((await self._find(model)).id).loaded
        return loaded.context_length if loaded is not None else None

    async def only_model(self) -> str:
        """The id of the one model that is loaded, or else of the one that there is, for requests that name none."""
        loaded = [status.id for status in self.statuses() if status.loaded is not None]
        if len(loaded) == 1:
            return loaded[0]
        await self.refresh()
        valid = [model.id for model in self.catalog.models() if not model.invalid]
        if len(valid) != 1:
            raise RequestError(f"model: this field is required, since there are {len(valid)} models", param="model")
        return valid[0]

    async def preload(self, name: str) -> None:
        """Load a model before anyone asks. Raises why that is not possible. One that is to stay no longer than a
        request does not leave for that before there was one."""
        await self._acquire(name, keep_alive.said() or None)

    async def load(self, name: str) -> None:
        """Load a model, or load it anew: meanwhile it goes on answering, and if that fails it goes on after that.
        Returns once it has all of its workers, or as many as there is room for. Raises why that is not possible."""
        model = await self._find_settled(name)
        if self._placement.is_ready(model.id):
            await self._placement.reload(model)
        else:
            # Should its file be replaced meanwhile, the new one will do.
            await self._acquire(name)
            await self._placement.filled(model.id)

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
        stay = self._placement.stay_of((await self._find(name)).id)
        if keep_alive_seconds is not None:
            stay.keep_alive_seconds = keep_alive_seconds
        if priority is not None:
            stay.priority = Priority[priority.upper()]
        if pinned is not None:
            stay.pinned = pinned
        self._placement.note_change()

    async def set_num_workers(self, name: str, num_workers: int) -> None:
        """How many worker processes a model has from its next load on."""
        self._placement.want_workers((await self._find(name)).id, num_workers)

    def follow_changes(self) -> None:
        """From now on a loaded model whose file a scan finds changed is replaced, and one whose file is gone ends with
        its last request."""
        loop = asyncio.get_running_loop()

        def follow(change: "Change") -> None:
            loop.call_soon_threadsafe(self._follow, change)

        self.catalog.on_change = follow

    def _follow(self, change: "Change") -> None:
        if change.after is None:
            self._placement.forget(change.id)
        else:
            self._placement.follow(change.after)

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

    async def unload(self, name: str) -> bool:
        """End the workers of a model that nobody uses, and return once they are gone; False for one in use."""
        return await self._placement.unload((await self._find(name)).id)

    async def status(self, name: str) -> ModelStatus:
        """Of one model, asked for or not."""
        return self._placement.status((await self._find(name)).id)

    async def num_running(self, name: str) -> int:
        """Requests that a model's workers have, whether they run in them or wait."""
        return self._placement.num_running((await self._find(name)).id)

    async def own(self, name: str) -> "Own":
        """What comes with a model beside its weights."""
        return (await self._find(name)).own

    async def has_chat_template(self, name: str) -> bool:
        """Whether its file has one, as far as that is known."""
        facts = (await self._find(name)).facts
        return facts is None or facts.has_chat_template

    async def header(self, name: str) -> "tuple[Model, dict[str, Any]]":
        """A model, and the keys and values of its file's header; None stands for an array."""
        from shimmy.models.facts import header_keys

        model = await self._find(name)
        return model, await asyncio.to_thread(header_keys, model.paths)

    async def refresh(self, max_age_seconds: float = REFRESH_SECONDS) -> None:
        """Rescan the catalog, in a thread; a scan that is younger will do, and unless `max_age_seconds` is 0 one that
        took long does for longer."""
        async with self._refreshing:
            began_at = self._clock()
            if max_age_seconds:
                max_age_seconds = max(max_age_seconds, _REFRESH_SHARE * self._refresh_seconds)
            if began_at - self._refreshed_at >= max_age_seconds:
                await asyncio.to_thread(self.catalog.refresh)
                self._refreshed_at = self._clock()
                self._refresh_seconds = self._refreshed_at - began_at

    def statuses(self) -> list[ModelStatus]:
        """Of the models ever asked for."""
        return self._placement.statuses()

    @property
    def num_active(self) -> int:
        """Requests waiting or running."""
        return self._admission.num_active

    def share_among(self, num_tenants: int) -> None:
        """Keep places free for so many tenants."""
        self._admission.share_among(num_tenants)

    async def drain(self, seconds: float) -> bool:
        """Admit nothing more and wait for the requests inside, at most `seconds`. True when all have ended."""
        return await self._admission.drain(seconds)

    async def close(self) -> None:
        """Fail what is left with `Draining` at once, then end the workers."""
        self.closing.set()
        await self._placement.close()

    async def _ask(self, model: str, question: ipc.Question, tenant: str, kind: type[Reply]) -> Reply:
        """A worker that is lost meanwhile is made up for once."""
        with self._admission.admit(tenant):
            for is_last in (False, True):
                try:
                    async with self._suspects.trial(model, question):
                        handle = await self._acquire(model, keep_alive.said())
                        with self._suspicious(handle, model, question):
                            answer = await handle.ask(question)
                    break
                except WorkerLost:
                    if is_last:
                        raise
        if not isinstance(answer, kind):
            raise ShimmyError("the worker gave the answer to another question")
        return answer

    @asynccontextmanager
    async def _stream(self, request: Generation | Embedding, deadline: "Deadline") -> AsyncGenerator[Stream, None]:
        async with AsyncExitStack() as until_over:
            async with deadline.waiting():
                await until_over.enter_async_context(self._suspects.trial(request.model, request))
                handle = await self._acquire(request.model, keep_alive.said(), request)
                until_over.enter_context(self._suspicious(handle, request.model, request))
                stream = await handle.submit(deadline.request())
            until_over.enter_context(self._running(handle, stream, deadline))
            yield stream

    @contextmanager
    def _running(self, handle: Handle, stream: Stream, deadline: "Deadline") -> Iterator[None]:

        def expire(error: ShimmyError) -> None:
            # The worker is told at once: a client that reads nothing would learn of it late.
            stream.fail(error)
            handle.abort(stream)

        try:
            with deadline.running(expire):
                yield
        finally:
            handle.abort(stream)

    @contextmanager
    def _suspicious(self, handle: Handle, model: str, asked: Asked) -> Iterator[None]:
        """Should the worker crash meanwhile, this may have been why."""
        try:
            yield
        except WorkerLost:
            if handle.has_crashed:
                self._suspects.note_crash(model, asked, handle.serial)
            raise

    async def _completed(self, request: Generation) -> Generation:
        """With what comes with the model for what was not asked for."""
        own = (await self._find(request.model)).own
        if not own.layers:
            return request
        return msgspec.structs.replace(
            request,
            sampling=request.sampling.with_own(own.sampling),
            stop=request.stop or list(own.stop),
            max_tokens=own.max_tokens if request.max_tokens is None else request.max_tokens,
        )

    async def _acquire(
        self, name: str, keep_alive_seconds: float | None = None, request: Generation | Embedding | None = None
    ) -> Handle:
        generation = request if isinstance(request, Generation) else None
        while True:
            try:
                return await self._placement.acquire(await self._find(name), keep_alive_seconds, generation)
            except WorkerLost:
                # Its file was replaced before it was loaded, however often: what has taken its place is asked for.
                await asyncio.sleep(0)

    async def _find_settled(self, name: str) -> "Model":
        """As its file is now. A file that has just come may not be whole yet, which shows after a moment."""
        gives_up_at = self._clock() + SETTLING_SECONDS
        while True:
            await self.refresh(max_age_seconds=0)
            model = await self._find(name)
            if self.catalog.unsettled().isdisjoint(model.paths) or self._clock() >= gives_up_at:
                return model
            await asyncio.sleep(_SETTLING_PAUSE_SECONDS)

    async def _find(self, name: str) -> "Model":
        """A file may have come, or have been repaired, since the last scan. One that is broken now stays as it was
        loaded."""
        try:
            return self.catalog.find(name)
        except (ModelNotFound, ModelInvalid):
            await self.refresh()
        found = self.catalog.look_up(name)
        if found is not None and self._placement.is_ready(found.id):
            return found
        return self.catalog.find(name)


def _timed(batch: list[Event], load_seconds: float) -> list[Event]:
    """With what the worker cannot know of a request's time."""
    for at, event in enumerate(batch):
        if isinstance(event, Finished):
            timings = msgspec.structs.replace(event.timings, load_seconds=load_seconds)
            batch[at] = msgspec.structs.replace(event, timings=timings)
    return batch


class _Sent:
    """How far a request has come, which decides whether a second try can go unnoticed. For a client that wants its
    answer `whole`, what there is of it is `kept` until its end."""

    def __init__(self, whole: bool) -> None:
        self.kept: list[Event] = []
        self._whole = whole
        self._accepted = self._text = self._retried = False

    def note(self, batch: list[Event]) -> list[Event]:
        """What of a batch is news to the client: it is told `Accepted` once."""
        if self._accepted and isinstance(batch[0], Accepted):
            batch = batch[1:]
        self._accepted = True
        self._text = self._text or any(not isinstance(event, Accepted) for event in batch)
        return batch

    def may_retry(self) -> bool:
        """True once, as long as the client has seen no text."""
        allowed = (self._whole or not self._text) and not self._retried
        self._retried = True
        del self.kept[1:]
        return allowed
