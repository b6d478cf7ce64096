"""How many cells may be used, by what memory is left."""

import logging

import pytest

from shimmy.hardware.memory import Memory
from shimmy.worker.growth import FIRST_CELLS, STEP_CELLS, Growth

CELL = 1000
SPARE = 100_000


class Machine:
    """What it has for cells, beside what it never gives."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self.num_looks = 0

    def __call__(self) -> Memory:
        self.num_looks += 1
        return Memory(16 * SPARE, SPARE + CELL * self.num_cells)


def test_it_grows_in_steps_up_to_the_limit() -> None:
    machine = Machine(10**6)
    growth = Growth(10_000, CELL, machine)
    assert growth.num_cells == FIRST_CELLS and growth.grow(FIRST_CELLS, 0)
    assert growth.grow(FIRST_CELLS + 1, FIRST_CELLS) and growth.num_cells == FIRST_CELLS + STEP_CELLS
    assert growth.grow(10_000, 0) and growth.num_cells == 10_000
    assert not growth.grow(10_001, 0)
    assert machine.num_looks == 2, "only a look tells, but not for what it has or will never have"


def test_a_short_context_has_all_its_cells_at_once() -> None:
    assert Growth(500, CELL, Machine(0)).num_cells == 500


def test_without_memory_it_stays_as_it_is_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(2000)
    growth = Growth(10_000, CELL, machine)
    with caplog.at_level(logging.WARNING):
        assert not growth.grow(5000, 2048) and not growth.grow(5000, 2048)
    assert growth.num_cells == FIRST_CELLS
    assert [record.message for record in caplog.records] == [
        "no memory for 5000 tokens in the KV cache: 2 MB more are needed, 1 MB are left; requests wait"
    ]
    machine.num_cells = 4000
    assert growth.grow(5000, 2048)


def test_cells_that_may_be_used_but_never_were_still_need_memory() -> None:
    growth = Growth(100_000, CELL, Machine(30_000))
    assert growth.grow(20_000, 0)
    assert not growth.grow(40_000, 100), "20,000 that were promised and 20,000 more are too many"
    assert growth.grow(40_000, 15_000)
    assert growth.grow(43_000, 100), "what was used once has its memory"


def test_the_limit_can_be_what_there_is_memory_for() -> None:
    growth = Growth(100_000, CELL, Machine(30_000))
    growth.fit_memory()
    assert growth.limit == 30_000
    growth = Growth(100_000, CELL, Machine(-50))
    growth.fit_memory()
    assert growth.limit == FIRST_CELLS == growth.num_cells


def test_it_shrinks_to_what_it_was() -> None:
    growth = Growth(100_000, CELL, Machine(30_000))
    assert not growth.has_grown
    assert growth.grow(20_000, 0) and growth.has_grown
    growth.shrink()
    assert growth.num_cells == FIRST_CELLS and not growth.has_grown


def test_where_nothing_is_known_it_grows() -> None:
    growth = Growth(100_000, CELL, lambda: None)
    growth.fit_memory()
    assert growth.limit == 100_000 and growth.grow(100_000, 0)


def test_a_context_with_all_its_memory_does_not_grow() -> None:
    growth = Growth(100_000, 0, Machine(0))
    growth.fit_memory()
    assert growth.num_cells == growth.limit == 100_000 and not growth.has_grown
