"""Whose turn it is: priorities, tenants, time in the queue, and who has to wait again when the cache is too small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.events import Event, Failed, Finished
from shimmy.core.ipc import Pause, Resume
from shimmy.core.request import Generation, Tokens
from shimmy.worker.sequence import Request
from tests.worker.test_loop import VOCABULARY, Bench, expected, talkative


def order(bench: Bench) -> list[str]:
    return [event.id for event in bench.events if isinstance(event, Finished)]


def failures(bench: Bench) -> list[tuple[str, str]]:
    return [(event.id, event.fault.code) for event in bench.events if isinstance(event, Failed)]


def ends(events: list[Event], name: str) -> int:
    return sum(isinstance(event, Finished | Failed) and event.id == name for event in events)


def busy_bench(slots: int = 1) -> Bench:
    """All slots are taken, for thirty steps."""
    bench = Bench(slots=slots)
    for number in range(slots):
        bench.submit(f"busy {number}", talkative(number + 1), max_tokens=30, tenant="busy")
    bench.turn()
    return bench


def test_the_lowest_number_goes_first_and_equals_by_arrival() -> None:
    bench = busy_bench()
    for name, priority in {"a": 0, "b": 7, "c": -3, "d": 0}.items():
        bench.submit(name, [3, 5], max_tokens=2, priority=priority)
    bench.drain()
    assert order(bench) == ["busy 0", "c", "a", "d", "b"]


def test_a_slot_goes_to_the_tenant_that_has_the_fewest() -> None:
    bench = Bench(slots=2)
    for number in range(6):
        bench.submit(f"many {number}", talkative(number + 1), max_tokens=9, tenant="greedy")
    bench.turn()
    bench.submit("one", [3, 5], max_tokens=2, tenant="modest")
    bench.drain()
    assert order(bench)[:3] == ["many 0", "many 1", "one"]


def test_priority_orders_the_requests_of_one_tenant_and_overtakes_no_other() -> None:
    bench = Bench(slots=2)
    bench.submit("other", talkative(1), max_tokens=30, tenant="other")
    for number in range(3):
        bench.submit(f"pushy {number}", talkative(2), max_tokens=5, tenant="pushy", priority=-(2**31))
    bench.submit("patient", talkative(3), max_tokens=5, tenant="patient", priority=2**31 - 1)
    bench.drain()
    assert order(bench)[:2] == ["pushy 0", "patient"]


def test_tenants_take_turns_where_there_is_one_slot() -> None:
    bench = busy_bench()
    for number in range(3):
        bench.submit(f"a{number}", talkative(1), max_tokens=3, tenant="a", priority=-1)
    for number in range(2):
        bench.submit(f"b{number}", talkative(2), max_tokens=3, tenant="b")
    bench.submit("busy 1", talkative(3), max_tokens=3, tenant="busy", priority=-9)
    bench.drain()
    assert order(bench) == ["busy 0", "a0", "b0", "busy 1", "a1", "b1", "a2"]


def test_priority_decides_about_the_prompts_of_a_step() -> None:
    bench = Bench(batch_tokens=16)
    bench.submit("later", [7] * 20, max_tokens=1)
    bench.submit("urgent", [8] * 200, max_tokens=1, priority=-1)
    bench.drain()
    assert order(bench) == ["urgent", "later"]


def test_a_turn_that_does_not_come_in_time_is_a_failure() -> None:
    bench = busy_bench()
    bench.submit("late", [3, 5], queue_seconds=0.001)
    bench.submit("patient", [3, 6], max_tokens=2)
    bench.turn()
    assert failures(bench) == [("late", "queue_timeout")]
    bench.drain()
    assert order(bench) == ["busy 0", "patient"]
    bench.assert_clean()


def test_who_can_run_at_once_is_never_late() -> None:
    bench = Bench()
    bench.submit("now", talkative(3), max_tokens=9, queue_seconds=0.001)
    bench.drain()
    assert order(bench) == ["now"] and not failures(bench)


def test_one_that_has_begun_may_wait_again_as_long_as_it_takes() -> None:
    bench = Bench(context_length=48, slots=2)
    for name in "ab":
        bench.submit(name, talkative(ord(name)), max_tokens=30, queue_seconds=0.001)
    bench.drain()
    assert order(bench) == ["a", "b"] and not failures(bench)
    for name in "ab":
        assert bench.text(name) == expected(talkative(ord(name)), 30, 48)[0]


def test_choices_of_a_request_that_has_begun_are_in_time() -> None:
    bench = Bench(slots=1)
    bench.submit("a", talkative(4), max_tokens=5, n=3, queue_seconds=0.001)
    bench.drain()
    assert order(bench) == ["a"] * 3


def test_one_that_does_not_fit_holds_up_the_others_until_its_time_is_over() -> None:
    bench = Bench(context_length=64, slots=3)
    bench.submit("first", talkative(5), max_tokens=30)
    bench.turn()
    bench.submit("large", [9] * 62, max_tokens=1, queue_seconds=0.001)
    bench.submit("small", [3, 5], max_tokens=2)
    bench.drain()
    assert failures(bench) == [("large", "queue_timeout")]
    assert order(bench) == ["small", "first"]


def test_time_passes_while_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only slot belongs to a reader that is behind; no command comes that would wake the loop."""
    now = 100.0
    monkeypatch.setattr("shimmy.worker.loop.time.monotonic", lambda: now)
    bench = busy_bench()
    bench.commands.put(Pause("busy 0"))
    generation = Generation(id="late", model="m", prompt=Tokens([3]), queue_seconds=0.05)
    bench.commands.put(Request(generation, [3], [], now))
    while bench.turn():
        pass
    assert not failures(bench)
    bench.loop._receive(wait=True)
    now += 0.1
    bench.turn()
    assert failures(bench) == [("late", "queue_timeout")]
    bench.commands.put(Resume("busy 0"))
    bench.drain()
    assert order(bench) == ["busy 0"]


