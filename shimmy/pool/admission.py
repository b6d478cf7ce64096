"""How many requests may be waiting or running in the whole server, and whether new ones may come at all."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from shimmy.core.errors import Busy, Draining

RETRY_AFTER_SECONDS = 1


class Admission:
    """Owns the count of requests inside. In what order they run is the worker's business."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._num_active = 0
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def num_active(self) -> int:
        return self._num_active

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place. Raises `Busy` when all are taken, `Draining` when the server is on its way out."""
        if self._draining:
            raise Draining("the server is shutting down")
        if self._num_active >= self._max_requests:
            raise Busy(
                f"all {self._max_requests} places for requests are taken", retry_after_seconds=RETRY_AFTER_SECONDS
            )
        self._num_active += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._num_active -= 1
            if self._num_active == 0:
                self._empty.set()

    async def drain(self, seconds: float) -> bool:
        """Admit nothing more and wait for those inside, at most `seconds`. True when all have left."""
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
