"""How many requests may be waiting or running in the whole server, and whether new ones may come at all."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shimmy.core.errors import Busy, Draining

RETRY_AFTER_SECONDS = 1


class Admission:
    """Owns the count of requests inside. In what order they run is the worker's business.

    Where there are several tenants, half of the places are shared out among them: however many requests one has, the
    others come in.
    """

    def __init__(self, max_requests: int, num_tenants: int = 1) -> None:
        self._max_requests = max_requests
        self.share_among(num_tenants)
        self._num_active = 0
        self._num_active_of: Counter[str] = Counter()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def share_among(self, num_tenants: int) -> None:
        self._num_tenants = max(1, num_tenants)
        self._own_places = self._max_requests // (2 * self._num_tenants)

    @property
    def num_active(self) -> int:
        return self._num_active

    @contextmanager
    def admit(self, tenant: str = "") -> Iterator[None]:
        """Hold a place. Raises `Busy` when all are taken, `Draining` when the server is on its way out."""
        if self._draining:
            raise Draining("the server is shutting down")
        num_free = self._max_requests - self._num_active - self._num_kept_from(tenant)
        if num_free <= 0:
            whose = "of this API key " if self._num_active < self._max_requests else ""
            raise Busy(f"all places {whose}for requests are taken", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._num_active += 1
        self._num_active_of[tenant] += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._num_active -= 1
            self._num_active_of[tenant] -= 1
            if not self._num_active_of[tenant]:
                del self._num_active_of[tenant]
            if self._num_active == 0:
                self._empty.set()

    def _num_kept_from(self, tenant: str) -> int:
        """Places that are free, but the other tenants' own."""
        others = [count for other, count in self._num_active_of.items() if other != tenant]
        num_unseen = self._num_tenants - 1 - len(others)
        return sum(max(0, self._own_places - count) for count in [*others, *[0] * num_unseen])

    async def drain(self, seconds: float) -> bool:
        """Admit nothing more and wait for those inside, at most `seconds`. True when all have left."""
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
