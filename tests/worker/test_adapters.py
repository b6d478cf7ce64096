"""Which adapters a request wants, over a fake context: whatever is mixed, each gets what it would get alone, and what
was computed with other adapters is never taken over."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.core.events import Finished
from shimmy.core.ipc import Adapter, Pause, Resume
from shimmy.core.request import Generation, LoraScale, Tokens
from shimmy.worker.adapters import Adapters, AdapterSet
from shimmy.worker.prefix_states import Reuse
from shimmy.worker.scheduler import TURN_SECONDS
from shimmy.worker.sequence import Request
from tests.worker.fake_context import next_token
from tests.worker.test_loop import END, VOCABULARY, Bench, talkative

ADAPTERS = Adapters([Adapter("poet", "p", 0.5), Adapter("critic", "c", 0.0), Adapter("clerk", "k")])
WINDOW, WHOLE = Reuse(window=6), Reuse(whole=True)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, ((0, 0.5), (2, 1.0))),
        ([], ()),
        ([LoraScale(id=1)], ((1, 1.0),)),
        ([LoraScale(name="clerk", scale=-0.25), LoraScale(id=0, scale=2)], ((0, 2.0), (2, -0.25))),
        ([LoraScale(name="poet", scale=0)], ()),
    ],
)
def test_what_a_request_wants(asked: list[LoraScale] | None, wanted: AdapterSet) -> None:
    assert ADAPTERS.resolve(asked) == wanted


@pytest.mark.parametrize(
    ("asked", "param", "reason"),
    [
        ([LoraScale(name="Poet")], "lora[0].name", "no adapter 'Poet'; there are: poet, critic, clerk"),
        ([LoraScale(id=0), LoraScale(id=3)], "lora[1].id", "no adapter 3; there are: poet, critic, clerk"),
        ([LoraScale()], "lora[0]", "either an id or a name is required"),
        ([LoraScale(id=0, name="poet")], "lora[0]", "either an id or a name is required"),
        ([LoraScale(id=0), LoraScale(name="poet")], "lora[1]", "'poet' stands there twice"),
    ],
)
def test_what_it_cannot_want(asked: list[LoraScale], param: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as raised:
        ADAPTERS.resolve(asked)
    assert raised.value.param == param


def test_a_model_without_adapters_has_none_to_name() -> None:
    assert Adapters().resolve(None) == Adapters().resolve([]) == ()
    with pytest.raises(RequestError, match="no adapter 0; there are: none"):
        Adapters().resolve([LoraScale(id=0)])


def test_what_is_shared() -> None:
    """The same adapters at the same scales, and nothing else; without any it is what it was without adapters at all."""
    sets: list[AdapterSet] = [(), ((0, 1.0),), ((0, 0.5),), ((1, 1.0),), ((0, 1.0), (1, 1.0)), ((0, 11.0),)]
    names = [ADAPTERS.namespace(tenant, each) for each in sets for tenant in ("", "a")]
    assert len(set(names)) == len(names)
    assert (ADAPTERS.namespace("a", ()), ADAPTERS.namespace("", ())) == ("a", "")
    # What lies on a disk is found by what a file holds, not by its place in the list.
    one = Adapters([Adapter("x", "x"), Adapter("y", "y")], digests=["dx", "dy"]).namespace("a", ((1, 1.0),))
    other = Adapters([Adapter("z", "y")], digests=["dy"]).namespace("a", ((0, 1.0),))
    assert one == other


def expected(prompt: list[int], max_tokens: int, adapters: AdapterSet) -> str:
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens and (token := next_token(tokens, VOCABULARY, adapters)) != END:
        tokens.append(token)
    return "".join(f"<{token}>" for token in tokens[len(prompt) :])


def submit(bench: Bench, name: str, prompt: list[int], adapters: AdapterSet, max_tokens: int = 20, **more: Any) -> None:
    generation = Generation(id=name, model="m", prompt=Tokens(prompt), max_tokens=max_tokens, **more)
    bench.now += 1.0
    namespace = ADAPTERS.namespace("", adapters)
    bench.commands.put(Request(generation, prompt, [], bench.now, namespace=namespace, adapters=adapters))


sets = st.sampled_from([(), ((0, 1.0),), ((0, 0.5),), ((0, 1.0), (2, 1.0))])
prompts = st.lists(st.integers(1, 3), min_size=1, max_size=60)


@given(
    requests=st.lists(st.tuples(prompts, sets, st.integers(1, 12), st.integers(0, 4)), min_size=1, max_size=8),
    reuse=st.sampled_from([Reuse(), WINDOW, WHOLE]),
    ram_bytes=st.sampled_from([0, 1 << 20]),
    seed=st.integers(0, 1000),
)
def test_each_gets_what_it_would_get_alone(
    requests: list[tuple[list[int], AdapterSet, int, int]], reuse: Reuse, ram_bytes: int, seed: int
) -> None:
    """With so few different tokens prompts begin alike, and with so few cells somebody has to give way."""
    bench = Bench(context_length=160, batch_tokens=16, reuse=reuse, ram_bytes=ram_bytes, seed=seed)
    for number, (prompt, adapters, max_tokens, steps) in enumerate(requests):
        submit(bench, str(number), prompt, adapters, max_tokens)
        for _ in range(steps):
            bench.turn()
    bench.drain()
    for number, (prompt, adapters, max_tokens, _) in enumerate(requests):
        assert bench.text(str(number)) == expected(prompt, max_tokens, adapters)


def test_only_the_same_adapters_share_a_prefix() -> None:
    bench, prompt = Bench(), talkative(1) + [7] * 40
    for number, adapters in enumerate([(), ((0, 1.0),), ((0, 1.0),), ((0, 0.5),), ()]):
        submit(bench, str(number), prompt, adapters, max_tokens=4)
        bench.drain()
    cached = [bench.finished(str(number)).usage.cached_tokens for number in range(5)]
    assert cached == [0, 0, len(prompt) - 1, 0, len(prompt) - 1]


def every_look_takes(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both clocks go on by so much whenever they are looked at."""
    now = itertools.count(1)
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(f"shimmy.worker.loop.time.{clock}", lambda: seconds * next(now))


