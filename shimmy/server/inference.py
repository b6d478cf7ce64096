"""The only thing protocols see of the engine: a request in, batches of events out, errors raised.

Knows no wire format. Finds the model, takes a place, gets it loaded, and sees to it that nobody waits for ever.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError, WorkerLost
from shimmy.core.events import Accepted, Embedded, Event, Finished
from shimmy.core.request import Chat, Embedding, Generation, Prompt
from shimmy.pool.admission import Admission
from shimmy.pool.handle import Handle
from shimmy.pool.placement import Placement
from shimmy.pool.stream import Stream
from shimmy.pool.suspects import Asked, Suspects
from shimmy.server import keep_alive
from shimmy.server.residence import Residence

if TYPE_CHECKING:
    from shimmy.core.modelfile import Own
    from shimmy.models.catalog import Catalog
    from shimmy.pool.deadline import Deadline
    from shimmy.server.limits import Meter

Reply = TypeVar("Reply", ipc.Tokenized, ipc.Counted, ipc.Written)


class Inference:
    """Owns the way of a request through admission to a worker and back; `close` ends the workers too."""

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
        self.models = Residence(catalog, placement, clock)
        self._placement = placement
        self._admission = admission
        self._clock = clock
        self._queue_seconds = queue_seconds
        self._suspects = Suspects(clock)
        # What counts the tokens of a tenant's next request, if anything does.
        self.meter: Callable[[str], Meter | None] = lambda tenant: None
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
        question = ipc.Explain(_completed(request, await self.models.own(request.model)))
        answer = await self._ask(request.model, question, request.tenant, ipc.Written)
        return msgspec.json.decode(answer.text, type=ipc.Explanation)

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
                        handle, _ = await self.models.acquire(model, keep_alive.said())
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
                handle, own = await self.models.acquire(request.model, keep_alive.said(), request)
                until_over.enter_context(self._suspicious(handle, request.model, request))
                request = deadline.request()
                stream = await handle.submit(_completed(request, own) if isinstance(request, Generation) else request)
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


def _completed(request: Generation, own: "Own") -> Generation:
    """With what comes with the model for what was not asked for."""
    if not own.layers:
        return request
    return msgspec.structs.replace(
        request,
        sampling=request.sampling.with_own(own.sampling),
        stop=request.stop or list(own.stop),
        max_tokens=own.max_tokens if request.max_tokens is None else request.max_tokens,
    )


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
