"""Vectors of many texts over a fake context: however they are packed, each is what it would be alone."""

import array
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import ModelFailed
from shimmy.core.events import Embedded, Event, Failed
from shimmy.core.request import Embedding, Pooling
from shimmy.worker.embedding import LEAST_BUDGET_TOKENS, UNKNOWN_BUDGET_TOKENS, Embedder, Job, mean, scaled
from tests.worker.fake_pooled_context import FakePooledContext, plain

MAX_TOKENS = 40
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last")
texts = st.lists(st.integers(1, 9), min_size=1, max_size=MAX_TOKENS)


class Bench:
    def __init__(self, **context: Any) -> None:
        self.options = context
        self.contexts: dict[Pooling, FakePooledContext] = {}
        self.now = 0.0
        self.events: list[Event] = []
        self.embedder = Embedder(self.make, lambda: self.now)

    def make(self, pooling: Pooling) -> FakePooledContext:
        self.contexts[pooling] = FakePooledContext(pooling, max_tokens=MAX_TOKENS, **self.options)
        return self.contexts[pooling]

    def add(self, id: str, inputs: list[list[int]], pooling: Pooling = "mean", **fields: Any) -> None:
        request = Embedding(id=id, model="m", inputs=list(inputs), **{"norm": -1, **fields})
        failed = self.embedder.add(Job(request, [array.array("i", each) for each in inputs], pooling, self.now))
        assert failed is None

    def step(self, tokens: int = 16, spare_seconds: float | None = None) -> list[Event]:
        events = self.embedder.step(tokens, spare_seconds)
        self.events += events
        return events

    def finish(self, tokens: int = 16) -> None:
        while self.embedder.has_work:
            self.step(tokens)

    def vectors(self, id: str) -> list[list[float]]:
        found = {e.index: e.vectors for e in self.events if isinstance(e, Embedded) and e.id == id}
        assert sorted(found) == list(range(len(found)))
        return [list(memoryview(found[index]).cast("f")) for index in range(len(found))]


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


@given(
    requests=st.lists(st.tuples(st.lists(texts, min_size=1, max_size=6), st.sampled_from(POOLINGS)), max_size=5),
    budgets=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    is_whole=st.booleans(),
    num_sequences=st.integers(1, 5),
)
def test_packing_changes_nothing(
    requests: list[tuple[list[list[int]], Pooling]], budgets: list[int], is_whole: bool, num_sequences: int
) -> None:
    bench = Bench(is_whole=is_whole, num_sequences=num_sequences)
    for number, (inputs, pooling) in enumerate(requests):
        bench.add(str(number), inputs, pooling)
    for number in range(10_000):
        if not bench.embedder.has_work:
            break
        bench.step(budgets[number % len(budgets)])
    for number, (inputs, pooling) in enumerate(requests):
        expected = [pytest.approx(plain(tokens, pooling)) for tokens in inputs]
        assert bench.vectors(str(number)) == expected
    assert all(context.num_rests for context in bench.contexts.values())


def test_short_texts_share_a_batch() -> None:
    bench = Bench()
    bench.add("a", [[1, 2, 3, 4]] * 3)
    bench.add("b", [[5, 6, 7, 8]])
    assert ids(bench.step()) == ["a", "b", "a", "a"]
    assert bench.contexts["mean"].sizes == [16]


def test_a_long_text_goes_on_in_the_next_batch_beside_others() -> None:
    bench = Bench()
    bench.add("long", [list(range(1, 21))])
    bench.add("short", [[1] * 4])
    assert bench.step() == []
    assert ids(bench.step()) == ["long", "short"]
    assert bench.contexts["mean"].sizes == [16, 8]


def test_an_encoder_sees_a_long_text_whole() -> None:
    bench = Bench(is_whole=True)
    bench.add("a", [[1] * 10, [2] * 40, [3] * 10])
    bench.finish()
    assert bench.contexts["mean"].sizes == [10, 40, 10]


def test_who_came_later_does_not_wait_for_all_of_another() -> None:
    bench = Bench()
    bench.add("many", [[1] * 16] * 50)
    bench.step()
    bench.add("one", [[2] * 16])
    assert ids(bench.step() + bench.step()) == ["many", "one"]


def test_batches_take_no_longer_than_streams_can_spare() -> None:
    bench = Bench(batch_tokens=512, num_sequences=64)
    bench.add("a", [[1] * 8] * 400)
    clock, sizes = bench.embedder._clock, bench.contexts["mean"].sizes
    real = bench.contexts["mean"].decode

    def decode() -> None:
        real()
        bench.now += 0.001 * bench.contexts["mean"].batch.size

    bench.contexts["mean"].decode = decode  # type: ignore[method-assign]
    for _ in range(4):
        before = clock()
        bench.step(512, 0.1)
        assert clock() - before <= 0.1 + 1e-6
    assert sizes == [32, 100, 100, 100]
    bench.step(512, 0.0)
    assert sizes[-1] == LEAST_BUDGET_TOKENS
    bench.step(512)
    assert sizes[-1] > 100


