"""What is used again and what is not, over a fake context: which tokens are computed, and what `cached_tokens` says."""

import random
from collections.abc import Sequence

import pytest

from shimmy.core.events import Failed
from shimmy.core.ipc import Abort, Pause, Resume
from shimmy.worker import loop
from shimmy.worker.llama.context import DecodeFailed, KVCacheFull
from shimmy.worker.loop import Closed
from shimmy.worker.pacing import Pacer
from shimmy.worker.prefix_states import Reuse
from tests.worker.test_loop import VOCABULARY, Bench, expected, generated

WINDOW = Reuse(window=30)
WHOLE = Reuse(whole=True)
RAM = 1 << 20


def prompt(length: int, seed: int, after: Sequence[int] = ()) -> list[int]:
    """So many tokens more, the first of which is the seed; the answer does not end for a while."""
    dice = random.Random(seed)
    while True:
        tokens = [*after, seed] + [dice.randrange(1, VOCABULARY) for _ in range(length - 1)]
        if len(generated(tokens, 12)) == 12:
            return tokens


def ask(bench: Bench, name: str, tokens: list[int], **more: object) -> int:
    """Has it answered; returns how many of its tokens were cached."""
    bench.submit(name, tokens, max_tokens=4, **more)  # type: ignore[arg-type]
    bench.drain()
    check(bench, name, tokens)
    bench.assert_clean()
    return bench.finished(name).usage.cached_tokens


def check(bench: Bench, name: str, tokens: list[int], max_tokens: int = 4) -> None:
    assert bench.text(name) == expected(tokens, max_tokens, bench.context.context_length)[0]


SHARED = prompt(100, 1)


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW, WHOLE])
def test_a_repeated_prompt_costs_one_token(reuse: Reuse) -> None:
    bench = Bench(reuse=reuse, ram_bytes=RAM)
    assert ask(bench, "cold", SHARED) == 0
    before = bench.context.num_computed
    assert ask(bench, "again", SHARED) == 99
    assert bench.context.num_computed - before == 1 + 3


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW, WHOLE])
def test_the_next_turn_of_a_chat_takes_over_the_answer_too(reuse: Reuse) -> None:
    bench = Bench(reuse=reuse, ram_bytes=RAM)
    ask(bench, "first", SHARED)
    answer = generated(SHARED, 4)
    assert ask(bench, "second", prompt(20, 2, SHARED + answer)) == 100 + 3, "the last token was never computed"


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW])
def test_what_prompts_begin_with_is_stored_once(reuse: Reuse) -> None:
    bench = Bench(reuse=reuse)
    ask(bench, "a", prompt(20, 2, SHARED))
    assert ask(bench, "b", prompt(20, 3, SHARED)) == 100
    assert bench.cache.num_used == 100 + 2 * (20 + 3)


def test_a_running_sequence_shares_what_it_has() -> None:
    bench = Bench()
    bench.submit("a", SHARED, max_tokens=12)
    for _ in range(4):
        bench.turn()
    assert ask(bench, "b", prompt(20, 2, SHARED)) == 100


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW, WHOLE])
@pytest.mark.parametrize("batch_tokens", [16, 512])
def test_two_that_arrive_together_compute_a_prefix_once(reuse: Reuse, batch_tokens: int) -> None:
    bench = Bench(reuse=reuse, ram_bytes=RAM, batch_tokens=batch_tokens)
    prompts = {"a": prompt(300, 2, SHARED), "b": prompt(5, 3, SHARED)}
    for name, tokens in prompts.items():
        bench.submit(name, tokens, max_tokens=4)
    bench.drain()
    for name, tokens in prompts.items():
        check(bench, name, tokens)
    assert bench.finished("b").usage.cached_tokens == 100
    assert bench.context.num_computed == 100 + (300 + 3) + (5 + 3)


