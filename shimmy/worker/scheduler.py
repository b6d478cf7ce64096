"""Decides which tokens of which sequences the next decode computes. Owns the slots, the waiting and the running.

Rules: sequences that decode go first, one row each; prompts share what the token budget leaves, short remainders
before long ones; a waiting sequence is admitted when a slot is free and its tokens fit, the request with the fewest
running sequences first, then by arrival. When cells run out the youngest sequence gives its own back and waits.
"""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from shimmy.worker.llama.context import Batch
from shimmy.worker.sequence import Request, Sequence

# Tokens of prompt per step: all the batch when nobody waits for a next token, else few enough to keep streams smooth.
PREFILL_TOKENS_ALONE = 512
PREFILL_TOKENS_BESIDE_DECODE = 128


class Memory(Protocol):
    """What the scheduler needs of a context."""

    context_length: int
    batch: Batch

    def forget(self, sequence: int) -> None: ...
    def share_prefix(self, source: int, target: int, length: int) -> bool: ...


class Scheduler:
    """The state of all sequences, and the choice of the next batch."""

    def __init__(self, memory: Memory, num_slots: int, *, can_share_prefix: bool) -> None:
        self._memory = memory
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._can_share_prefix = can_share_prefix
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._requests: dict[str, Request] = {}
        self._planned: list[tuple[Sequence, int]] = []

    @property
    def num_planned(self) -> int:
        """Sequences in the last batch; equal to its rows when all of them decode."""
        return len(self._planned)

    def add(self, request: Request) -> None:
        self._requests[request.id] = request
        self._waiting.extend(request.sequences)

    def set_paused(self, request_id: str, paused: bool) -> None:
        if request := self._requests.get(request_id):
            request.paused = paused

    def abort(self, request_id: str) -> None:
        """Drops a request and frees its slots; unknown ids are ignored."""
        if request := self._requests.pop(request_id, None):
            self._waiting = deque(sequence for sequence in self._waiting if sequence.request is not request)
            for sequence in request.sequences:
                self._release(sequence)
                sequence.close()

    def finish(self, sequence: Sequence) -> None:
        """The sequence is complete; its request is forgotten with its last one."""
        self._release(sequence)
        sequence.close()
        request = sequence.request
        request.num_unfinished -= 1
        if not request.num_unfinished:
            self._requests.pop(request.id, None)

    def admit(self, now: float) -> list[Sequence]:
        """Moves waiting sequences to free slots; returns those that run for the first time."""
        admitted = []
        while self._free_slots and (sequence := self._next_waiting()):
            self._waiting.remove(sequence)
            self._start(sequence)
            if sequence.admitted_at is None:
                sequence.admitted_at = now
                admitted.append(sequence)
        return admitted

    def fill_batch(self) -> list[tuple[Sequence, int]]:
        """Fills the batch for one decode; returns (sequence, row) for every row whose logits will be sampled."""
        batch = self._memory.batch
        batch.clear()
        self._planned = []
        ready = [sequence for sequence in self._running if not sequence.request.paused]
        sampled = [(sequence, self._plan(sequence, 1)) for sequence in ready if sequence.num_pending == 1]
        budget = PREFILL_TOKENS_BESIDE_DECODE if sampled else PREFILL_TOKENS_ALONE
        for sequence, count in _shares(ready, min(budget, batch.capacity - batch.size)):
            row = self._plan(sequence, count)
            if count == sequence.num_pending:
                sampled.append((sequence, row))
        return sampled

    def commit(self) -> None:
        """The batch was computed: its tokens are in the cache now."""
        for sequence, count in self._planned:
            sequence.num_computed += count

    def batch_requests(self) -> list[Request]:
        """The requests with rows in the last batch."""
        return list({sequence.request.id: sequence.request for sequence, _ in self._planned}.values())

    def preempt(self) -> bool:
        """Takes the cells of one sequence away, to be computed again later; False when only one is left.

        Paused sequences go first, then the youngest.
        """
        if len(self._running) < 2:
            return False
        victim = max(self._running, key=lambda sequence: (sequence.request.paused, sequence.request.arrived_at))
        self._release(victim)
        victim.num_computed = victim.shared_cells = 0
        self._waiting.appendleft(victim)
        return True

    def _plan(self, sequence: Sequence, count: int) -> int:
        start = sequence.num_computed
        self._planned.append((sequence, count))
        assert sequence.slot is not None
        chunk = sequence.tokens[start : start + count]
        return self._memory.batch.add(sequence.slot, chunk, start, logits=count == sequence.num_pending)

    def _next_waiting(self) -> Sequence | None:
        candidates = [sequence for sequence in self._waiting if self._may_start(sequence)]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda sequence: (sequence.request.num_running, sequence.request.arrived_at))
        used = sum(len(sequence.tokens) - sequence.shared_cells for sequence in self._running)
        fits = used + len(chosen.tokens) - self._shareable(chosen) < self._memory.context_length
        return chosen if fits or not self._running else None

    def _may_start(self, sequence: Sequence) -> bool:
        """A choice waits until a sibling has computed the prompt that they share; a paused request waits."""
        request = sequence.request
        sharing = self._can_share_prefix and request.num_running > 0
        return not request.paused and (not sharing or self._source(sequence) is not None)

    def _source(self, sequence: Sequence) -> Sequence | None:
        return next((sibling for sibling in sequence.request.sequences if sibling.prompt_computed), None)

    def _shareable(self, sequence: Sequence) -> int:
        sharing = self._can_share_prefix and self._source(sequence) is not None
        return sequence.num_prompt - 1 if sharing else 0

    def _start(self, sequence: Sequence) -> None:
        source = self._source(sequence) if self._can_share_prefix else None
        sequence.slot = self._free_slots.pop()
        sequence.request.num_running += 1
        self._running.append(sequence)
        length = sequence.num_prompt - 1
        if source and source.slot is not None and length:
            if self._memory.share_prefix(source.slot, sequence.slot, length):
                sequence.num_computed = sequence.shared_cells = length

    def _release(self, sequence: Sequence) -> None:
        """Frees the slot and cells of a running sequence."""
        if sequence.slot is None:
            return
        self._memory.forget(sequence.slot)
        self._free_slots.append(sequence.slot)
        self._running.remove(sequence)
        sequence.slot = None
        sequence.request.num_running -= 1
        self._bequeath(sequence)

    def _bequeath(self, sequence: Sequence) -> None:
        """Cells that others share stay in the cache; from now on one of those counts them as its own."""
        heir = next((each for each in sequence.request.sequences if each.slot is not None and each.shared_cells), None)
        if heir and not sequence.shared_cells:
            heir.shared_cells = 0


def _shares(ready: list[Sequence], budget: int) -> Iterator[tuple[Sequence, int]]:
    """Splits the prefill budget evenly; what a short remainder leaves goes to the longer ones."""
    prefilling = sorted((sequence for sequence in ready if sequence.num_pending > 1), key=lambda each: each.num_pending)
    for position, sequence in enumerate(prefilling):
        count = min(sequence.num_pending, max(1, budget // (len(prefilling) - position)), budget)
        if count <= 0:
            return
        budget -= count
        yield sequence, count
