"""Makes vectors of texts, many in one batch, for all requests that want some. Runs on the step thread.

A batch holds a token budget of what is next, whoever's it is; a text that does not fit goes on in the next one, or,
where an encoder has to see it whole, begins it. Knows tokens and vectors, neither text nor frames.
"""

import array
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from shimmy.core.errors import Fault, QueueTimeout, ShimmyError, Unavailable
from shimmy.core.events import Embedded, Event, Failed
from shimmy.core.request import Embedding, Pooling
from shimmy.worker.fair_queue import FairQueue
from shimmy.worker.llama.context import Batch

# Beside streams: before it is known what a token costs, and at least, lest nothing ever ends.
UNKNOWN_BUDGET_TOKENS = 32
LEAST_BUDGET_TOKENS = 16
_NUM_RECENT = 3

Tokens = "array.array[int]"


class Context(Protocol):
    """What is needed of a context (worker/llama/pooled.py is the real one)."""

    batch: Batch
    is_whole: bool
    num_sequences: int

    def has_room(self, num_cells: int, num_used: int) -> bool: ...
    def decode(self) -> None: ...
    def vector(self, sequence: int) -> bytes: ...
    def rows(self, start: int, count: int) -> bytes: ...
    def forget(self, sequence: int) -> None: ...
    def rest(self) -> None: ...


class Job:
    """An `Embedding` with its inputs in tokens, none of them empty or too long, and its pooling settled."""

    def __init__(
        self,
        request: Embedding,
        inputs: "list[array.array[int]]",
        pooling: Pooling,
        arrived_at: float,
        dropped: Sequence[int] = (),
    ) -> None:
        """`dropped` is how many tokens each input has lost, or nothing where none has."""
        self.request = request
        self.id = request.id
        self.tenant = request.tenant
        self.priority = request.priority
        self.inputs = inputs
        self._dropped = dropped
        self.pooling = pooling
        self.arrived_at = arrived_at
        limit = request.queue_seconds
        self.start_by = math.inf if limit is None else arrived_at + limit
        self.num_begun = 0
        self.num_unfinished = len(inputs)

    def result(self, index: int, vectors: bytes) -> Embedded:
        num_dropped = self._dropped[index] if self._dropped else 0
        return Embedded(self.id, index, len(self.inputs[index]), vectors, num_dropped)


class _Part:
    """One input while it is computed: `num_done` of its tokens are, and `found` is what came of them."""

    def __init__(self, job: Job, index: int, sequence: int) -> None:
        self.job = job
        self.index = index
        self.tokens = job.inputs[index]
        self.sequence = sequence
        self.num_done = 0
        self.row = 0
        self.count = 0
        self.found: list[bytes] = []
        self.counts: list[int] = []


class _Lane:
    """The jobs of one pooling, and its context. `take` fills the batch, `settle` says what came of it."""

    def __init__(self, pooling: Pooling, context: Context) -> None:
        self.context = context
        self.jobs: FairQueue[Job] = FairQueue()
        self._pooling = pooling
        self._free = list(range(context.num_sequences - 1, -1, -1))
        # It had no room, or not for all of it.
        self._unfinished: _Part | None = None
        self._batch: list[_Part] = []

    @property
    def has_work(self) -> bool:
        return self._unfinished is not None or bool(self.jobs)

    def fill(self, budget: int) -> int:
        """Returns how many tokens are in the batch, more than the budget only where one alone has to have more."""
        batch = self.context.batch
        batch.clear()
        self._batch = []
        while (room := min(budget, batch.capacity) - batch.size) > 0 and (part := self._next()) is not None:
            self._unfinished = part
            missing = len(part.tokens) - part.num_done
            if missing > room and self.context.is_whole:
                if batch.size:
                    break
                room = missing
            part.count = min(missing, room)
            chunk = part.tokens[part.num_done : part.num_done + part.count]
            part.row = batch.add(part.sequence, chunk, part.num_done, logits=True, every=True) - part.count + 1
            self._batch.append(part)
            if part.count < missing:
                break
            self._unfinished = None
        return batch.size

    def compute(self) -> None:
        """Raises a `ShimmyError` when the batch cannot be computed."""
        num_used = sum(part.num_done for part in self._batch)
        if not self.context.has_room(num_used + self.context.batch.size, num_used):
            raise Unavailable("there is no memory for so many tokens at the moment")
        self.context.decode()
        for part in self._batch:
            part.found.append(self._read(part))
            part.counts.append(part.count)
            part.num_done += part.count

    def settle(self) -> list[Embedded]:
        """Those that are complete now."""
        complete = [part for part in self._batch if part.num_done == len(part.tokens)]
        for part in complete:
            self._release(part)
        self._rest()
        return [self._result(part) for part in complete]

    def fail(self) -> list[Job]:
        """Drops what was in the batch; returns whose it was."""
        jobs = list({part.job.id: part.job for part in self._batch}.values())
        for part in self._batch:
            if part is not self._unfinished:
                self._release(part)
        for job in jobs:
            self.drop(job)
        return jobs

    def drop(self, job: Job) -> None:
        self.jobs.remove(job)
        if self._unfinished is not None and self._unfinished.job is job:
            self._release(self._unfinished)
            self._unfinished = None
        self._rest()

    def _next(self) -> _Part | None:
        if self._unfinished is not None:
            return self._unfinished
        if not self.jobs or not self._free:
            return None
        job, turn = self.jobs.take()
        part = _Part(job, job.num_begun, self._free.pop())
        job.num_begun += 1
        if job.num_begun < len(job.inputs):
            self.jobs.add(job, turn)
        return part

    def _read(self, part: _Part) -> bytes:
        if self._pooling == "none":
            return self.context.rows(part.row, part.count)
        return self.context.vector(part.sequence)

    def _result(self, part: _Part) -> Embedded:
        job, found = part.job, part.found
        job.num_unfinished -= 1
        if self._pooling == "none":
            return job.result(part.index, b"".join(found))
        if self._pooling == "mean" and len(found) > 1:
            vector = mean(found, part.counts)
        else:
            vector = found[0 if self._pooling == "cls" else -1]
        if self._pooling == "rank":
            return job.result(part.index, vector[:4])
        return job.result(part.index, scaled(vector, job.request.dimensions, job.request.norm))

    def _release(self, part: _Part) -> None:
        self.context.forget(part.sequence)
        self._free.append(part.sequence)

    def _rest(self) -> None:
        if not self.has_work:
            self.context.rest()