def test_a_clock_that_stands_still_says_nothing_of_what_streams_can_spare() -> None:
    bench = Bench(batch_tokens=512, num_sequences=64)
    bench.add("a", [[1] * 8] * 400)
    for _ in range(3):
        bench.step(512, 0.1)
    assert bench.contexts["mean"].sizes == [UNKNOWN_BUDGET_TOKENS] * 3


def test_an_abort_takes_the_rest_and_the_half_done_text() -> None:
    bench = Bench()
    bench.add("a", [[1] * 4, [2] * 40, [3] * 4])
    bench.add("b", [[4] * 4] * 2)
    bench.step(16)
    bench.embedder.abort("a")
    bench.embedder.abort("a")
    bench.embedder.abort("unknown")
    bench.finish()
    assert len(bench.vectors("b")) == 2
    assert ids(bench.events).count("a") <= 1
    # All ids are free again.
    bench.add("c", [[5] * 3] * 4)
    assert ids(bench.step(16)) == ["c"] * 4


def test_a_batch_that_fails_fails_those_in_it_only() -> None:
    bench = Bench(poison=7, num_sequences=2)
    bench.add("bad", [[1] * 4, [7] * 4, [1] * 4])
    bench.finish()
    assert [type(event) for event in bench.events] == [Failed]
    bench.add("good", [[1] * 4] * 5)
    bench.finish()
    assert len(bench.vectors("good")) == 5


def test_without_memory_a_text_fails_and_the_next_may_not() -> None:
    bench = Bench()
    bench.add("a", [[1] * 4])
    bench.contexts["mean"].has_memory = False
    [failed] = bench.step()
    assert isinstance(failed, Failed) and failed.fault.code == "unavailable"
    bench.contexts["mean"].has_memory = True
    bench.add("b", [[1] * 4])
    bench.finish()
    assert len(bench.vectors("b")) == 1


def test_a_context_that_cannot_be_made_fails_the_request() -> None:
    def make(pooling: Pooling) -> FakePooledContext:
        raise ModelFailed("no memory")

    embedder = Embedder(make)
    failed = embedder.add(Job(Embedding(id="a", model="m", inputs=["x"]), [array.array("i", [1])], "mean", 0.0))
    assert failed is not None and failed.fault.code == "model_failed"
    assert not embedder.has_work


def test_whose_turn_comes_too_late_has_failed() -> None:
    bench = Bench()
    bench.add("first", [[1] * 16] * 3, priority=0)
    bench.add("late", [[2] * 16], priority=1, queue_seconds=5.0)
    bench.add("patient", [[2] * 16], priority=1, queue_seconds=50.0)
    bench.step()
    bench.now = 6.0
    events = bench.step()
    assert ids(events) == ["late", "first"]
    assert isinstance(events[0], Failed) and events[0].fault.code == "queue_timeout"
    bench.finish()
    assert len(bench.vectors("patient")) == 1


def test_one_that_has_begun_is_never_late() -> None:
    bench = Bench()
    bench.add("a", [[1] * 16] * 2, queue_seconds=5.0)
    bench.step()
    bench.now = 6.0
    bench.finish()
    assert len(bench.vectors("a")) == 2


def test_the_mean_of_parts_counts_their_tokens() -> None:
    first, second = (array.array("f", [value, -value]).tobytes() for value in (1.0, 4.0))
    assert memoryview(mean([first, second], [2, 1])).cast("f").tolist() == [2.0, -2.0]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [(-1, [3.0, -4.0]), (0, [24570.0, -32760.0]), (1, [3 / 7, -4 / 7]), (2, [0.6, -0.8]), (3, None)],
)
def test_norms(norm: int, expected: list[float] | None) -> None:
    found = memoryview(scaled(array.array("f", [3.0, -4.0]).tobytes(), None, norm)).cast("f").tolist()
    expected = expected or [3 / 91 ** (1 / 3), -4 / 91 ** (1 / 3)]
    assert found == pytest.approx(expected)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.integers(-1, 64))
def test_no_numbers_are_too_large_or_too_small_to_be_scaled(values: list[float], norm: int) -> None:
    found = memoryview(scaled(array.array("f", values).tobytes(), None, norm)).cast("f").tolist()
    largest = max(map(abs, values))
    if norm > 0 and all(map(math.isfinite, values)) and largest > 1e-30:
        assert 1 / len(values) <= max(map(abs, found)) * 1.0001 and max(map(abs, found)) < 1.0001


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.integers(1, 60))
def test_what_is_cut_off_is_scaled_anew(values: list[float], dimensions: int) -> None:
    found = memoryview(scaled(array.array("f", values).tobytes(), dimensions, 2)).cast("f").tolist()
    assert len(found) == min(dimensions, len(values))
    length = math.hypot(*values[:dimensions])
    if length > 1e-30:
        assert found == pytest.approx([value / length for value in values[:dimensions]], rel=1e-5, abs=1e-30)
