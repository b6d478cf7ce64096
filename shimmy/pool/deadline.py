"""How long one request may take, seen from the server: until a worker has it, and until its end.

How long it may wait within the worker is the scheduler's business, which gets what is left of that time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec

from shimmy.core.errors import DeadlineExceeded, QueueTimeout, ShimmyError
from shimmy.core.request import Embedding, Generation

# The worker's clock starts when it has read the request, so nothing is left that it could measure.
_LEAST_SECONDS = 0.001


class Deadline:
    """Counts from when it is made. For one request."""

    def __init__(self, request: Generation | Embedding, queue_seconds: float | None) -> None:
        """`queue_seconds` is the server's own limit; the request's counts where it is less."""
        limits = [seconds for seconds in (request.queue_seconds, queue_seconds) if seconds is not None]
        self._queue_seconds = min(limits, default=None)
        self._timeout_seconds = request.timeout_seconds
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None, None]:
        """Around the wait for a worker. Raises `QueueTimeout` or `DeadlineExceeded`, whichever is due first."""
        limits = [seconds for seconds in (self._queue_seconds, self._timeout_seconds) if seconds is not None]
        try:
            async with asyncio.timeout_at(self._began_at + min(limits) if limits else None) as timer:
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            raise (self._exceeded() if min(limits) == self._timeout_seconds else self._queued_too_long()) from None

    def request(self) -> Generation | Embedding:
        """The request with what is left of its time in queues."""
        if self._queue_seconds is None:
            return self._request
        left = self._began_at + self._queue_seconds - self._loop.time()
        return msgspec.structs.replace(self._request, queue_seconds=max(left, _LEAST_SECONDS))

    @contextmanager
    def running(self, expire: Callable[[ShimmyError], None]) -> Iterator[None]:
        """While the worker has the request; `expire` gets a `DeadlineExceeded` when time is up."""
        if self._timeout_seconds is None:
            yield
            return
        timer = self._loop.call_at(self._began_at + self._timeout_seconds, lambda: expire(self._exceeded()))
        try:
            yield
        finally:
            timer.cancel()

    def _exceeded(self) -> ShimmyError:
        return DeadlineExceeded(f"the request was not finished within its timeout of {self._timeout_seconds:g} s")

    def _queued_too_long(self) -> ShimmyError:
        return QueueTimeout(f"the request has waited for its turn for {self._queue_seconds:.1f} s")
