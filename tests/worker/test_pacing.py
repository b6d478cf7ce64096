"""The pacer on simulated machines, and the order of prompts against the alternatives."""

import random
from collections.abc import Callable, Iterable
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.request import Generation, Tokens
from shimmy.worker.pacing import (
    LEAST_STRETCH,
    LONGEST_SECONDS,
    SMALL_CHUNK_SECONDS,
    SMALL_CHUNK_TOKENS,
    SMOOTH_SECONDS,
    STEPS_PER_PROBE,
    UNKNOWN_CHUNK_TOKENS,
    Pacer,
    allowed_seconds,
    shares,
)
from shimmy.worker.sequence import Request, Sequence

BATCH_TOKENS = 512
PROMPT_TOKENS = 1512


class Machine:
    """A step costs `fixed` seconds, more for each decoding row and each token of prompt; all of it `slowdown` times."""

    def __init__(self, *, fixed: float, row: float, token: float, noise: float = 0.0) -> None:
        self.fixed, self.row, self.token, self.noise = fixed, row, token, noise
        self.slowdown = 1.0
        self.dice = random.Random(1)
        self.pacer = Pacer()

    def seconds(self, num_decoding: int, num_prefill: int) -> float:
        return self.slowdown * (self.fixed + self.row * num_decoding + self.token * num_prefill)

    def step(self, num_decoding: int, num_prefill: int) -> float:
        seconds = self.seconds(num_decoding, num_prefill) * (1 + self.dice.uniform(-self.noise, self.noise))
        self.pacer.observe(num_decoding, num_prefill, seconds)
        return seconds

    def start(self, num_decoding: int) -> "Machine":
        """A prompt was computed, and for a while there have been streams."""
        self.step(0, 400)
        for _ in range(20):
            self.step(num_decoding, 0)
        return self

    def prefill(self, num_decoding: int, num_tokens: int = PROMPT_TOKENS) -> list[float]:
        """The times of the steps from when a prompt joins the streams to its first token."""
        times = []
        while num_tokens:
            count = min(num_tokens, BATCH_TOKENS, self.pacer.budget(num_decoding))
            times.append(self.step(num_decoding, count))
            num_tokens -= count
        return times

    def alone(self, num_tokens: int = PROMPT_TOKENS) -> float:
        chunks = [BATCH_TOKENS] * (num_tokens // BATCH_TOKENS) + [num_tokens % BATCH_TOKENS]
        return sum(self.seconds(0, chunk) for chunk in chunks)

    def allowed(self, num_decoding: int) -> float:
        small = min(SMALL_CHUNK_SECONDS, self.seconds(num_decoding, SMALL_CHUNK_TOKENS))
        return max(small, allowed_seconds(self.seconds(num_decoding, 0)))


# As measured with bench.chunks: a row costs as much as a token of prompt, or several times as much where prompts have
# better kernels; on a GPU nearly everything is fixed.
def rows_as_tokens(noise: float = 0.0) -> Machine:
    return Machine(fixed=0.003, row=0.0048, token=0.0032, noise=noise)


def rows_dear(noise: float = 0.0) -> Machine:
    return Machine(fixed=0.007, row=0.0049, token=0.0014, noise=noise)


def gpu(noise: float = 0.0) -> Machine:
    return Machine(fixed=0.01, row=0.0002, token=0.0001, noise=noise)


def crawling(noise: float = 0.0) -> Machine:
    return Machine(fixed=2.0, row=0.3, token=0.4, noise=noise)


MACHINES = [rows_as_tokens, rows_dear, gpu, crawling]
MakeMachine = Callable[[float], Machine]


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("num_decoding", [1, 4, 8])
def test_steps_take_what_is_allowed_and_no_longer(make: MakeMachine, num_decoding: int) -> None:
    machine = make(0.0).start(num_decoding)
    times = machine.prefill(num_decoding)
    allowed = machine.allowed(num_decoding)
    assert max(times) <= 1.1 * allowed
    # As long as allowed, unless the whole batch is shorter; the first chunks and the last one may be smaller.
    full = min(allowed, machine.seconds(num_decoding, BATCH_TOKENS))
    assert max(times) >= 0.8 * full


@pytest.mark.parametrize("make", [rows_as_tokens, rows_dear, gpu])
@pytest.mark.parametrize("num_decoding", [1, 4, 8])
def test_the_first_token_comes_soon_all_the_same(make: MakeMachine, num_decoding: int) -> None:
    machine = make(0.0).start(num_decoding)
    # A probe or two count where there are only a few steps.
    assert sum(machine.prefill(num_decoding)) <= 1.15 * machine.alone() + 2 * machine.seconds(num_decoding, 0)


def test_the_first_chunk_is_smaller_as_the_machine_may_be_another_one() -> None:
    machine = rows_as_tokens().start(4)
    times = machine.prefill(4)
    assert 0.4 * machine.allowed(4) <= times[0] <= 0.7 * machine.allowed(4) < 0.9 * times[1]


@pytest.mark.parametrize(("token_seconds", "tokens"), [(0.001, 145), (0.005, 48), (0.01, 48), (0.05, 9)])
def test_chunks_are_small_only_where_others_would_take_long(token_seconds: float, tokens: int) -> None:
    machine = Machine(fixed=0.004, row=0.001, token=token_seconds).start(1)
    longest = max(machine.prefill(1))
    assert (longest - machine.seconds(1, 0)) / token_seconds == pytest.approx(tokens, abs=1)


@pytest.mark.parametrize("make", MACHINES)
def test_prompts_get_most_of_the_time_however_slow_the_machine_is(make: MakeMachine) -> None:
    machine = make(0.0).start(4)
    for machine.slowdown in (1.0, 10.0, 100.0):
        machine.start(4)
        assert sum(machine.prefill(4)) <= 1.1 * LEAST_STRETCH / (LEAST_STRETCH - 1) * machine.alone()


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize("num_decoding", [1, 8])
def test_when_the_machine_slows_down_steps_are_short_again_after_two(make: MakeMachine, num_decoding: int) -> None:
    machine = make(0.1).start(num_decoding)
    machine.prefill(num_decoding, 600)
    machine.slowdown = 3.0
    times = machine.prefill(num_decoding)
    assert max(times[3:]) <= 1.25 * machine.allowed(num_decoding), "the second one was a probe"
    # What steps without prompts cost now is known after two probes; until then chunks are too small.
    assert sum(machine.prefill(num_decoding, 2 * PROMPT_TOKENS)) <= 1.4 * machine.alone(2 * PROMPT_TOKENS)
    machine.slowdown = 1.0
    times = machine.prefill(num_decoding, 3 * PROMPT_TOKENS)
    assert sum(times) <= 1.5 * machine.alone(3 * PROMPT_TOKENS), "and long again when it is fast"
    assert max(times[3 * STEPS_PER_PROBE :], default=0.0) <= 1.35 * machine.allowed(num_decoding)


def test_a_slowdown_while_nothing_joins_is_known_when_something_does() -> None:
    machine = rows_as_tokens().start(4)
    machine.prefill(4)
    for machine.slowdown in (1.0, 3.0):
        for _ in range(20):
            machine.step(4, 0)
    times = machine.prefill(4)
    assert max(times) <= 1.1 * machine.allowed(4)


@pytest.mark.parametrize("num_prefill", [0, 60])
def test_one_slow_step_changes_no_estimate(num_prefill: int) -> None:
    machine = rows_as_tokens().start(4)
    machine.prefill(4)
    known = machine.pacer.token_seconds
    machine.pacer.observe(4, num_prefill, 10.0)
    assert machine.pacer.token_seconds == pytest.approx(known, rel=0.05)
    times = machine.prefill(4)
    assert max(times) <= 1.1 * machine.allowed(4)
    assert sum(times) <= 1.15 * machine.alone()


def test_steps_without_prompts_that_suffer_most_make_no_step_longer_than_the_longest() -> None:
    """Two programs on two cores: threads that wait for each other all the time lose far more than those that do not."""
    machine = Machine(fixed=0.08, row=0.005, token=0.0064).start(4)
    assert machine.allowed(4) == LONGEST_SECONDS
    times = machine.prefill(4)
    assert max(times) <= 1.1 * LONGEST_SECONDS
    assert sum(times) <= 1.35 * machine.alone()


def test_steps_without_prompts_are_looked_at_again_while_prompts_are_computed() -> None:
    pacer = Pacer()
    pacer.observe(0, 400, 1.2)
    for num_steps in (2, STEPS_PER_PROBE, STEPS_PER_PROBE):
        for _ in range(num_steps):
            assert pacer.budget(2) > 0
            pacer.observe(2, 20, 0.08)
        assert pacer.budget(2) == 0
        pacer.observe(2, 0, 0.02)
    pacer.observe(2, 20, 3.0)
    assert pacer.budget(2) == 0, "and at once after a step that took far too long"


@given(st.integers(0, 2**32), st.sampled_from(MACHINES), st.integers(1, 16))
def test_noise_moves_steps_no_more_than_itself(seed: int, make: MakeMachine, num_decoding: int) -> None:
    machine = make(0.2)
    machine.dice.seed(seed)
    machine.start(num_decoding)
    times = machine.prefill(num_decoding)
    assert max(times) <= 1.8 * machine.allowed(num_decoding)
    assert sum(times) <= 1.7 * machine.alone()


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 512), st.floats(1e-6, 100.0)).filter(lambda step: sum(step[:2]))
    ),
    st.integers(1, 300),
)
def test_whatever_was_observed_prompts_go_on(steps: list[tuple[int, int, float]], num_decoding: int) -> None:
    pacer = Pacer()
    for step in steps:
        pacer.observe(*step)
    if not pacer.budget(num_decoding):
        pacer.observe(num_decoding, 0, 0.01)
    assert pacer.budget(num_decoding) >= 1
    assert pacer.token_seconds > 0


