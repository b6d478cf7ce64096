"""Room for models in main memory and on GPUs: what one needs beside what there is, and who is to leave for it.

Owns what is reserved for whom. Knows neither names nor processes' starts and ends: whom to end is told to `evict`.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from shimmy.core.errors import InsufficientMemory, ShimmyError
from shimmy.core.sizes import binary_size
from shimmy.pool.supervisor import MAIN

if TYPE_CHECKING:
    from shimmy.core.ipc import Device
    from shimmy.core.startup import EngineOptions
    from shimmy.hardware.memory import Memory
    from shimmy.models.listing import Model
    from shimmy.pool.demand import Demand, Experience, Needs
    from shimmy.pool.estimate import Details
    from shimmy.pool.gpus import GpuFailure, Gpus, Survey
    from shimmy.pool.group import Group
    from shimmy.pool.supervisor import Supervisor

log = logging.getLogger(__name__)

# How long a model waits until those that are busy leave it some room.
WAIT_SECONDS = 30.0
# This part of all memory is left to others, as workers leave it (worker/growth.py).
SPARE_PART = 16
# How ggml and its backends say it.
_WANT_OF_MEMORY = ("alloc", "memory")


def system_memory() -> "Memory | None":
    from shimmy.hardware.memory import memory

    return memory()


async def look_for_gpu_backend() -> bool:
    """Whether somebody put one in."""
    from shimmy.hardware.backends import is_there

    # In a thread: a home on a network may take its time.
    return await asyncio.to_thread(is_there)


async def without_gpu_backend() -> bool:
    return False


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
        survey: "Survey | None" = None,
        has_gpu_backend: Callable[[], Awaitable[bool]] = without_gpu_backend,
    ) -> None:
        """Without a limit it is what the system has left. `survey` tells what GPUs have left; without it there are
        none. Where `has_gpu_backend`, layers go there unless the options say something else."""
        self._limit_bytes = limit_bytes
        self._residents, self._candidates = residents, candidates
        self._evict = evict
        self._measure = measure
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._survey = survey
        self._has_gpu_backend = has_gpu_backend

    @cached_property
    def _experience(self) -> "Experience":
        # Not before there is a model to load.
        from shimmy.pool.demand import Experience

        return Experience()

    @cached_property
    def _gpus(self) -> "Gpus":
        from shimmy.pool.gpus import Gpus

        return Gpus(self._survey, self._residents)

    async def make(self, newcomer: "Supervisor") -> None:
        """Reserves what the model needs. Raises `InsufficientMemory` where it cannot have that."""
        from shimmy.pool.demand import Demand

        gives_up_at = asyncio.get_running_loop().time() + WAIT_SECONDS
        options = await self._with_gpus(newcomer.options)
        gpus = await self._gpus_for(newcomer, options)
        details = await self._details(newcomer.model, options)
        demand = Demand(newcomer.model, options, gpus, self._experience, details)
        while (refusal := await self._reserve(newcomer, demand)) is not None:
            # Without the turn: who fits meanwhile goes ahead.
            if not await self._wait(gives_up_at):
                raise refusal

    async def _with_gpus(self, options: "EngineOptions") -> "EngineOptions":
        if not await self._has_gpu_backend():
            return options
        from shimmy.pool.gpus import fitted

        return fitted(options)

    async def _gpus_for(self, newcomer: "Supervisor", options: "EngineOptions") -> "list[Device] | None":
        """See `Demand`. None of them where it could not be loaded with them before."""
        if newcomer.gpu_failure is None:
            newcomer.gpu_failure = self._gpu_failure_beside(newcomer)
        if not options.settings or newcomer.gpu_failure is not None:
            return []
        gpus = await self._gpus.for_layers(options)
        if not gpus:
            newcomer.gpu_failure = self._gpus.failure_before(options)
        return gpus

    def _gpu_failure_beside(self, newcomer: "Supervisor") -> "GpuFailure | None":
        """Where the model's other workers have no layers on GPUs, why that is."""
        if not newcomer.is_spare():
            return None
        beside = [each for each in self._residents() if each is not newcomer and self._is_rival(each, newcomer)]
        if self._layers_beside(newcomer, beside):
            return None
        return next((each.gpu_failure for each in beside if each.gpu_failure is not None), None)

    async def _details(self, model: "Model", options: "EngineOptions") -> "Details | None":
        if not options.draft_paths and not options.settings:
            return None
        from shimmy.pool.details import are_needed, details

        return await asyncio.to_thread(details, model, options) if are_needed(options) else None

    async def _reserve(self, newcomer: "Supervisor", demand: "Demand") -> InsufficientMemory | None:
        """Has as many leave as it takes. Returns what is in the way where that may pass, and raises it where not."""
        async with self._turn:
            while True:
                others = [each for each in self._residents() if each is not newcomer]
                demand.least_layers = self._layers_beside(newcomer, others)
                limits = self._limits(demand)
                free = _less(limits, others)
                lasting = _less(limits, [each for each in others if self._is_to_stay(each, newcomer)])
                if missing := (needs := demand.of(lasting)).missing(lasting):
                    raise self._refusal(newcomer, missing[0], needs, free, limits)
                victims = [] if newcomer.is_spare() else self._victims(newcomer)
                reachable = {place: left + sum(each.taken(place) for each in victims) for place, left in free.items()}
                if missing := (best := demand.of(reachable)).missing(reachable):
                    return self._refusal(newcomer, missing[0], best, free, limits)
                missing = (needs := demand.of(free)).missing(free)
                if not missing and needs.num_layers >= best.num_layers:
                    break
                victim = next(each for each in victims if any(map(each.taken, missing or demand.gpus)))
                log.info("model %s leaves: %s needs its memory", victim.model.id, newcomer.model.id)
                await self._evict(victim)
            self._give(newcomer, demand, needs)
        return None

    def _give(self, newcomer: "Supervisor", demand: "Demand", needs: "Needs") -> None:
        newcomer.needs, newcomer.load_options = needs, demand.options(needs.layers)
        if demand.fits_layers and newcomer.gpu_failure is None:
            placed = ", ".join(f"{number} on {name}" for name, number in needs.layers.items() if number)
            log.info("model %s gets as many layers on GPUs as fit: %s", newcomer.model.id, placed or "none")

    def note_loaded(self, supervisor: "Supervisor") -> None:
        """Correct what was estimated by what the worker really took."""
        if supervisor.gpu_failure is not None:
            self._gpus.leave_alone(supervisor.gpu_failure)
        held, loaded, guessed = supervisor.held(), supervisor.loaded, supervisor.needs
        if loaded is None or guessed is None:
            return
        if guessed.num_layers:
            self._gpus.note_loaded(guessed.layers)
        taken = None if held is None else held.anonymous_bytes + held.mapped_bytes
        supervisor.needs = self._experience.note(supervisor.model, guessed, taken, loaded.gpus)
        guess = guessed.estimate
        took = {name: (size, guess.gpu_bytes.get(name, 0)) for name, size in loaded.gpus.items()}
        if taken is not None:
            took["main memory"] = taken, guess.weights_bytes + guess.process_bytes
        for place, (size, expected) in took.items():
            told = binary_size(size), place, binary_size(expected)
            log.info("model %s took %s of %s, %s were estimated", supervisor.model.id, *told)

    def expects_more(self, supervisor: "Supervisor", error: ShimmyError) -> bool:
        """Whether a load that failed is worth another try: it was for want of memory, as many layers as seemed to fit
        were on GPUs, and from now on that is taken to be fewer."""
        needs = supervisor.needs
        if needs is None or not needs.num_layers or supervisor.load_options is supervisor.options:
            return False
        # A name is no reason; as a part of a word it is none.
        said = re.sub(rf"(?<!\w){re.escape(supervisor.model.id)}(?!\w)", "", error.message)
        if not any(word in said for word in _WANT_OF_MEMORY):
            return False
        self._experience.note_want(supervisor.model, needs)
        log.warning("model %s is tried with fewer layers on GPUs", supervisor.model.id)
        return True

    def leaves_out_gpus(self, supervisor: "Supervisor", error: ShimmyError, *, has_died: bool) -> bool:
        """Whether a load that failed is worth a try without GPUs: it had layers there, and nobody asked for that. From
        now on this model has none; and none has where a worker `has_died` of it, if this one can be loaded without."""
        failure = self._gpus.failure_of(supervisor, error, has_died=has_died)
        if failure is None:
            return False
        supervisor.gpu_failure = failure
        log.warning("model %s is loaded once more, without GPUs: %s", supervisor.model.id, failure.reason)
        return True

    def note_change(self) -> None:
        """Somebody has become idle, or has left: who waits looks again."""
        self._changed.set()

    def usage(self) -> Usage:
        return Usage(self._limit(), sum(each.taken_bytes for each in self._residents()))

    def gpu_usage(self) -> dict[str, Usage]:
        """By name, of those that layers were to go to; limits as they were when that was last so."""
        residents = list(self._residents())
        return {
            name: Usage(limit.limit_bytes, sum(each.taken(name) for each in residents))
            for name, limit in self._gpus.limits.items()
        }

    def _limit(self) -> int | None:
        if self._limit_bytes is not None:
            return self._limit_bytes
        found = self._measure()
        if found is None:
            return None
        # What ours have is not left any more, but could be. The pages of files count as left all the time.
        ours = sum(held.anonymous_bytes for each in self._residents() if (held := each.held()) is not None)
        ours += sum(self._shared_bytes(each) for each in self._residents())
        return found.available_bytes - found.total_bytes // SPARE_PART + ours

    def _shared_bytes(self, resident: "Supervisor") -> int:
        """Main memory that it has through a GPU, which is no process's own."""
        needs = resident.needs
        if needs is None or resident.loaded is None:
            return 0
        return sum(needs.bytes.get(name, 0) for name in needs.shared)

    def _limits(self, demand: "Demand") -> dict[str, int]:
        """By place; those that are not known are not among them."""
        found = {} if (main := self._limit()) is None else {MAIN: main}
        for name in demand.gpus:
            found[name] = self._gpus.limits[name].for_models(is_cautious=demand.fits_layers)
        return found

    def _layers_beside(self, newcomer: "Supervisor", others: "Iterable[Supervisor]") -> int:
        """As many as those that another worker of the model has: with fewer, its requests would be slower."""
        if not newcomer.is_spare():
            return 0
        beside = (each.needs.num_layers for each in others if self._is_rival(each, newcomer) and each.needs is not None)
        return max(beside, default=0)

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

    def _refusal(
        self, newcomer: "Supervisor", place: str, needs: "Needs", free: dict[str, int], limits: dict[str, int]
    ) -> InsufficientMemory:
        """With what can be done about it."""
        needed, left, limit = needs.bytes[place], max(0, free[place]), max(0, limits[place])
        where, device = ("memory", {}) if place == MAIN else (f"memory on {place}", {"device": place})
        # What the system has for models grows when other programs end.
        is_lasting = needed > limit and place == MAIN and self._limit_bytes is not None
        why = "" if newcomer.gpu_failure is None else f"; GPUs are left out, {newcomer.gpu_failure.reason}"
        return InsufficientMemory(
            f"model {newcomer.model.id!r} needs {binary_size(needed)} of {where}, and {binary_size(left)} of"
            f" {binary_size(limit)} are free: {self._remedies(place, alone=needed > limit)}{why}",
            needed_bytes=needed,
            free_bytes=left,
            limit_bytes=limit,
            is_lasting=is_lasting,
            **device,
        )

    def _remedies(self, place: str, *, alone: bool) -> str:
        """`alone` where it would not fit either if there were no other models."""
        usual = "serve with a smaller --ctx" if alone else "unload other models, or serve with a smaller --ctx"
        if place != MAIN:
            return f"put fewer layers there (--gpu-layers; with auto as many as fit), {usual}"
        if self._limit_bytes is not None:
            return f"raise --memory-budget{' or' if alone else ','} {usual}"
        return f"{usual}; or allow more with --memory-budget; weights are then read from the disk again and again"


def _less(limits: dict[str, int], takers: "Iterable[Supervisor]") -> dict[str, int]:
    """What they leave of it."""
    left = dict(limits)
    for each in takers:
        for place in left:
            left[place] -= each.taken(place)
    return left
