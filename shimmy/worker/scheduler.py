"""Decides which tokens of which sequences the next decode computes. Owns the slots, the waiting and the running.

Rules: sequences that decode go first, one row each; prompts get what the pacer allows beside them. A waiting sequence
is admitted when a slot is free and its tokens fit: of the tenant with the fewest running sequences, or that got a slot
longest ago, then by priority, then of the request with the fewest, then by arrival; but one whose next tokens another
is just computing waits for those. When cells run out that nobody uses, the last in the same order gives its own back
and waits: of the tenant with the most sequences, of the lowest priority, the youngest.

One batch is computed with one set of adapters. Where those that run have different ones, the sets take turns.
"""

from collections import Counter, deque
from typing import Protocol

from shimmy.worker import prefix_cells
from shimmy.worker.adapters import AdapterSet
from shimmy.worker.drafting.drafts import Drafting
from shimmy.worker.llama.context import Batch, KVCacheFull
from shimmy.worker.pacing import Pacer, shares
from shimmy.worker.prefix_cache import Prefix, PrefixCache
from shimmy.worker.sequence import NOTHING, Request, Sequence

# What a step takes at most for reading a state that one waits for, while others run.
FETCH_SECONDS = 0.03
# How long a set of adapters has its turn, at least a step. With others llama.cpp plans its memory anew, which costs
# some milliseconds, much beside a step of a small model.
TURN_SECONDS = 0.05


class Memory(prefix_cells.Memory, Protocol):
    """What the scheduler needs of a context."""

    context_length: int
    # So many rows of prompts may have logits in one batch.
    max_prompt_rows: int
    batch: Batch