def test_who_waits_for_a_prefix_does_not_wait_for_more() -> None:
    bench = Bench(batch_tokens=512)
    bench.submit("long", prompt(3000, 2, SHARED), max_tokens=4)
    bench.submit("short", prompt(5, 3, SHARED), max_tokens=1)
    bench.turn()
    assert bench.context.batch.size == 100, "the long one stops where they part"
    bench.turn()
    assert bench.cache.num_used == 100 + 512, "the short one runs, and shares 100 cells with the long one"
    bench.drain()
    assert bench.finished("short").usage.cached_tokens == 100


def test_a_long_prompt_does_not_stop_for_each_of_many() -> None:
    bench = Bench(batch_tokens=1024, slots=11)
    long = prompt(400, 2)
    bench.submit("long", long, max_tokens=1)
    for number in range(10):
        bench.submit(str(number), prompt(5, 3, long[: 60 + number]), max_tokens=1)
    bench.drain()
    assert bench.context.num_decodes == 2
    assert [bench.finished(str(number)).usage.cached_tokens for number in range(10)] == [60] * 10


def test_what_others_wait_for_is_computed_as_soon_as_their_own_would_be() -> None:
    class SlowPacer(Pacer):
        token_seconds = 1.0

    bench = Bench(batch_tokens=128, pacer=SlowPacer())
    bench.submit("first", prompt(1000, 2), max_tokens=1)
    bench.submit("long", prompt(1000, 4, SHARED), max_tokens=1)
    bench.submit("short", prompt(5, 3, SHARED), max_tokens=4)
    bench.turn()
    bench.turn()
    assert bench.text("short")
    bench.drain()
    check(bench, "short", prompt(5, 3, SHARED))


def test_nobody_waits_for_a_few_tokens() -> None:
    bench = Bench(batch_tokens=512)
    for name, last in {"a": 3, "b": 4}.items():
        bench.submit(name, SHARED[:15] + [last], max_tokens=1)
    bench.turn()
    assert bench.context.batch.size == 32


def test_nobody_waits_for_who_is_paused() -> None:
    bench = Bench(batch_tokens=50)
    bench.submit("a", SHARED, max_tokens=4)
    bench.submit("b", SHARED, max_tokens=4)
    bench.turn()
    bench.commands.put(Pause("a"))
    bench.drain()
    check(bench, "b", SHARED)
    assert bench.finished("b").usage.cached_tokens == 50, "what was computed before the pause is used"
    bench.commands.put(Resume("a"))
    bench.drain()
    check(bench, "a", SHARED)


def test_nobody_waits_for_who_is_gone() -> None:
    bench = Bench(batch_tokens=50)
    bench.submit("a", SHARED, max_tokens=4)
    bench.submit("b", SHARED, max_tokens=4)
    bench.turn()
    bench.commands.put(Abort("a"))
    bench.drain()
    check(bench, "b", SHARED)
    assert bench.finished("b").usage.cached_tokens == 50, "what was computed before the end is used"


def test_an_urgent_request_does_not_wait_for_a_less_urgent_one() -> None:
    bench = Bench(batch_tokens=50)
    bench.submit("later", SHARED, max_tokens=4, priority=1)
    bench.turn()
    bench.submit("now", SHARED, max_tokens=4)
    bench.submit("as urgent", SHARED, max_tokens=4)
    bench.drain()
    assert [bench.finished(name).usage.cached_tokens for name in ("now", "as urgent")] == [50, 99]


def test_tenants_share_nothing() -> None:
    bench = Bench(ram_bytes=RAM, batch_tokens=512)
    for tenant in "xy":
        bench.submit(f"{tenant} together", SHARED, max_tokens=4, tenant=tenant)
    bench.drain()
    assert bench.context.largest_batch == 200, "they are computed side by side"
    assert ask(bench, "z alone", SHARED, tenant="z") == 0
    assert ask(bench, "x again", SHARED, tenant="x") == 99


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW])
def test_what_left_the_cache_comes_back_from_ram(reuse: Reuse) -> None:
    bench = Bench(reuse=reuse, context_length=200, ram_bytes=RAM)
    ask(bench, "cold", SHARED)
    for seed in range(3, 6):
        ask(bench, f"other {seed}", prompt(150, seed))
    before = bench.context.num_computed
    assert ask(bench, "again", SHARED) == 99
    assert bench.context.num_computed - before == 1 + 3


