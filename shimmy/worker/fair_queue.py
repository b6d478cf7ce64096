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
    """Tenants take turns; of one tenant's requests that with the lowest priority is next, and equals take turns.

    Turns are numbered. Who comes begins with the number after that of the last turn, and so neither waits until the
    others have ended nor holds them up until it has had as many turns.
    """

    def __init__(self) -> None:
        self._tenants: deque[str] = deque()
        # Of each tenant: (priority, number of the turn, arrival, request); and the number that was last taken.
        self._waiting: dict[str, list[tuple[int, int, int, Item]]] = {}
        self._turns: dict[str, int] = {}
        self._arrivals = count()

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, item: Item, turn: int | None = None) -> None:
        """For another turn after `turn`, or the first one."""
        if item.tenant not in self._waiting:
            self._waiting[item.tenant] = []
            self._turns[item.tenant] = -1 if turn is None else turn
            self._tenants.append(item.tenant)
        number = (self._turns[item.tenant] if turn is None else turn) + 1
        heappush(self._waiting[item.tenant], (item.priority, number, next(self._arrivals), item))

    def take(self) -> tuple[Item, int]:
        """Who is next, and the number of its turn. It is out of the queue then. Raises IndexError when empty."""
        tenant = self._tenants.popleft()
        waiting = self._waiting[tenant]
        _, turn, _, item = heappop(waiting)
        if waiting:
            self._turns[tenant] = turn
            self._tenants.append(tenant)
        else:
            self._drop(tenant)
        return item, turn

    def remove(self, item: Item) -> None:
        """Nothing happens for one that is not there."""
        waiting = self._waiting.get(item.tenant, [])
        kept = [entry for entry in waiting if entry[3] is not item]
        if len(kept) == len(waiting):
            return
        if kept:
            heapify(kept)
            self._waiting[item.tenant] = kept
        else:
            self._tenants.remove(item.tenant)
            self._drop(item.tenant)

    def _drop(self, tenant: str) -> None:
        del self._waiting[tenant], self._turns[tenant]
