"""Whatever is guessed, and however wrongly, every request gets what it would get without."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.events import Finished
from shimmy.core.ipc import Abort, Pause, Resume
from shimmy.core.request import Speculative
from shimmy.worker.drafting import drafts
from shimmy.worker.drafting.acceptance import RowCosts
from shimmy.worker.drafting.drafts import MAX_DRAFT_TOKENS, MAX_STEP_TOKENS, Drafter, Drafting
from shimmy.worker.drafting.lookup import LookupDrafter
from shimmy.worker.llama.context import KVCacheFull
from shimmy.worker.prefix_states import Reuse
from tests.worker.drafting.fakes import FreeRows, SteadyRows, WildDrafter
from tests.worker.test_loop import COMMANDS, VOCABULARY, Bench, assert_as_alone, expected, talkative, workload


def drafting(drafter: Drafter, *, costs: RowCosts | None = None) -> Drafting:
    return Drafting({"ngram": drafter}, "ngram", costs or FreeRows())


def wild(truth: float, seed: int = 0, *, is_free: bool = True) -> WildDrafter:
    return WildDrafter(random.Random(seed), VOCABULARY, truth, is_free=is_free)


@given(
    st.integers(1, 12),
    st.sampled_from([Reuse(), Reuse(window=8), Reuse(window=50)]),
    st.integers(1, 6),
    st.integers(8, 64),
    st.integers(130, 600),
    st.sampled_from([0, 0.5, 0.9, 1, None]),
    st.sampled_from([0, 1000, 10**6]),
    st.integers(0, 2**32),
)
def test_drafts_change_nothing(
    count: int,
    reuse: Reuse,
    slots: int,
    batch_tokens: int,
    context_length: int,
    truth: float | None,
    ram_bytes: int,
    seed: int,
) -> None:
    """Any mix of prompts, choices, arrivals, pauses, cancels, evictions and preemptions, in a cache too small for them;
    drafts are right, wrong, or of prompt lookup."""
    dice = random.Random(seed)
    specs = workload(count, dice)
    drafter = LookupDrafter() if truth is None else WildDrafter(dice, VOCABULARY, truth, is_free=dice.random() < 0.5)
    bench = Bench(
        context_length=context_length,
        slots=slots,
        batch_tokens=max(batch_tokens, slots),
        ram_bytes=ram_bytes,
        max_idle_cells=dice.choice([0, 50, 1 << 30]),
        drafting=drafting(drafter, costs=dice.choice([FreeRows(), RowCosts()])),
        reuse=reuse,
        num_holders=dice.choice([1, 4, 40]),
        seed=seed,
    )
    cancelled = set()
    for number, spec in enumerate(specs):
        limit = Speculative(n_max=dice.choice([None, 0, 1, 64]))
        bench.submit(
            str(number), spec.prompt, max_tokens=spec.max_tokens, n=spec.n, tenant=spec.tenant, speculative=limit
        )
        for _ in range(dice.choice([0, 1, 2, 50])):
            bench.turn()
        victim = str(dice.randrange(number + 1))
        command = dice.choice(COMMANDS)(victim)
        bench.commands.put(command)
        if isinstance(command, Abort):
            cancelled.add(victim)
        if dice.random() < 0.2:
            bench.cache.check()
    for number in range(len(specs)):
        bench.commands.put(Resume(str(number)))
    bench.drain()
    for number, spec in enumerate(specs):
        if str(number) not in cancelled:
            assert_as_alone(bench, str(number), spec)
    bench.assert_clean()
    assert not bench.loop._scheduler._drafting._drafts, "drafts leaked"


def test_what_is_right_costs_fewer_steps() -> None:
    bench = Bench(drafting=drafting(wild(1.0)))
    bench.submit("r", talkative(3), max_tokens=30)
    bench.drain()
    usage = bench.finished("r").usage
    assert bench.text("r") == expected(talkative(3), 30, 4096)[0]
    assert bench.context.num_decodes <= 4
    assert usage.drafted_tokens == usage.accepted_tokens == 30 - bench.context.num_decodes


def test_what_is_wrong_is_not_accepted_and_soon_not_computed() -> None:
    bench = Bench(drafting=drafting(wild(0.0), costs=SteadyRows()))
    bench.submit("r", talkative(3), max_tokens=30)
    bench.drain()
    usage = bench.finished("r").usage
    assert bench.text("r") == expected(talkative(3), 30, 4096)[0]
    assert usage.accepted_tokens <= usage.drafted_tokens <= 9
    assert bench.context.num_computed <= 3 + 29 + 9


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_a_limit_within_a_draft_ends_where_it_would(max_tokens: int) -> None:
    bench = Bench(drafting=drafting(wild(1.0)))
    bench.submit("r", talkative(5), max_tokens=max_tokens)
    bench.drain()
    assert (bench.text("r"), bench.finished("r").reason) == expected(talkative(5), max_tokens, 4096)[:2]
    assert bench.finished("r").usage.completion_tokens == max_tokens
    assert bench.cache.num_used == 3 + max_tokens - 1, "what is kept is what was computed without drafts"


def test_a_stop_string_within_a_draft_ends_where_it_would() -> None:
    whole = expected(talkative(11), 30, 4096)[0]
    third = whole.index("<", whole.index("<", 1) + 1)
    stop = whole[third - 1 : third + 2]
    bench = Bench(drafting=drafting(wild(1.0)))
    bench.submit("s", talkative(11), max_tokens=30, stop=[stop])
    bench.drain()
    assert (bench.text("s"), bench.finished("s").stop) == (whole[: whole.index(stop)], stop)
    bench.assert_clean()


def test_the_end_token_within_a_draft_ends_where_it_would() -> None:
    prompt = next([7, b] for b in range(1, 40) if 2 < expected([7, b], 30, 4096)[2] < 10)
    bench = Bench(drafting=drafting(wild(1.0)))
    bench.submit("e", prompt, max_tokens=30)
    bench.drain()
    assert (bench.text("e"), bench.finished("e").reason) == expected(prompt, 30, 4096)[:2]


def test_a_full_context_ends_where_it_would() -> None:
    bench = Bench(context_length=20, drafting=drafting(wild(1.0)))
    bench.submit("f", talkative(5), max_tokens=30)
    bench.drain()
    assert (bench.text("f"), bench.finished("f").reason) == expected(talkative(5), 30, 20)[:2]
    bench.assert_clean()


def test_nobody_gives_cells_back_for_a_guess() -> None:
    """Two sequences fill the cache to the last cell; drafts would need more."""
    bench = Bench(context_length=26, slots=2, drafting=drafting(wild(0.0)))
    for number in (1, 2):
        bench.submit(str(number), talkative(number), max_tokens=10)
    bench.drain()
    usages = [bench.finished(name).usage for name in "12"]
    num_wasted = sum(usage.drafted_tokens - usage.accepted_tokens for usage in usages)
    assert num_wasted and bench.context.num_computed - num_wasted == 2 * (3 + 9), "nothing was computed twice"


def test_a_cache_that_is_full_although_it_counts_as_free_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(drafting=drafting(wild(0.8)))
    for number in (1, 2):
        bench.submit(str(number), talkative(number), max_tokens=20)
    bench.turn()
    decode = bench.context.decode

    def fail() -> None:
        monkeypatch.setattr(bench.context, "decode", decode)
        raise KVCacheFull

    monkeypatch.setattr(bench.context, "decode", fail)
    bench.drain()
    for number in (1, 2):
        assert bench.text(str(number)) == expected(talkative(number), 20, 4096)[0]
    bench.assert_clean()


def test_a_paused_request_is_not_drafted_and_goes_on_as_before() -> None:
    bench = Bench(drafting=drafting(wild(0.7)))
    bench.submit("slow", talkative(11), max_tokens=30)
    bench.turn()
    bench.commands.put(Pause("slow"))
    bench.drain()
    bench.commands.put(Resume("slow"))
    bench.drain()
    assert bench.text("slow") == expected(talkative(11), 30, 4096)[0]


def test_a_step_has_room_for_prompts_beside_drafts() -> None:
    bench = Bench(slots=8, batch_tokens=512, drafting=drafting(wild(1.0)))
    for number in range(8):
        bench.submit(str(number), talkative(number + 1), max_tokens=30)
    bench.turn()
    bench.turn()
    assert 8 < bench.context.batch.size <= 8 + MAX_STEP_TOKENS
    bench = Bench(slots=8, batch_tokens=16, drafting=drafting(wild(1.0)))
    for number in range(8):
        bench.submit(str(number), talkative(number + 1), max_tokens=30)
    bench.drain()
    assert bench.context.largest_batch <= 16


def test_requests_say_what_they_want() -> None:
    bench = Bench(drafting=drafting(wild(1.0)))
    for name, wish in {
        "default": Speculative(),
        "none": Speculative(type="none"),
        "zero": Speculative(n_max=0),
        "two": Speculative(n_max=2),
        "missing": Speculative(type="draft"),
    }.items():
        bench.submit(name, talkative(4), max_tokens=25, speculative=wish)
    bench.drain()
    drafted = {event.id: event.usage.drafted_tokens for event in bench.events if isinstance(event, Finished)}
    assert [name for name, count in drafted.items() if count] == ["default", "two"]
    assert {bench.text(name) for name in drafted} == {expected(talkative(4), 25, 4096)[0]}


def test_n_max_bounds_the_draft_of_a_step() -> None:
    bench = Bench(drafting=drafting(wild(1.0)))
    bench.submit("r", talkative(3), max_tokens=30, speculative=Speculative(n_max=2))
    bench.drain()
    assert bench.context.largest_batch == 3
    bench = Bench(drafting=drafting(wild(1.0)))
    bench.submit("r", talkative(3), max_tokens=30)
    bench.drain()
    assert bench.context.largest_batch == 1 + MAX_DRAFT_TOKENS


def test_guesses_that_cost_something_are_tried_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "RETRY_TOKENS", 10)

    class Dear(RowCosts):
        def least_chance(self, num_sequences: int, token_seconds: float) -> float:
            return 2.0

    drafter = wild(1.0, is_free=False)
    bench = Bench(drafting=drafting(drafter, costs=Dear()))
    bench.submit("r", talkative(3), max_tokens=30)
    bench.drain()
    assert drafter.num_asked == 3 and bench.finished("r").usage.drafted_tokens == 3 * 2
    free = wild(1.0)
    bench = Bench(drafting=drafting(free, costs=Dear()))
    bench.submit("r", talkative(3), max_tokens=30)
    bench.drain()
    assert bench.finished("r").usage.drafted_tokens == 0