def test_without_ram_it_is_computed_again() -> None:
    bench = Bench(context_length=200)
    ask(bench, "cold", SHARED)
    for seed in range(3, 6):
        ask(bench, f"other {seed}", prompt(150, seed))
    assert ask(bench, "again", SHARED) == 0


def test_the_ends_of_sequences_leave_before_what_they_share() -> None:
    bench = Bench(context_length=200)
    ask(bench, "a", prompt(30, 2, SHARED))
    ask(bench, "b", prompt(30, 3, SHARED))
    ask(bench, "c", prompt(60, 4))
    assert ask(bench, "d", prompt(30, 5, SHARED)) == 100


def cut(state: bytes) -> bytes:
    """What it has of the layers with a window begins two positions later than it should."""
    return (int.from_bytes(state[:4], "little") + 2).to_bytes(4, "little") + state[4:]


@pytest.mark.parametrize("damage", ["unreadable", "gone", "of another length", "cut"])
def test_a_state_that_cannot_be_used_is_a_miss(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reuse = WINDOW if damage == "cut" else Reuse()
    bench = Bench(reuse=reuse, context_length=200, ram_bytes=RAM)
    ask(bench, "cold", SHARED)
    for seed in range(3, 6):
        ask(bench, f"other {seed}", prompt(150, seed))
    load = bench.context.load_state
    match damage:
        case "unreadable":
            monkeypatch.setattr(bench.context, "load_state", lambda sequence, state: False)
        case "gone":
            monkeypatch.setattr(bench.ram, "fetch", lambda hit: None)
        case "of another length":
            monkeypatch.setattr(bench.context, "load_state", lambda sequence, state: load(sequence, state[:-4]))
        case "cut":
            monkeypatch.setattr(bench.context, "load_state", lambda sequence, state: load(sequence, cut(state)))
    assert ask(bench, "again", SHARED) == 0


def test_what_comes_back_beside_its_own_beginning_is_stored_once() -> None:
    bench = Bench(context_length=400, slots=2, ram_bytes=RAM, batch_tokens=32)
    long = prompt(60, 2, SHARED)
    ask(bench, "long", long)
    ask(bench, "other", prompt(390, 3))
    bench.submit("running", prompt(20, 4, SHARED), max_tokens=12)
    bench.turn()
    bench.submit("longer", prompt(100, 5, long), max_tokens=4)
    bench.turn()
    assert bench.cache.num_used == 100 + (20 + 1) + 60 + 31
    bench.drain()
    assert bench.finished("longer").usage.cached_tokens == 160


def test_what_is_taken_over_counts_for_who_fits() -> None:
    bench = Bench(context_length=300, slots=2)
    ask(bench, "shared", SHARED)
    bench.submit("large", prompt(180, 2), max_tokens=4)
    bench.submit("waits", prompt(60, 3, SHARED), max_tokens=4)
    bench.turn()
    assert len(bench.loop._scheduler._running) == 1, "100 cells that are there and 60 more do not fit beside 180"
    bench.drain()
    check(bench, "waits", prompt(60, 3, SHARED))


def test_a_state_for_which_there_is_no_room_is_not_restored() -> None:
    bench = Bench(context_length=400, ram_bytes=RAM, slots=2)
    ask(bench, "cold", prompt(250, 2, SHARED))
    for seed in range(3, 6):
        ask(bench, f"other {seed}", prompt(350, seed))
    bench.submit("large", prompt(200, 7), max_tokens=12)
    bench.turn()
    assert ask(bench, "again", SHARED + [5]) == 0, "the state has 350 tokens, and 200 cells are free"
    check(bench, "large", prompt(200, 7), 12)


def test_what_was_cancelled_is_used_again() -> None:
    bench = Bench(batch_tokens=50)
    bench.submit("a", SHARED, max_tokens=4)
    bench.turn()
    bench.commands.put(Abort("a"))
    assert ask(bench, "b", SHARED) == 50


def test_what_failed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(batch_tokens=50)
    bench.submit("a", SHARED, max_tokens=4)
    bench.turn()

    def fail() -> None:
        monkeypatch.undo()
        raise DecodeFailed("llama_decode returned -3")

    monkeypatch.setattr(bench.context, "decode", fail)
    bench.turn()
    assert ask(bench, "b", SHARED) == 0


@pytest.mark.parametrize("kept", [True, False])
def test_cells_that_are_short_against_all_expectation_are_reclaimed(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    if kept:
        ask(bench, "kept", prompt(50, 2))

    def fail() -> None:
        monkeypatch.undo()
        raise KVCacheFull

    monkeypatch.setattr(bench.context, "decode", fail)
    bench.submit("a", SHARED, max_tokens=4)
    bench.drain()
    if kept:
        check(bench, "a", SHARED)
    else:
        assert [event.fault.code for event in bench.events if isinstance(event, Failed)] == ["internal_error"]


def test_who_had_to_wait_again_goes_on_where_it_was() -> None:
    bench = Bench(context_length=130, slots=2, ram_bytes=RAM)
    prompts = {"a": prompt(60, 2), "b": prompt(60, 3)}
    for name, tokens in prompts.items():
        bench.submit(name, tokens, max_tokens=12)
    bench.drain()
    for name, tokens in prompts.items():
        check(bench, name, tokens, 12)
        assert bench.finished(name).usage.cached_tokens == 0, "it counts what was there at first"
    assert 0 <= bench.context.num_computed - 2 * (60 + 11) < 16, "hardly anything was computed twice"


def test_a_window_that_was_overwritten_is_not_used() -> None:
    """A sequence alone loses what is out of its sight; it shares what its window at the end still reaches."""
    bench = Bench(reuse=WINDOW, num_holders=1, seed=3)
    ask(bench, "long", prompt(100, 2, SHARED))
    holder = bench.context.holders.start
    while bench.context.first_position(holder) < 100:
        ask(bench, "other", [5], tenant="other")
        bench.events.clear()
        bench.context.overwrite()
    assert ask(bench, "again", prompt(100, 2, SHARED)) in (0, 199)
    assert ask(bench, "part", SHARED + [7]) == 0


def test_a_prompt_keeps_its_window_while_its_answer_goes_on() -> None:
    bench = Bench(reuse=WINDOW, seed=5)
    bench.submit("a", SHARED, max_tokens=12)
    bench.drain()
    for _ in range(300):
        bench.context.overwrite()
    assert ask(bench, "again", SHARED) == 99


def test_what_remains_of_an_evicted_end_is_kept_only_with_its_window(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(reuse=WINDOW, num_holders=1, seed=3)
    ask(bench, "a", SHARED)
    assert bench.cache.num_used == 103
    for _ in range(300):
        bench.context.overwrite()
    bench.cache.evict()
    bench.cache.check()
    assert bench.cache.num_used == bench.context.num_used == 0
    assert not caplog.text


def test_what_failed_leaves_its_prompt_only_with_its_window(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(reuse=Reuse(window=8), num_holders=1, slots=2, seed=3)
    ask(bench, "takes the holder", prompt(50, 2))
    bench.submit("fails", SHARED, max_tokens=12)
    for _ in range(12):
        bench.turn()
    for _ in range(300):
        bench.context.overwrite()

    def fail() -> None:
        monkeypatch.undo()
        raise DecodeFailed("llama_decode returned -3")

    bench.submit("fails too", [5], max_tokens=4)
    monkeypatch.setattr(bench.context, "decode", fail)
    bench.drain()
    bench.cache.check()
    assert not caplog.text
    assert ask(bench, "again", SHARED) == 0


def test_recurrent_prompts_are_saved_where_they_part() -> None:
    bench = Bench(reuse=WHOLE, ram_bytes=RAM)
    assert ask(bench, "first", prompt(40, 2, SHARED)) == 0
    assert ask(bench, "second", prompt(40, 3, SHARED)) == 0, "the state at the end of the first is of no use"
    assert ask(bench, "third", prompt(40, 4, SHARED)) == 100


def test_recurrent_choices_share_the_prompt() -> None:
    bench = Bench(reuse=WHOLE, ram_bytes=RAM, slots=8)
    bench.submit("a", SHARED, max_tokens=4, n=4)
    bench.drain()
    assert [bench.finished("a", index).usage.cached_tokens for index in range(4)] == [0, 99, 99, 99]


def test_recurrent_prompts_without_ram_wait_for_nobody() -> None:
    bench = Bench(reuse=WHOLE, slots=4, batch_tokens=512)
    bench.submit("a", SHARED, max_tokens=4, n=4)
    bench.drain()
    assert [bench.finished("a", index).usage.cached_tokens for index in range(4)] == [0, 0, 0, 0]
    assert bench.context.num_decodes == 4


def test_idle_cells_go_to_ram_when_they_slow_others_down() -> None:
    bench = Bench(ram_bytes=RAM, max_idle_cells=120)
    ask(bench, "a", prompt(90, 2))
    ask(bench, "b", prompt(90, 3))
    assert bench.cache.num_used == 2 * 93, "nobody is slowed down"
    bench.submit("c", prompt(90, 4), max_tokens=12)
    bench.submit("d", prompt(90, 5), max_tokens=2)
    bench.drain()
    assert bench.cache.num_used == 101 + 91, "when d ended, c was running"
    bench.cache.check()
    assert bench.cache.num_used <= 120
    assert ask(bench, "again", prompt(90, 2)) == 89


def test_few_holders_keep_what_was_used_last() -> None:
    bench = Bench(num_holders=2)
    for seed in (2, 3, 4):
        ask(bench, str(seed), prompt(50, seed))
    assert [ask(bench, f"{seed} again", prompt(50, seed)) for seed in (4, 3)] == [49, 49]
    assert ask(bench, "2 again", prompt(50, 2)) == 0


def test_a_holder_that_others_stand_in_for_is_the_first_to_go() -> None:
    bench = Bench(num_holders=2)
    ask(bench, "a", SHARED)
    turn = prompt(20, 2, SHARED + generated(SHARED, 4))
    ask(bench, "b", turn)
    ask(bench, "c", prompt(50, 3))
    assert ask(bench, "b again", turn) == len(turn) - 1


@pytest.mark.parametrize("reuse", [Reuse(), WINDOW])
def test_the_check_drops_what_llama_no_longer_has(reuse: Reuse, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(reuse=reuse)
    ask(bench, "lost", SHARED)
    ask(bench, "kept", prompt(50, 2))
    for holder in bench.context.holders:
        if len(bench.context.cells[holder]) > 60:
            bench.context.forget(holder, 40)
    bench.cache.check()
    assert "is dropped" in caplog.text and bench.cache.num_used == bench.context.num_used == 53
    assert ask(bench, "lost again", SHARED) == 0
    assert ask(bench, "kept again", prompt(50, 2)) == 49


def test_the_check_drops_a_tree_that_contradicts_itself(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    ask(bench, "a", SHARED)
    bench.submit("b", SHARED, max_tokens=12)
    bench.turn()
    bench.cache._cells._tree.num_locked += 1
    bench.cache.check()
    assert "inconsistent" in caplog.text
    assert bench.cache.num_used == bench.context.num_used, "who runs keeps what it has"
    bench.drain()
    check(bench, "b", SHARED, 12)
    assert ask(bench, "c", SHARED) == 99


def test_the_check_runs_once_when_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK_AFTER_SECONDS", 0.01)
    bench = Bench()
    checks = []

    def note() -> None:
        checks.append(bench.finished("a").reason)
        bench.commands.put(Closed())

    monkeypatch.setattr(bench.loop._scheduler, "check", note)
    bench.submit("a", SHARED, max_tokens=4)
    bench.loop.run()
    assert checks == ["length"]