def switches(monkeypatch: pytest.MonkeyPatch, tick: float, wanted: list[AdapterSet]) -> list[AdapterSet]:
    """The sets of 30 steps, where every look at the clock takes so long, and that is several times a step."""
    every_look_takes(tick, monkeypatch)
    bench, seen = Bench(slots=len(wanted)), []
    for number, adapters in enumerate(wanted):
        submit(bench, str(number), talkative(number + 1), adapters, max_tokens=30)
    for _ in range(30):
        bench.turn()
        seen.append(bench.context.adapters)
    return seen


def test_sets_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sequences one of them has: of three sets each gets every third step, where steps are long."""
    wanted: list[AdapterSet] = [(), (), (), (), (), ((0, 1.0),), ((2, 1.0),)]
    seen = switches(monkeypatch, TURN_SECONDS, wanted)
    assert all(set(seen[at : at + 3]) == set(wanted) for at in range(len(seen) - 3))


def test_a_turn_is_worth_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where steps are short one set goes on for some of them, but not for ever."""
    seen = switches(monkeypatch, TURN_SECONDS / 20, [(), ((0, 1.0),)])
    turns = [len(list(steps)) for _, steps in itertools.groupby(seen)]
    # Before one of the answers ends.
    assert 2 < min(turns[:2]) and max(turns[:2]) < 10


def test_newcomers_do_not_push_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a scale of its own with every request, as many as there is room for, holds nobody up."""
    every_look_takes(TURN_SECONDS, monkeypatch)
    bench, steps = Bench(slots=3), 0
    submit(bench, "plain", talkative(1), (), max_tokens=20)
    while not any(isinstance(event, Finished) and event.id == "plain" for event in bench.events):
        submit(bench, str(steps), [1, 2], ((0, 1.0 + steps / 64),), max_tokens=1)
        bench.turn()
        steps += 1
    assert steps <= 3 * 20 + 3


def test_who_pauses_takes_no_turn() -> None:
    bench = Bench(slots=2)
    submit(bench, "plain", talkative(1), (), max_tokens=10)
    submit(bench, "lora", talkative(2), ((0, 1.0),), max_tokens=10)
    bench.turn()
    bench.commands.put(Pause("lora"))
    bench.drain()
    assert bench.finished("plain").usage.completion_tokens == 10
    bench.commands.put(Resume("lora"))
    bench.drain()
    assert bench.text("lora") == expected(talkative(2), 10, ((0, 1.0),))
