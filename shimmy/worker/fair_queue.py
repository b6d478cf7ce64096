"""Who is next, where each of several requests has many things to do. Knows no model."""

from collections import deque
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    @property
    def tenant(self) -> str: ...
    @property
    def priority(self) -> int: ...


Item = TypeVar("Item", bound=Queued)


class FairQueue(Generic[Item]):
    """Tenants take turns; of one tenant's requests that with the lowest priority is next, and equals take turns."""

    def __init__(self) -> None:
        self._tenants: deque[str] = deque()
        # Of each tenant: (priority, turns taken, arrival, request).
        self._waiting: dict[str, list[tuple[int, int, int, Item]]] = {}
        self._arrivals = count()

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, item: Item, num_turns: int = 0) -> None:
        """`num_turns` is how many it has had."""
        if item.tenant not in self._waiting:
            self._waiting[item.tenant] = []
            self._tenants.append(item.tenant)
        heappush(self._waiting[item.tenant], (item.priority, num_turns, next(self._arrivals), item))

    def take(self) -> tuple[Item, int]:
        """Who is next, and how many turns it had before. It is out of the queue then. Raises IndexError when empty."""
        tenant = self._tenants.popleft()
        waiting = self._waiting[tenant]
        _, num_turns, _, item = heappop(waiting)
        if waiting:
            self._tenants.append(tenant)
        else:
            del self._waiting[tenant]
        return item, num_turns

    def remove(self, item: Item) -> None:
        """Nothing happens for one that is not there."""
        waiting = self._waiting.get(item.tenant, [])
        kept = [entry for entry in waiting if entry[3] is not item]
        if len(kept) == len(waiting):
            return
        if not kept:
            del self._waiting[item.tenant]
            self._tenants.remove(item.tenant)
        else:
            heapify(kept)
            self._waiting[item.tenant] = kept