class Scheduler:
    """The state of all sequences, and the choice of the next batch."""

    def __init__(
        self,
        memory: Memory,
        cache: PrefixCache,
        num_slots: int,
        pacer: Pacer | None = None,
        drafting: Drafting | None = None,
    ) -> None:
        """The sequence ids below `num_slots` are for those that run."""
        self._memory = memory
        self._cache = cache
        self._pacer = pacer or Pacer()
        self._drafting = drafting or Drafting()
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._requests: dict[str, Request] = {}
        self._planned: list[tuple[Sequence, int]] = []
        # Of the batch: whose prompt's logits are to be read, from which row on, and how many.
        self.prompt_rows: list[tuple[Sequence, int, int]] = []
        # Rows of the batch that belong to sequences that decode, and those of them that were drafted.
        self._num_decoding = 0
        self._num_drafted = 0
        self._num_prompts = 0
        self._num_admissions = 0
        self._last_admissions: dict[str, int] = {}
        # Looking for a sequence that can be admitted is only worth it when something has changed since the last time.
        self._may_admit = True
        # A state for one that waits is being read; the next step goes on with it.
        self._is_fetching = False
        # With which adapters the batch is computed, for how long they have been in turn, and when others were.
        self.adapters: AdapterSet = ()
        self._turn_seconds = 0.0
        self._num_turns = 0
        self._last_turns: dict[AdapterSet, int] = {}

    @property
    def only_decodes(self) -> bool:
        """Whether those that run have no prompts left to compute, not even any that the last batch left out."""
        return not self._num_prompts

    def add(self, request: Request) -> None:
        self._requests[request.id] = request
        self._waiting.extend(request.sequences)
        self._may_admit = True

    def set_paused(self, request_id: str, paused: bool) -> None:
        if request := self._requests.get(request_id):
            request.paused = paused
            self._may_admit = True

    def abort(self, request_id: str, *, sound: bool = True) -> None:
        """Drops a request and frees its slots; unknown ids are ignored. What it computed is kept if it is sound."""
        if request := self._requests.pop(request_id, None):
            self._waiting = deque(sequence for sequence in self._waiting if sequence.request is not request)
            self._may_admit = True
            for sequence in request.sequences:
                self._release(sequence, sound=sound)
                self._close(sequence)

    def finish(self, sequence: Sequence) -> None:
        """The sequence is complete; its request is forgotten with its last one."""
        self._release(sequence)
        self._close(sequence)
        request = sequence.request
        request.num_unfinished -= 1
        if not request.num_unfinished:
            self._requests.pop(request.id, None)

    def admit(self, now: float) -> list[Sequence]:
        """Moves waiting sequences to free slots; returns those that run for the first time."""
        admitted = []
        while self._free_slots and self._may_admit:
            found = self._next_waiting()
            if found is None:
                self._may_admit = self._is_fetching
                break
            sequence, prefix = found
            self._waiting.remove(sequence)
            self._start(sequence, prefix)
            if sequence.admitted_at is None:
                sequence.admitted_at = now
                sequence.num_cached = sequence.num_computed
                self._drafting.begin(sequence)
                admitted.append(sequence)
        return admitted

    def expire(self, now: float) -> list[Request]:
        """Drops the requests whose turn did not come in time; they have failed."""
        expired = [request for request in self._requests.values() if request.start_by <= now and request.is_new]
        for request in expired:
            self.abort(request.id)
        return expired

    def next_expiry(self) -> float | None:
        """When `expire` will have something to do unless a turn comes before; None if never."""
        return min((request.start_by for request in self._requests.values() if request.is_new), default=None)

    def fill_batch(self) -> list[tuple[Sequence, int]]:
        """Fills the batch for one decode; returns (sequence, row) for every sequence that gets a token: from that row,
        and from the next ones for as long as the tokens are those of its draft.

        Raises `KVCacheFull` when one sequence alone has no room.
        """
        self._cache.save_prompt()
        self._take_turns()
        self._draft()
        sampled = self._fill()
        if self._num_drafted and not self._cache.make_room(self._memory.batch.size):
            # Nobody has to give cells back for a guess.
            self._drop_drafts()
            sampled = self._fill()
        while not self._cache.make_room(self._memory.batch.size):
            if not self._preempt():
                raise KVCacheFull
            self._take_turns()
            sampled = self._fill()
        return sampled

    def _fill(self) -> list[tuple[Sequence, int]]:
        batch = self._memory.batch
        batch.clear()
        self._planned, self.prompt_rows = [], []
        ready = self._ready()
        sampled = [(sequence, self._plan_decode(sequence)) for sequence in ready if sequence.num_pending == 1]
        self._num_decoding = batch.size
        self._num_drafted = batch.size - len(sampled)
        budget = batch.capacity - batch.size
        if sampled:
            budget = min(budget, self._pacer.budget(self._num_decoding))
        elif num_others := self._num_decoding_others():
            budget = min(budget, self._pacer.budget_apart(num_others))
        prefilling = [sequence for sequence in ready if sequence.num_pending > 1]
        self._num_prompts = len(prefilling)
        rows_left = self._memory.max_prompt_rows
        for sequence, share in shares(prefilling, budget, self._pacer.token_seconds):
            count = min(share, rows_left) if sequence.reads_prompt else share
            if not count:
                continue
            row = self._plan(sequence, count)
            if sequence.reads_prompt:
                rows_left -= count
                self.prompt_rows.append((sequence, row + 1 - count, count))
            if count == sequence.num_pending:
                sampled.append((sequence, row))
        return sampled

    def commit(self) -> None:
        """The batch was computed: its tokens are in the cache now."""
        for sequence, count in self._planned:
            sequence.num_computed += count
            sequence.num_drafted += len(sequence.draft)
            if sequence.stops or not sequence.has_shared_prompt:
                self._advanced(sequence)

    def settle(self, sequence: Sequence) -> None:
        """The sequence got its tokens; what was computed of its draft beyond them goes."""
        if sequence.draft:
            self._memory.forget(sequence.slot, sequence.num_computed)
        self._drafting.settle(sequence)

    def undrafted(self) -> tuple[int, float]:
        """The rows that the last batch would have had without drafts, and how much of its time."""
        num_rows, num_drafted = self._memory.batch.size, self._num_drafted
        return num_rows - num_drafted, self._drafting.share(num_rows, num_drafted) if num_drafted else 1.0

    def observe(self, seconds: float) -> None:
        """What the step with the last batch took, sampling included."""
        self._turn_seconds += seconds
        self._pacer.observe(self._num_decoding, self._memory.batch.size - self._num_decoding, seconds)
        if self._num_decoding == self._memory.batch.size:
            self._drafting.observe(self._num_decoding, seconds)

    def spare_seconds(self) -> float | None:
        """How long something else may take before the next step, for streams to stay smooth; None where there are none.
        Prompts that are computed beside them take half of it."""
        if not self._num_decoding:
            return None
        seconds = self._pacer.spare_seconds(self._num_decoding)
        return seconds if self.only_decodes else seconds / 2

    def batch_requests(self) -> list[Request]:
        """The requests with rows in the last batch."""
        return list({sequence.request.id: sequence.request for sequence, _ in self._planned}.values())

    def reclaim(self) -> bool:
        """Frees cells although the count says that enough are free; False when that is not possible."""
        return self._cache.evict() or self._preempt()

    def check(self) -> None:
        """For idle moments."""
        self._cache.check()

    def _advanced(self, sequence: Sequence) -> None:
        """A sequence may have reached a length that others wait for or want to have."""
        if sequence.stops and sequence.num_computed >= sequence.stops[0]:
            del sequence.stops[0]
            self._cache.stopped(sequence)
            self._may_admit = True
        if not sequence.has_shared_prompt and sequence.num_computed >= sequence.num_prompt - 1:
            sequence.has_shared_prompt = True
            self._cache.finished_prompt(sequence)

    def _preempt(self) -> bool:
        """Takes the slot of one sequence away, which will have to wait again; False when only one is left.

        Paused sequences go first, then those that would be admitted last.
        """
        if len(self._running) < 2:
            return False
        ranks = self._tenant_ranks()

        def rank(sequence: Sequence) -> tuple[bool, tuple[int, int], int, float]:
            request = sequence.request
            return request.paused, ranks[request.tenant], request.priority, request.arrived_at

        victim = max(self._running, key=rank)
        self._release(victim)
        self._waiting.appendleft(victim)
        return True

    def _take_turns(self) -> None:
        """Whose adapters the next batch has: of those that are ready the ones that waited longest, once the others have
        had their time. Newcomers wait behind those who wait already."""
        ready = dict.fromkeys(each.request.adapters for each in self._running if not each.request.paused)
        for each in ready:
            self._last_turns.setdefault(each, self._num_turns)
        if not ready or (self.adapters in ready and (len(ready) == 1 or self._turn_seconds < TURN_SECONDS)):
            return
        self._num_turns += 1
        self._last_turns[self.adapters] = self._num_turns
        self._last_turns = {each: self._last_turns[each] for each in ready}
        self.adapters = min(ready, key=self._last_turns.__getitem__)
        self._turn_seconds = 0.0

    def _ready(self) -> list[Sequence]:
        """The sequences that the next batch can have."""
        return [each for each in self._running if not each.request.paused and each.request.adapters == self.adapters]

    def _num_decoding_others(self) -> int:
        """How many sequences of other adapters would decode if it were their turn."""
        others = (each for each in self._running if each.request.adapters != self.adapters)
        return sum(each.num_pending == 1 and not each.request.paused for each in others)

    def _draft(self) -> None:
        self._drop_drafts()
        ready = self._ready()
        decoding = [sequence for sequence in ready if sequence.num_pending == 1]
        prefilling = [sequence for sequence in ready if sequence.num_pending > 1]
        self._drafting.draft(decoding, prefilling, self._memory)

    def _drop_drafts(self) -> None:
        for sequence in self._running:
            sequence.draft = NOTHING

    def _close(self, sequence: Sequence) -> None:
        self._drafting.end(sequence)
        sequence.close()

    def _plan_decode(self, sequence: Sequence) -> int:
        """Returns the first of the sequence's rows."""
        batch, tokens = self._memory.batch, sequence.tokens[-1:] + sequence.draft
        self._planned.append((sequence, 1))
        return batch.add(sequence.slot, tokens, sequence.num_computed, logits=True, every=True) - len(sequence.draft)

    def _plan(self, sequence: Sequence, count: int) -> int:
        start = sequence.num_computed
        self._planned.append((sequence, count))
        chunk = sequence.tokens[start : start + count]
        is_last, every = count == sequence.num_pending, sequence.reads_prompt
        return self._memory.batch.add(sequence.slot, chunk, start, logits=is_last, every=every)

    def _next_waiting(self) -> tuple[Sequence, Prefix] | None:
        """Who is to be admitted next, with what there is for it; None when nobody can be."""
        ranks = self._tenant_ranks()
        self._is_fetching = False

        def rank(sequence: Sequence) -> tuple[tuple[int, int], int, int, float]:
            request = sequence.request
            return ranks[request.tenant], request.priority, request.num_running, request.arrived_at

        for sequence in sorted(self._waiting, key=rank):
            if sequence.request.paused or sequence.is_waiting_for_peer:
                continue
            prefix = self._cache.find(sequence)
            if prefix.peer and prefix.promised:
                sequence.peer, sequence.awaited = prefix.peer, prefix.peer.stop_at(prefix.promised)
                continue
            if self._running and not self._cache.fits(sequence, prefix):
                return None
            if not self._holds_up(sequence, prefix):
                return sequence, prefix
        return None

    def _holds_up(self, sequence: Sequence, prefix: Prefix) -> bool:
        """Whether those that run would have to wait too long for what this one takes over; then it waits a step more.
        One state is read at a time."""
        if all(each.request.paused for each in self._running):
            return False
        if self._cache.fetched(sequence, prefix, 0.0 if self._is_fetching else FETCH_SECONDS):
            return False
        self._is_fetching = True
        return True

    def _tenant_ranks(self) -> dict[str, tuple[int, int]]:
        """For each tenant its number of running sequences, and when it got the last one: the lowest is next."""
        num_running = Counter(sequence.request.tenant for sequence in self._running)
        tenants = {request.tenant for request in self._requests.values()}
        return {tenant: (num_running[tenant], self._last_admissions.get(tenant, 0)) for tenant in tenants}

    def _start(self, sequence: Sequence, prefix: Prefix) -> None:
        sequence.slot = self._free_slots.pop()
        sequence.peer = None
        sequence.is_running = True
        sequence.request.num_running += 1
        self._num_admissions += 1
        self._last_admissions[sequence.request.tenant] = self._num_admissions
        self._running.append(sequence)
        self._cache.begin(sequence, prefix)

    def _release(self, sequence: Sequence, *, sound: bool = True) -> None:
        """Frees the slot of a running sequence."""
        if not sequence.is_running:
            return
        if sequence.draft:
            self._memory.forget(sequence.slot, sequence.num_computed)
            sequence.draft = NOTHING
        self._cache.end(sequence, sound=sound)
        self._free_slots.append(sequence.slot)
        self._running.remove(sequence)
        sequence.is_running = False
        sequence.has_shared_prompt = False
        sequence.num_computed = 0
        sequence.stops.clear()
        sequence.request.num_running -= 1
        self._may_admit = True