class Embedder:
    """Owns the jobs and the contexts, one for each pooling that was asked for."""

    def __init__(self, make_context: Callable[[Pooling], Context], clock: Callable[[], float] = time.monotonic) -> None:
        """`make_context` may raise a `ShimmyError`."""
        self._make_context = make_context
        self._clock = clock
        self._lanes: dict[Pooling, _Lane] = {}
        self._order: deque[_Lane] = deque()
        self._jobs: dict[str, Job] = {}
        self._token_seconds: deque[float] = deque(maxlen=_NUM_RECENT)

    @property
    def has_work(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> Failed | None:
        try:
            lane = self._lane(job.pooling)
        except ShimmyError as error:
            return Failed(job.id, error.fault())
        self._jobs[job.id] = job
        lane.jobs.add(job)
        return None

    def abort(self, id: str) -> None:
        """Unknown ids are ignored."""
        if job := self._jobs.pop(id, None):
            self._lanes[job.pooling].drop(job)

    def step(self, batch_tokens: int, spare_seconds: float | None = None) -> list[Event]:
        """One batch of about so many tokens, and of fewer where it must not take longer than `spare_seconds`."""
        events: list[Event] = list(self._expire())
        lane = self._next_lane()
        if lane is None:
            return events
        budget = batch_tokens if spare_seconds is None else min(batch_tokens, self._affordable(spare_seconds))
        began_at, num_tokens = self._clock(), lane.fill(budget)
        try:
            lane.compute()
        except ShimmyError as error:
            return events + [self._failed(job, error.fault()) for job in lane.fail()]
        results = lane.settle()
        for id in {result.id for result in results}:
            if not self._jobs[id].num_unfinished:
                del self._jobs[id]
        # On Windows the clock stands still for 16 ms: what took no time says nothing.
        if num_tokens >= LEAST_BUDGET_TOKENS and (seconds := self._clock() - began_at) > 0:
            self._token_seconds.append(seconds / num_tokens)
        return [*events, *results]

    def _lane(self, pooling: Pooling) -> _Lane:
        if pooling not in self._lanes:
            self._lanes[pooling] = lane = _Lane(pooling, self._make_context(pooling))
            self._order.append(lane)
        return self._lanes[pooling]

    def _next_lane(self) -> _Lane | None:
        for _ in range(len(self._order)):
            lane = self._order.popleft()
            self._order.append(lane)
            if lane.has_work:
                return lane
        return None

    def _affordable(self, seconds: float) -> int:
        if not self._token_seconds:
            return UNKNOWN_BUDGET_TOKENS
        return max(LEAST_BUDGET_TOKENS, int(seconds / sorted(self._token_seconds)[len(self._token_seconds) // 2]))

    def _expire(self) -> list[Failed]:
        now = self._clock()
        late = [job for job in self._jobs.values() if job.start_by <= now and not job.num_begun]
        for job in late:
            self.abort(job.id)
        return [Failed(job.id, _too_late(job).fault()) for job in late]

    def _failed(self, job: Job, fault: Fault) -> Failed:
        self._jobs.pop(job.id, None)
        return Failed(job.id, fault)


def mean(vectors: list[bytes], weights: list[int]) -> bytes:
    """Of the means of the parts of a text, which have so many tokens, that of the whole."""
    columns = zip(*(memoryview(vector).cast("f") for vector in vectors), strict=True)
    total = sum(weights)
    return array.array(
        "f", [sum(map(float.__mul__, column, map(float, weights))) / total for column in columns]
    ).tobytes()


def scaled(vector: bytes, dimensions: int | None, norm: int) -> bytes:
    """The first `dimensions` numbers, divided by their norm (core/request.py, `Norm`); a vector of zeros as it is."""
    values = memoryview(vector).cast("f")[:dimensions]
    length = _length(values, norm)
    if length == 1.0 or not length or not math.isfinite(length):
        return values.tobytes()
    factor = 1.0 / length
    return array.array("f", [value * factor for value in values]).tobytes()


def _length(values: "memoryview[float]", norm: int) -> float:
    match norm:
        case -1:
            return 1.0
        case 0:
            # As llama-server scales it: the largest number is then that of 16 bits, nearly.
            return max(map(abs, values)) / 32760.0
        case 1:
            return math.fsum(map(abs, values))
        case 2:
            return math.hypot(*values)
    # By their largest, as powers of the numbers themselves may be too large for any number.
    largest = max(map(abs, values))
    if not largest or not math.isfinite(largest):
        return largest
    return float(largest * math.fsum((abs(value) / largest) ** norm for value in values) ** (1.0 / norm))


def _too_late(job: Job) -> ShimmyError:
    return QueueTimeout(f"the request has waited for its turn for {job.start_by - job.arrived_at:.1f} s")