def test_before_anything_is_known_chunks_are_small() -> None:
    pacer = Pacer()
    assert pacer.budget(1) == UNKNOWN_CHUNK_TOKENS
    pacer.observe(0, 5, 0.015)
    assert pacer.budget(1) == UNKNOWN_CHUNK_TOKENS


def test_streams_that_were_there_before_any_long_prompt_are_learnt_from_too() -> None:
    """Only a short prompt has been computed alone, so what a token costs is found out beside the stream."""
    machine = rows_dear()
    machine.step(0, 5)
    for _ in range(20):
        machine.step(1, 0)
    machine.prefill(1)
    for _ in range(20):
        machine.step(1, 0)
    times = machine.prefill(1)
    assert max(times) <= 1.25 * machine.allowed(1)
    assert sum(times) <= 1.2 * machine.alone()


def test_what_is_allowed() -> None:
    assert allowed_seconds(0.001) == SMOOTH_SECONDS
    assert allowed_seconds(0.03) == pytest.approx(0.3)
    assert allowed_seconds(0.15) == LONGEST_SECONDS
    assert allowed_seconds(1.0) == LEAST_STRETCH


# The order of prompts

TOKEN_SECONDS = 0.004
STEP_SECONDS = 0.02
BUDGET = 64
Job = tuple[float, int]
Order = Callable[[list[Sequence], int], Iterable[tuple[Sequence, int]]]