@pytest.mark.parametrize("urgent", ["older", "younger"])
def test_when_the_cache_is_too_small_the_lowest_priority_waits_again(urgent: str) -> None:
    bench = Bench(context_length=48, slots=2)
    for name in ("older", "younger"):
        bench.submit(name, talkative(len(name)), max_tokens=30, priority=0 if name == urgent else 1)
    bench.drain()
    assert order(bench)[0] == urgent
    for name in ("older", "younger"):
        assert bench.text(name) == expected(talkative(len(name)), 30, 48)[0]
    bench.assert_clean()


def test_when_the_cache_is_too_small_the_tenant_with_the_most_waits_again() -> None:
    bench = Bench(context_length=72, slots=3)
    bench.submit("a1", talkative(1), max_tokens=30, tenant="a", priority=-5)
    bench.submit("a2", talkative(2), max_tokens=30, tenant="a", priority=-5)
    bench.submit("b", talkative(3), max_tokens=30, tenant="b", priority=5)
    bench.drain()
    assert order(bench)[-1] == "a2"
    assert [bench.text(name) for name in ("a1", "a2", "b")] == [
        expected(talkative(number), 30, 72)[0] for number in (1, 2, 3)
    ]


jobs = st.lists(
    st.tuples(
        st.integers(1, 100), st.integers(1, 40), st.integers(1, 3), st.integers(-1, 1), st.sampled_from(["", "a", "b"])
    ),
    min_size=2,
    max_size=10,
)


@given(jobs, st.integers(2, 6), st.integers(110, 200))
def test_however_short_the_cache_is_every_request_ends_once_and_as_it_would_alone(
    specs: list[tuple[int, int, int, int, str]], slots: int, context_length: int
) -> None:
    bench = Bench(context_length=context_length, slots=slots)
    prompts = [
        [(number * 7 + at * at) % (VOCABULARY - 1) + 1 for at in range(spec[0])] for number, spec in enumerate(specs)
    ]
    for number, (_, max_tokens, n, priority, tenant) in enumerate(specs):
        bench.submit(str(number), prompts[number], max_tokens=max_tokens, n=n, priority=priority, tenant=tenant)
        bench.turn()
    bench.drain()
    for number, (_, max_tokens, n, _, _) in enumerate(specs):
        assert ends(bench.events, str(number)) == n
        text, _, _ = expected(prompts[number], max_tokens, context_length)
        assert [bench.text(str(number), index) for index in range(n)] == [text] * n
    bench.assert_clean()
