"""When the memory grows, and what happens when it cannot, over a fake context."""

import pytest

from shimmy.core.events import Failed
from shimmy.worker.prefix_states import Reuse
from tests.worker.test_loop import MEMORIES, Bench, expected
from tests.worker.test_prefix_cache import RAM, ask, check, prompt


def grown(**more: object) -> Bench:
    return Bench(**{"context_length": 2000, "first_cells": 100, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("reuse", MEMORIES)
def test_running_sequences_make_it_grow_before_any_gives_way(reuse: Reuse) -> None:
    bench = grown(reuse=reuse)
    for seed in (2, 3, 4):
        bench.submit(str(seed), prompt(80, seed), max_tokens=12)
    bench.turn()
    assert len(bench.loop._scheduler._running) == 3
    bench.drain()
    for seed in (2, 3, 4):
        check(bench, str(seed), prompt(80, seed), 12)
    assert bench.context.num_computed == 3 * (80 + 11), "nothing was computed twice"
    bench.assert_clean()


def test_idle_prefixes_make_it_grow_by_as_much_as_is_kept_of_them() -> None:
    bench = grown(max_idle_cells=150)
    for seed in (2, 3, 4, 5):
        ask(bench, str(seed), prompt(60, seed))
        assert bench.cache.num_used <= bench.context.num_cells <= 150 + 64
    assert ask(bench, "3 again", prompt(60, 4)) == 59
    assert ask(bench, "2 again", prompt(60, 2)) == 0


def test_what_cannot_grow_evicts_and_then_takes_turns() -> None:
    bench = grown(grows=lambda num_cells: False, slots=2, ram_bytes=RAM)
    ask(bench, "idle", prompt(40, 2))
    for seed in (3, 4):
        bench.submit(str(seed), prompt(60, seed), max_tokens=12)
    bench.turn()
    assert len(bench.loop._scheduler._running) == 1, "the other would not fit"
    bench.drain()
    for seed in (3, 4):
        check(bench, str(seed), prompt(60, seed), 12)
    assert bench.context.num_computed == 43 + 2 * (60 + 11), "nobody was admitted and sent away again"
    assert ask(bench, "idle again", prompt(40, 2)) == 39, "it was saved"


def test_who_does_not_fit_alone_fails_with_what_there_is_and_nobody_else() -> None:
    bench = grown(grows=lambda num_cells: False)
    bench.submit("large", prompt(120, 2), max_tokens=4)
    bench.submit("small", prompt(50, 3), max_tokens=4)
    bench.drain()
    [failed] = [event for event in bench.events if isinstance(event, Failed)]
    assert (failed.id, failed.fault.code) == ("large", "unavailable")
    assert failed.fault.message == "there is no memory for more than 100 of 2000 tokens of context at the moment"
    check(bench, "small", prompt(50, 3))
    bench.assert_clean()


def test_memory_that_was_short_is_used_when_there_is_some() -> None:
    is_short = True
    bench = grown(grows=lambda num_cells: not is_short, slots=2)
    for seed in (3, 4):
        bench.submit(str(seed), prompt(60, seed), max_tokens=12)
    bench.turn()
    is_short = False
    bench.submit("5", [7], max_tokens=1)
    bench.turn()
    assert len(bench.loop._scheduler._running) == 2
    bench.drain()
    assert bench.text("4") == expected(prompt(60, 4), 12, 2000)[0]


def test_memory_is_given_back_when_nothing_is_kept() -> None:
    bench = grown(ram_bytes=RAM, max_idle_cells=50)
    ask(bench, "large", prompt(300, 2))
    assert bench.context.num_cells > 300
    bench.loop._scheduler.check()
    assert bench.context.num_cells == 100
    assert ask(bench, "again", prompt(300, 2)) == 299