def prompt(arrived_at: float, num_tokens: int, priority: int = 0, tenant: str = "") -> Sequence:
    generation = Generation(id="", model="m", prompt=Tokens([]), priority=priority, tenant=tenant)
    return Request(generation, [1] * num_tokens, [], arrived_at).sequences[0]


def in_turn(ready: list[Sequence], budget: int) -> Iterable[tuple[Sequence, int]]:
    return shares(ready, budget, TOKEN_SECONDS)


def by_arrival(ready: list[Sequence], budget: int) -> Iterable[tuple[Sequence, int]]:
    return shares(sorted(ready, key=lambda each: each.request.arrived_at), budget, 0.0)


def shortest_first(ready: list[Sequence], budget: int) -> Iterable[tuple[Sequence, int]]:
    return shares(ready, budget, 1e9)


def evenly(ready: list[Sequence], budget: int) -> Iterable[tuple[Sequence, int]]:
    ordered = sorted(ready, key=lambda each: each.num_pending)
    for position, sequence in enumerate(ordered):
        count = min(sequence.num_pending, max(1, budget // (len(ordered) - position)), budget)
        if count <= 0:
            return
        budget -= count
        yield sequence, count


def first_tokens(jobs: list[Job], order: Order) -> list[float]:
    """Seconds from each job's arrival to its first token, beside streams whose rows cost `STEP_SECONDS` a step."""
    sequences = [prompt(*job) for job in jobs]
    coming, now = sequences[::-1], 0.0
    ready: list[Sequence] = []
    times: dict[int, float] = {}
    while coming or ready:
        while coming and (coming[-1].request.arrived_at <= now or not ready):
            ready.append(coming.pop())
            now = max(now, ready[-1].request.arrived_at)
        given_tokens = list(order(ready, BUDGET))
        now += STEP_SECONDS + TOKEN_SECONDS * sum(count for _, count in given_tokens)
        for sequence, count in given_tokens:
            sequence.num_computed += count
            if not sequence.num_pending:
                times[id(sequence)] = now - sequence.request.arrived_at
                ready.remove(sequence)
    return [times[id(sequence)] for sequence in sequences]


def test_eight_prompts_that_come_together_do_not_all_end_with_the_last() -> None:
    jobs = [(0.0, 64)] * 8
    ours, even = first_tokens(jobs, in_turn), first_tokens(jobs, evenly)
    assert max(ours) == pytest.approx(max(even)), "the last one loses nothing"
    assert mean(ours) < 0.6 * mean(even)


def test_short_prompts_hardly_wait_for_a_long_one() -> None:
    jobs = [(0.0, 1512), *((0.5 + 0.1 * number, 40) for number in range(8))]
    assert mean(first_tokens(jobs, in_turn)[1:]) < 0.15 * mean(first_tokens(jobs, by_arrival)[1:])


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    """Short prompts alone need more than all the time: whoever takes the shortest first never ends the long one."""
    long_seconds = 1512 * TOKEN_SECONDS
    jobs = [(0.0, 1512), *((0.3 * number, 75) for number in range(400))]
    assert first_tokens(jobs, shortest_first)[0] > 100.0
    assert first_tokens(jobs, in_turn)[0] < 7 * long_seconds


@pytest.mark.parametrize("seed", range(3))
def test_over_a_mixture_the_mean_is_nearly_that_of_the_shortest_first(seed: int) -> None:
    dice = random.Random(seed)
    jobs, now = [], 0.0
    while now < 300:
        now += dice.expovariate(1 / 1.6)
        jobs.append((now, int(min(4000, dice.lognormvariate(4.8, 1)))))
    means = {order: mean(first_tokens(jobs, order)) for order in (in_turn, shortest_first, by_arrival, evenly)}
    assert means[in_turn] < 1.15 * means[shortest_first]
    assert means[in_turn] < 0.9 * min(means[by_arrival], means[evenly])


def test_priority_goes_before_length() -> None:
    urgent, short = prompt(1.0, 500, priority=-1), prompt(0.0, 2)
    assert [sequence for sequence, _ in in_turn([short, urgent], 512)] == [urgent, short]
    assert list(in_turn([short, urgent], 100)) == [(urgent, 100)]


def test_priority_counts_among_the_prompts_of_one_tenant_only() -> None:
    own, pushy, pushier = prompt(0.0, 30), prompt(1.0, 20, -8, "other"), prompt(2.0, 40, -9, "other")
    assert [sequence for sequence, _ in in_turn([pushy, own, pushier], 512)] == [own, pushier, pushy]


def test_equals_keep_their_order() -> None:
    first, second = prompt(0.0, 30), prompt(1.0, 30)
    assert list(in_turn([second, first], 40)) == [(first, 30), (second, 10)]


@pytest.mark.parametrize("token", [0.0001, 0.001, 0.01, 0.1, 2.0])
@pytest.mark.parametrize("row", [0.001, 0.05, 0.4])
def test_a_step_of_prompts_alone_is_as_short_for_those_who_wait(token: float, row: float) -> None:
    machine = Machine(fixed=2 * row, row=row, token=token).start(num_decoding=3)
    count = machine.pacer.budget_apart(3)
    seconds = machine.seconds(0, count) - machine.fixed
    assert seconds <= max(allowed_seconds(machine.seconds(3, 0)), SMALL_CHUNK_SECONDS, token) * 1.05
    assert count == 1 or seconds >= 0.9 * min(SMOOTH_SECONDS, SMALL_CHUNK_TOKENS * token) - token
    assert Pacer().budget_apart(3) == UNKNOWN_CHUNK_TOKENS
