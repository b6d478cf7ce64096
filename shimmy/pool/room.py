"""Room for models in main memory: compares what one needs with what there is, and has idle ones leave for it.

Owns what is reserved for whom. Knows neither names nor processes' starts and ends: whom to end is told to `evict`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from shimmy.core.errors import InsufficientMemory
from shimmy.core.sizes import binary_size
from shimmy.pool.estimate import Estimate, estimate

if TYPE_CHECKING:
    from shimmy.hardware.memory import Memory
    from shimmy.models.listing import Identity
    from shimmy.pool.group import Group
    from shimmy.pool.supervisor import Supervisor

log = logging.getLogger(__name__)

# How long a model waits until those that are busy leave it some room.
WAIT_SECONDS = 30.0
# This part of all memory is left to others, as workers leave it (worker/growth.py).
SPARE_PART = 16


def system_memory() -> "Memory | None":
    from shimmy.hardware.memory import memory

    return memory()


class Usage(NamedTuple):
    """In bytes: what models may take together (None where nobody knows), and what is reserved for them or taken."""

    limit_bytes: int | None
    taken_bytes: int


class Room:
    """`residents` are all supervisors whose workers may still live; `candidates` the groups that names lead to, each of
    which leaves as a whole.

    One model at a time has others leave; waiting for them to be idle, and loading itself, hold nobody up.
    """

    def __init__(
        self,
        limit_bytes: int | None,
        residents: "Callable[[], Iterable[Supervisor]]",
        candidates: "Callable[[], Iterable[Group]]",
        evict: "Callable[[Group], Awaitable[None]]",
        measure: "Callable[[], Memory | None]" = system_memory,
    ) -> None:
        """Without a limit it is what the system has left."""
        self._limit_bytes = limit_bytes
        self._residents, self._candidates = residents, candidates
        self._evict = evict
        self._measure = measure
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        # What models really took beside their cache, once they have been loaded.
        self._measured: dict[Identity, int] = {}

    async def make(self, newcomer: "Supervisor") -> None:
        """Reserves what the model needs. Raises `InsufficientMemory` where it cannot have that."""
        gives_up_at = asyncio.get_running_loop().time() + WAIT_SECONDS
        while (refusal := await self._reserve(newcomer)) is not None:
            # Without the turn: who fits meanwhile goes ahead.
            if not await self._wait(gives_up_at):
                raise refusal

    async def _reserve(self, newcomer: "Supervisor") -> InsufficientMemory | None:
        """Has as many leave as it takes. Returns what is in the way where that may pass, and raises it where not."""
        async with self._turn:
            needed = self._needed_bytes(newcomer)
            while (limit := self._limit()) is not None:
                others = [each for each in self._residents() if each is not newcomer]
                free = limit - sum(each.taken_bytes for each in others)
                if needed <= free:
                    break
                lasting = sum(each.taken_bytes for each in others if self._is_to_stay(each, newcomer))
                if needed > limit - lasting:
                    raise self._refusal(newcomer, needed, free, limit)
                victims = [] if newcomer.is_spare() else self._victims(newcomer)
                if needed > free + sum(each.taken_bytes for each in victims):
                    return self._refusal(newcomer, needed, free, limit)
                log.info("model %s leaves: %s needs its memory", victims[0].model.id, newcomer.model.id)
                await self._evict(victims[0])
            newcomer.reserved_bytes = needed
        return None

    def note_loaded(self, supervisor: "Supervisor") -> None:
        """Correct what was estimated by what the worker really took."""
        if (held := supervisor.held()) is None:
            return
        taken = held.anonymous_bytes + held.mapped_bytes
        guess = self._estimate(supervisor)
        self._measured[supervisor.model.identity] = taken
        supervisor.reserved_bytes = self._needed_bytes(supervisor)
        log.info(
            "model %s took %s, %s were estimated",
            *(supervisor.model.id, binary_size(taken), binary_size(guess.weights_bytes + guess.process_bytes)),
        )

    def note_change(self) -> None:
        """Somebody has become idle, or has left: who waits looks again."""
        self._changed.set()

    def usage(self) -> Usage:
        return Usage(self._limit(), sum(each.taken_bytes for each in self._residents()))

    def _limit(self) -> int | None:
        if self._limit_bytes is not None:
            return self._limit_bytes
        found = self._measure()
        if found is None:
            return None
        # What ours have is not left any more, but could be. The pages of files count as left all the time.
        ours = sum(held.anonymous_bytes for each in self._residents() if (held := each.held()) is not None)
        return found.available_bytes - found.total_bytes // SPARE_PART + ours

    def _needed_bytes(self, supervisor: "Supervisor") -> int:
        guess = self._estimate(supervisor)
        fixed = self._measured.get(supervisor.model.identity)
        if fixed is None:
            return guess.total_bytes
        return fixed + guess.compute_bytes + guess.cache_bytes

    def _estimate(self, supervisor: "Supervisor") -> Estimate:
        return estimate(supervisor.model, supervisor.options)

    def _victims(self, newcomer: "Supervisor") -> "list[Group]":
        """Those of the lowest priority first, and of these the one that was used longest ago."""
        idle = (
            each
            for each in self._candidates()
            if each.is_idle and not each.stay.pinned and not self._is_rival(each, newcomer)
        )
        return sorted(idle, key=lambda each: (each.stay.priority, each.idle_since))

    def _is_to_stay(self, resident: "Supervisor", newcomer: "Supervisor") -> bool:
        """A worker that is one more of its model takes what is free, or becomes so: no other model leaves for it."""
        if newcomer.is_spare():
            return not resident.is_leaving
        return resident.stay.pinned or self._is_rival(resident, newcomer)

    def _is_rival(self, resident: "Supervisor | Group", newcomer: "Supervisor") -> bool:
        """A worker of the same model: of a version that has to answer until the new one can, or one beside it."""
        return resident.model.id == newcomer.model.id and not resident.is_leaving

    async def _wait(self, until: float) -> bool:
        """For a change; False when time is up."""
        self._changed.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _refusal(self, newcomer: "Supervisor", needed: int, free: int, limit: int) -> InsufficientMemory:
        """With what can be done about it."""
        free, limit = max(0, free), max(0, limit)
        remedies = "unload other models, or serve with a smaller --ctx"
        if self._limit_bytes is not None:
            remedies = f"raise --memory-budget, {remedies}"
        return InsufficientMemory(
            f"model {newcomer.model.id!r} needs {binary_size(needed)} of memory, and {binary_size(free)} of"
            f" {binary_size(limit)} are free: {remedies}",
            needed_bytes=needed,
            free_bytes=free,
            limit_bytes=limit,
        )
