"""What the disk is offered and when, and how what lies there gets back, over a fake context and a fake disk."""

import itertools
from collections.abc import Generator
from types import SimpleNamespace

import pytest

from shimmy.core.events import TextDelta
from shimmy.core.ipc import Abort
from shimmy.worker.llama.context import DecodeFailed
from shimmy.worker.prefix_states import Hit, RamTier, Reuse, Tokens
from shimmy.worker.prefix_tree import common_length
from shimmy.worker.scheduler import FETCH_SECONDS
from tests.worker.test_loop import Bench
from tests.worker.test_prefix_cache import SHARED, WHOLE, WINDOW, ask, check, prompt


class Disk(RamTier):
    """It takes `num_reads` steps to read a state, and notes what it is offered."""

    def __init__(self, reuse: Reuse, num_reads: int = 0) -> None:
        super().__init__(1 << 20, reuse)
        self.num_reads = num_reads
        self.lengths: list[int] = []
        self.num_reading = 0

    def offer(self, tokens: "Tokens[int]", namespace: str, state: bytes) -> None:
        self.lengths.append(len(tokens))
        super().offer(tokens, namespace, state)

    def reading(self, hit: Hit) -> Generator[None, None, bytes | None]:
        self.num_reading += 1
        try:
            for _ in range(self.num_reads):
                yield
            return self.fetch(hit)
        finally:
            self.num_reading -= 1

    def parting(self, tokens: "Tokens[int]", namespace: str) -> int:
        stored = [each for (its, _), (each, _) in self._states.items() if its == namespace]
        return max((common_length(tokens, 0, each, 0, len(tokens)) for each in stored), default=0)


