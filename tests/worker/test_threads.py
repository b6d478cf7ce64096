"""The thread governor on simulated machines."""

import random

import pytest

from shimmy.worker.threads import ThreadGovernor


class Machine:
    """Steps take work / threads, and `slowdown` times longer when all `cores` are asked for while it is busy."""

    def __init__(self, cores: int, *, slowdown: float = 8.0, noise: float = 0.1) -> None:
        self.cores, self.slowdown, self.noise = cores, slowdown, noise
        self.now, self.busy, self.work = 100.0, False, 0.012
        self.dice = random.Random(1)
        self.governor = ThreadGovernor(cores, lambda: self.now)

    def run(self, seconds: float, rows: int = 1) -> dict[int, float]:
        """Decodes for a while; returns the share of the time spent at each thread count."""
        spent: dict[int, float] = {}
        end = self.now + seconds
        while self.now < end:
            threads = self.governor.num_threads
            step = self.work / threads * (1 + self.dice.random() * self.noise)
            running = threads * 0.97
            if self.busy and threads == self.cores:
                step *= self.slowdown
                running = threads - 0.5
            self.now += step
            spent[threads] = spent.get(threads, 0.0) + step
            self.governor.observe(rows, step, step * running)
        return {threads: time / seconds for threads, time in spent.items()}


def test_a_quiet_machine_uses_all_threads() -> None:
    machine = Machine(4)
    machine.run(2)
    assert machine.run(60)[4] > 0.98


def test_slow_steps_on_a_quiet_machine_cost_no_thread() -> None:
    machine = Machine(2)
    machine.run(2)
    machine.work *= 4
    assert set(machine.run(20)) == {2}


def test_contention_costs_a_thread_and_it_comes_back() -> None:
    for cores in (2, 4, 16):
        machine = Machine(cores)
        machine.run(5)
        machine.busy = True
        machine.run(2)
        assert machine.run(30).get(cores, 0.0) < 0.1
        machine.busy = False
        machine.run(20)
        assert machine.run(30)[cores] > 0.95


def test_contention_from_the_start_is_found_out() -> None:
    machine = Machine(2)
    machine.busy = True
    machine.run(3)
    assert machine.run(30)[1] > 0.9


def test_what_a_server_does_with_its_first_answer_costs_no_thread() -> None:
    machine = Machine(2, slowdown=1.6)
    machine.busy = True
    assert machine.run(0.5) == {2: pytest.approx(1, rel=0.1)}
    machine.busy = False
    assert set(machine.run(20)) == {2}


def test_steps_that_grow_with_the_context_are_not_taken_for_contention() -> None:
    machine = Machine(4)
    share = 0.0
    for _ in range(40):
        machine.work *= 1.1
        share += machine.run(1).get(4, 0.0) / 40
    assert share > 0.9


def test_one_thread_stays_one_thread() -> None:
    machine = Machine(1)
    machine.busy = True
    assert set(machine.run(10)) == {1}


def test_a_changing_number_of_rows_is_not_taken_for_contention() -> None:
    machine = Machine(2)
    for rows in (1, 8, 2, 8) * 10:
        machine.work = 0.005 * rows
        assert machine.run(0.5, rows).get(2, 0.0) > 0.5