def restarted(disk: Disk, **more: object) -> Bench:
    return Bench(reuse=disk._reuse, disk=disk, **more)  # type: ignore[arg-type]


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is time for one read in each step."""
    times = itertools.count(step=0.75 * FETCH_SECONDS)
    monkeypatch.setattr("shimmy.worker.prefix_states.time", SimpleNamespace(monotonic=lambda: next(times)))


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW, WHOLE])
def test_after_a_restart_only_the_last_token_is_computed(reuse: Reuse) -> None:
    disk = Disk(reuse)
    assert ask(restarted(disk), "cold", SHARED) == 0
    bench = restarted(disk)
    assert ask(bench, "again", SHARED) == 99
    assert bench.context.num_computed == 1 + 3


def test_a_prompt_is_offered_after_its_first_token_was_sent_and_all_of_it_at_the_end() -> None:
    disk = Disk(Reuse())
    bench = restarted(disk, batch_tokens=512)
    bench.submit("a", SHARED, max_tokens=8)
    bench.turn()
    assert disk.lengths == [] and any(isinstance(event, TextDelta) for event in bench.events)
    bench.turn()
    assert disk.lengths == [100]
    bench.drain()
    assert disk.lengths == [100, 107]


def test_a_step_saves_one_prompt_at_most() -> None:
    disk = Disk(Reuse())
    bench = restarted(disk, batch_tokens=512)
    for number in range(3):
        bench.submit(str(number), prompt(80, 2 + number), max_tokens=12)
    bench.turn()
    for number in range(1, 4):
        bench.turn()
        assert len(disk.lengths) == number
    bench.drain()


def test_a_prompt_whose_request_has_gone_is_offered_once() -> None:
    disk = Disk(Reuse())
    bench = restarted(disk, batch_tokens=512)
    bench.submit("a", SHARED, max_tokens=8)
    bench.turn()
    bench.commands.put(Abort("a"))
    bench.drain()
    assert disk.lengths == [100]


def test_what_failed_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(Reuse())
    bench = restarted(disk, batch_tokens=50)
    bench.submit("a", SHARED, max_tokens=4)
    bench.turn()

    def fail() -> None:
        monkeypatch.undo()
        raise DecodeFailed("llama_decode returned -3")

    monkeypatch.setattr(bench.context, "decode", fail)
    bench.drain()
    assert disk.lengths == []


@pytest.mark.parametrize("reuse", [WINDOW, WHOLE])
def test_where_prompts_part_is_known_from_the_disk(reuse: Reuse) -> None:
    disk = Disk(reuse)
    ask(restarted(disk), "first", prompt(60, 2, SHARED))
    assert ask(restarted(disk), "second", prompt(60, 3, SHARED)) == 0
    assert ask(restarted(disk), "third", prompt(60, 4, SHARED)) == 100


def test_where_a_window_parts_in_the_cache_the_beginning_is_stored() -> None:
    disk = Disk(WINDOW)
    bench = restarted(disk)
    ask(bench, "first", prompt(60, 2, SHARED))
    assert ask(bench, "second", prompt(60, 3, SHARED)) == 100
    assert ask(restarted(disk), "third", prompt(60, 4, SHARED)) == 100


def test_those_that_run_go_on_while_a_state_is_read(slices: None) -> None:
    disk = Disk(Reuse(), num_reads=5)
    ask(restarted(disk), "cold", SHARED)
    bench = restarted(disk)
    bench.submit("runs", prompt(20, 2), max_tokens=12)
    bench.turn()
    bench.submit("waits", SHARED, max_tokens=4)
    for _ in range(5):
        before = bench.context.num_decodes
        bench.turn()
        assert bench.context.num_decodes == before + 1 and not bench.text("waits")
    assert disk.num_reading == 1
    bench.drain()
    check(bench, "waits", SHARED)
    assert bench.finished("waits").usage.cached_tokens == 99 and disk.num_reading == 0


def test_who_needs_nothing_of_the_disk_overtakes(slices: None) -> None:
    disk = Disk(Reuse(), num_reads=5)
    ask(restarted(disk), "cold", SHARED)
    bench = restarted(disk)
    bench.submit("runs", prompt(20, 2), max_tokens=12)
    bench.turn()
    bench.submit("waits", SHARED, max_tokens=4)
    bench.submit("other", prompt(20, 3), max_tokens=2)
    bench.turn()
    assert bench.text("other") and not bench.text("waits")
    bench.drain()
    assert bench.finished("waits").usage.cached_tokens == 99


def test_one_state_is_read_at_a_time(slices: None) -> None:
    disk = Disk(Reuse(), num_reads=3)
    for number in (4, 5):
        ask(restarted(disk), "cold", prompt(100, number))
    bench = restarted(disk)
    bench.submit("runs", prompt(20, 2), max_tokens=12)
    bench.turn()
    for number in (4, 5):
        bench.submit(str(number), prompt(100, number), max_tokens=4)
    for _ in range(4):
        bench.turn()
    assert bench.text("4") and not bench.text("5")
    bench.drain()
    assert bench.finished("5").usage.cached_tokens == 99


def test_a_state_is_let_go_of_with_its_request(slices: None) -> None:
    disk = Disk(Reuse(), num_reads=50)
    ask(restarted(disk), "cold", SHARED)
    bench = restarted(disk)
    bench.submit("runs", prompt(20, 2), max_tokens=12)
    bench.turn()
    bench.submit("waits", SHARED, max_tokens=4)
    bench.turn()
    assert disk.num_reading == 1
    bench.commands.put(Abort("waits"))
    bench.turn()
    assert disk.num_reading == 0
    bench.drain()


def test_the_rest_is_read_at_once_when_nobody_runs(slices: None) -> None:
    disk = Disk(Reuse(), num_reads=50)
    ask(restarted(disk), "cold", SHARED)
    bench = restarted(disk)
    bench.submit("runs", prompt(20, 2), max_tokens=3)
    bench.turn()
    bench.submit("waits", SHARED, max_tokens=4)
    bench.turn()
    bench.commands.put(Abort("runs"))
    bench.turn()
    assert bench.text("waits")
    bench.drain()
    assert bench.finished("waits").usage.cached_tokens == 99


def test_what_is_idle_does_not_leave_the_cache_for_the_disk_alone() -> None:
    """From there it would take its time to come back, if it is there at all."""
    bench = restarted(Disk(Reuse()), max_idle_cells=120)
    for number in (2, 3):
        ask(bench, str(number), prompt(90, number))
    bench.cache.check()
    assert bench.cache.num_used == 2 * 93


def test_recurrent_prompts_wait_for_nobody_when_there_is_only_a_disk() -> None:
    bench = restarted(Disk(WHOLE), slots=4, batch_tokens=512)
    bench.submit("a", SHARED, max_tokens=4, n=2)
    bench.turn()
    assert bench.context.batch.size > 150
    bench.drain()
