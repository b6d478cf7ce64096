"""The loop and its scheduler over a fake context: whatever is mixed, every request gets what it would get alone."""

import random
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.events import Echoed, Event, Failed, Finished, TextDelta, TokenLogprob
from shimmy.core.ipc import Abort, Events, Pause, Resume
from shimmy.core.request import Generation, Pooling, Tokens
from shimmy.worker.drafting.drafts import Drafting
from shimmy.worker.echo import Echo
from shimmy.worker.embedding import Embedder
from shimmy.worker.llama.context import DecodeFailed
from shimmy.worker.loop import Closed, Command, Loop
from shimmy.worker.pacing import Pacer
from shimmy.worker.prefix_cache import PrefixCache
from shimmy.worker.prefix_states import LastingTier, RamTier, Reuse
from shimmy.worker.scheduler import Scheduler
from shimmy.worker.sequence import Request
from shimmy.worker.threads import ThreadGovernor
from tests.worker.fake_context import FakeContext, FakeSampler, next_token
from tests.worker.fake_pooled_context import FakePooledContext

VOCABULARY = 40
END = 0


def piece(token: int) -> bytes | None:
    return None if token == END else f"<{token}>".encode()


def expected(prompt: list[int], max_tokens: int, context_length: int) -> tuple[str, str, int]:
    """What the plain, one-sequence loop gives: (text, finish reason, tokens)."""
    tokens, text = list(prompt), ""
    while True:
        token = next_token(tokens, VOCABULARY)
        if token == END:
            return text, "stop", len(tokens) - len(prompt)
        tokens.append(token)
        text += f"<{token}>"
        if len(tokens) - len(prompt) >= max_tokens or len(tokens) >= context_length:
            return text, "length", len(tokens) - len(prompt)


def generated(prompt: list[int], max_tokens: int) -> list[int]:
    """The tokens of the answer to `prompt`."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens and (token := next_token(tokens, VOCABULARY)) != END:
        tokens.append(token)
    return tokens[len(prompt) :]


def talkative(first: int) -> list[int]:
    """A prompt that begins with `first` and generates at least 30 tokens."""
    return next(p for p in ([first, b, c] for b in range(40) for c in range(40)) if expected(p, 30, 4096)[2] == 30)


class SteadyPacer(Pacer):
    def budget(self, num_decoding: int) -> int:
        return 100


class Bench:
    """A loop with everything fake but the scheduling."""

    def __init__(
        self,
        *,
        context_length: int = 4096,
        slots: int = 4,
        batch_tokens: int = 64,
        pacer: Pacer | None = None,
        ram_bytes: int = 0,
        max_idle_cells: int = 1 << 30,
        disk: LastingTier | None = None,
        drafting: Drafting | None = None,
        **memory: Any,
    ):
        """`memory` goes to the fake context."""
        self.context = FakeContext(
            context_length=context_length, num_sequences=slots, batch_tokens=batch_tokens, **memory
        )
        self.ram = RamTier(ram_bytes, self.context.reuse)
        tiers = [self.ram] if ram_bytes else []
        self.cache = PrefixCache(self.context, self.context.reuse, tiers, max_idle_cells, disk)
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.events: list[Event] = []
        self.frames: list[list[Event]] = []
        self.samplers: list[FakeSampler] = []
        self.now = 0.0
        self.loop = Loop(
            self.context,
            Scheduler(self.context, self.cache, slots, pacer, drafting),
            ThreadGovernor(1, lambda: 0.0),
            self.commands,
            self._send,
            piece,
            lambda sampling, request, choice: self._make_sampler(),
            Embedder(self._make_pooled_context),
        )

    def _make_pooled_context(self, pooling: Pooling) -> FakePooledContext:
        return FakePooledContext(pooling, max_tokens=self.context.context_length)

    def _send(self, message: Events) -> None:
        self.frames.append(message.events)
        self.events += message.events

    def _make_sampler(self) -> FakeSampler:
        self.samplers.append(FakeSampler(self.context, VOCABULARY))
        return self.samplers[-1]

    def submit(
        self, name: str, prompt: list[int], *, max_tokens: int = 20, n: int = 1, stop: Iterable[str] = (), **more: Any
    ) -> None:
        """Requests arrive one second after the other."""
        generation = Generation(
            id=name, model="m", prompt=Tokens(prompt), max_tokens=max_tokens, num_choices=n, stop=list(stop), **more
        )
        self.now += 1.0
        echo = (
            Echo("".join(map(str, prompt)), [b"%d" % token for token in prompt]) if generation.echo_logprobs else None
        )
        self.commands.put(Request(generation, prompt, generation.stop, self.now, echo=echo))

    def turn(self) -> bool:
        self.loop._receive(wait=False)
        busy = self.loop.step()
        self.loop._emit()
        assert self.cache.num_used == self.context.num_used, "the cache miscounts its cells"
        return busy

    def drain(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.turn():
                return
        raise AssertionError("the loop never became idle")

    def text(self, name: str, index: int = 0) -> str:
        deltas = (event for event in self.events if isinstance(event, TextDelta))
        return "".join(event.text for event in deltas if event.id == name and event.index == index)

    def echoed(self, name: str) -> list[TokenLogprob]:
        events = (event for event in self.events if isinstance(event, Echoed) and event.id == name)
        return [token for event in events for token in event.tokens]

    def finished(self, name: str, index: int = 0) -> Finished:
        found = [e for e in self.events if isinstance(e, Finished) and (e.id, e.index) == (name, index)]
        assert len(found) == 1
        return found[0]

    def assert_clean(self) -> None:
        running = range(self.context.holders.start)
        assert not any(self.context.cells[slot] for slot in running), "cells leaked"
        assert not self.context.num_full, "room was not made in time"
        assert all(sampler.freed for sampler in self.samplers), "samplers leaked"
        used = self.cache.num_used
        self.cache._cells.check()
        assert self.cache.num_used == used, "the check found something wrong"


class Spec(NamedTuple):
    prompt: list[int]
    max_tokens: int
    n: int
    tenant: str


def workload(count: int, dice: random.Random) -> list[Spec]:
    """Prompts that begin alike, some with the answer to an earlier one in them."""
    tokens = [[dice.randrange(1, VOCABULARY) for _ in range(dice.randrange(1, 120))] for _ in range(3)]
    specs: list[Spec] = []
    for _ in range(count):
        base = dice.choice(tokens)
        if specs and dice.random() < 0.3:
            turn = dice.choice(specs)
            base = turn.prompt + generated(turn.prompt, turn.max_tokens)
        kept = base[: dice.choice([len(base), dice.randrange(len(base) + 1)])]
        prompt = kept + [dice.randrange(1, VOCABULARY) for _ in range(dice.choice([0, 1, 40]))]
        n, tenant = dice.choice([1, 1, 5]), dice.choice(["", "", "k"])
        specs.append(Spec(prompt[:120] or [1], dice.randrange(1, 30), n, tenant))
    return specs


LONGEST = 150  # tokens of a workload's prompt and its answer
COMMANDS: list[type[Pause] | type[Resume] | type[Abort]] = [Pause, Resume, Resume, Abort]
MEMORIES = [Reuse(), Reuse(window=8), Reuse(window=50), Reuse(whole=True)]


@given(
    st.integers(1, 12),
    st.sampled_from(MEMORIES),
    st.integers(1, 6),
    st.integers(8, 64),
    st.integers(130, 600),
    st.sampled_from([0, 1, 4, 40]),
    st.sampled_from([0, 1000, 10**6]),
    st.sampled_from([0, 130, 1 << 30]),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 2**32),
)
def test_mixing_changes_nothing(
    count: int,
    reuse: Reuse,
    slots: int,
    batch_tokens: int,
    context_length: int,
    num_holders: int,
    ram_bytes: int,
    first_cells: int,
    echoing: float,
    seed: int,
) -> None:
    """Any mix of prompts, choices, slots, sizes, arrivals, pauses and cancels equals each request on its own, in a
    memory that grows as in one that is short: one request alone always has room."""
    dice = random.Random(seed)
    chance = dice.choice([0.0, 0.5, 1.0])
    specs = workload(count, dice)
    bench = Bench(
        context_length=context_length,
        slots=slots,
        batch_tokens=max(batch_tokens, slots),
        ram_bytes=ram_bytes,
        max_idle_cells=dice.choice([0, 50, 1 << 30]),
        reuse=reuse,
        num_holders=num_holders,
        seed=seed,
        first_cells=first_cells,
        grows=lambda num_cells: num_cells <= LONGEST or random.Random(num_cells + seed).random() < chance,
    )
    cancelled = set()
    echoes = [random.Random(seed + number).random() < echoing for number in range(count)]
    for number, spec in enumerate(specs):
        fields: dict[str, Any] = {"logprobs": 0, "echo_logprobs": True} if echoes[number] else {}
        fields |= {"max_tokens": spec.max_tokens, "n": spec.n, "tenant": spec.tenant}
        bench.submit(str(number), spec.prompt, **fields)
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
            assert_told(bench, str(number), spec.prompt if echoes[number] else [])
    bench.assert_clean()


@pytest.mark.parametrize("seed", [4, 25, 34])
def test_a_memory_grows_once_idle_cells_are_given_up(seed: int) -> None:
    """Beside them it could not, and a prompt that would have had room alone failed."""
    given_mixture = test_mixing_changes_nothing.hypothesis.inner_test  # type: ignore[attr-defined]
    given_mixture(4, Reuse(), 1, 37, 130, 1, 0, 0, 0.0, seed)


def assert_told(bench: Bench, name: str, prompt: list[int]) -> None:
    """Each token of a prompt once, in order, by the logits of all that is before it."""
    told = bench.echoed(name)
    assert [token.bytes for token in told] == [b"%d" % token for token in prompt]
    likely = [-next_token(prompt[:at], VOCABULARY) for at in range(1, len(prompt))]
    assert [token.logprob for token in told] == ([None, *likely] if prompt else [])


def assert_as_alone(bench: Bench, name: str, spec: Spec) -> None:
    text, reason, count = expected(spec.prompt, spec.max_tokens, bench.context.context_length)
    for index in range(spec.n):
        finished = bench.finished(name, index)
        assert bench.text(name, index) == text
        assert (finished.reason, finished.usage.completion_tokens) == (reason, count)
        assert finished.usage.prompt_tokens == len(spec.prompt)
        assert 0 <= finished.usage.cached_tokens < len(spec.prompt)


def test_one_frame_per_step_carries_the_events_of_all() -> None:
    bench = Bench()
    for name in "abc":
        bench.submit(name, talkative(ord(name)), max_tokens=3)
    bench.drain()
    assert len(bench.frames) == bench.context.num_decodes == 3
    assert {event.id for event in bench.frames[1]} == {"a", "b", "c"}


def test_a_long_prompt_beside_a_running_stream_is_computed_in_small_chunks() -> None:
    bench = Bench(batch_tokens=512, pacer=SteadyPacer())
    bench.submit("running", talkative(2), max_tokens=30)
    bench.turn()
    bench.submit("long", [4] * 600, max_tokens=1)
    sizes = []
    for _ in range(5):
        bench.turn()
        sizes.append(bench.context.batch.size)
    assert sizes == [101] * 5
    assert len(bench.text("running").split("><")) == 6, "the stream got a token in every step"


def test_a_long_prompt_alone_uses_the_whole_batch() -> None:
    bench = Bench(batch_tokens=512)
    bench.submit("long", [4] * 600, max_tokens=1)
    bench.turn()
    assert bench.context.batch.size == 512


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    bench = Bench(batch_tokens=64, context_length=4096)
    bench.submit("long", [4] * 2000, max_tokens=1)
    bench.submit("short", [9, 9], max_tokens=1)
    bench.turn()
    assert bench.finished("short")


def test_choices_share_one_prefill() -> None:
    bench = Bench(slots=8, batch_tokens=512)
    bench.submit("r", [7] * 400, max_tokens=2, n=8)
    bench.drain()
    assert bench.context.num_computed == 399 + 8 + 8, "each computed but the last token of the prompt and its own first"
    assert bench.context.num_decodes <= 4
    assert [bench.finished("r", index).usage.cached_tokens for index in range(8)] == [0] + [399] * 7


def test_more_requests_than_slots_wait_their_turn_by_arrival() -> None:
    bench = Bench(slots=1)
    for name in "abc":
        bench.submit(name, [3, ord(name)], max_tokens=2)
    bench.drain()
    assert [event.id for event in bench.events if isinstance(event, Finished)] == ["a", "b", "c"]


def test_a_request_with_many_choices_does_not_keep_others_waiting() -> None:
    bench = Bench(slots=2)
    bench.submit("many", talkative(3), max_tokens=20, n=10)
    bench.submit("one", [6, 7, 8], max_tokens=2)
    bench.drain()
    order = [event.id for event in bench.events if isinstance(event, Finished)]
    assert order.index("one") <= 2


def test_a_paused_request_stops_and_the_others_go_on() -> None:
    bench = Bench()
    bench.submit("slow", talkative(11), max_tokens=30)
    bench.submit("fast", talkative(13), max_tokens=10)
    bench.turn()
    bench.commands.put(Pause("slow"))
    bench.drain()
    assert bench.finished("fast")
    assert not [event for event in bench.events if isinstance(event, Finished) and event.id == "slow"]
    bench.commands.put(Resume("slow"))
    bench.drain()
    assert bench.text("slow") == expected(talkative(11), 30, 4096)[0]


def test_a_stop_string_across_tokens_ends_the_choice_and_is_not_sent() -> None:
    whole = expected(talkative(11), 30, 4096)[0]
    third = whole.index("<", whole.index("<", 1) + 1)
    stop = whole[third - 1 : third + 2]
    bench = Bench()
    bench.submit("s", talkative(11), max_tokens=30, stop=["never", stop])
    bench.drain()
    finished = bench.finished("s")
    assert (finished.reason, finished.stop) == ("stop", stop)
    assert bench.text("s") == whole[: whole.index(stop)]


def test_text_held_back_for_a_stop_string_is_sent_at_the_end() -> None:
    bench = Bench()
    bench.submit("s", talkative(11), max_tokens=3, stop=[expected(talkative(11), 3, 4096)[0] + "?"])
    bench.drain()
    assert bench.text("s") == expected(talkative(11), 3, 4096)[0]


@pytest.mark.parametrize("stop", [[], ["><"], ["1", "2>"]])
def test_tokens_make_the_text_also_of_those_that_had_to_give_their_cells_back(stop: list[str]) -> None:
    bench = Bench(context_length=40)
    names = [chr(ord("a") + number) for number in range(4)]
    for number, name in enumerate(names):
        bench.submit(name, talkative(number + 2), max_tokens=30, stop=stop, logprobs=0)
    bench.drain()
    for name in names:
        deltas = [event for event in bench.events if isinstance(event, TextDelta) and event.id == name]
        assert all(event.text or event.tokens for event in deltas)
        assert b"".join(token.bytes for event in deltas for token in event.tokens).decode() == bench.text(name)
        assert stop or len([token for event in deltas for token in event.tokens]) == 30


def test_a_stop_token_ends_a_choice_before_it() -> None:
    tokens = generated(talkative(11), 30)
    at = next(at for at, token in enumerate(tokens) if at > 3 and token not in tokens[:at])
    bench = Bench()
    bench.submit("s", talkative(11), max_tokens=30, stop_tokens=[tokens[at]])
    bench.drain()
    finished = bench.finished("s")
    assert (finished.reason, finished.stop, finished.usage.completion_tokens) == ("stop", None, at)
    assert bench.text("s") == "".join(f"<{token}>" for token in tokens[:at])


def test_a_failed_decode_fails_the_requests_of_the_batch_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(slots=1)
    bench.submit("bad", [5], max_tokens=5)
    bench.submit("good", [6], max_tokens=5)
    decode = bench.context.decode

    def fail() -> None:
        monkeypatch.setattr(bench.context, "decode", decode)
        raise DecodeFailed("llama_decode returned -1")

    monkeypatch.setattr(bench.context, "decode", fail)
    bench.drain()
    failed = [event for event in bench.events if isinstance(event, Failed)]
    assert [(event.id, event.fault.code) for event in failed] == [("bad", "internal_error")]
    assert bench.text("good") == expected([6], 5, 4096)[0]
    bench.assert_clean()


def test_a_request_that_could_not_be_prepared_is_reported_as_it_is() -> None:
    from shimmy.core.errors import RequestError

    bench = Bench()
    failed = Failed("x", RequestError("no", param="prompt").fault())
    bench.commands.put(failed)
    bench.turn()
    assert bench.events == [failed]


def test_the_loop_ends_when_the_server_is_gone() -> None:
    bench = Bench()
    bench.submit("r", [5], max_tokens=1000)
    bench.commands.put(Closed())
    bench.loop.run()
    assert not [event for event in bench.events if isinstance(event, Finished)]


def test_prompts_are_computed_on_all_threads_whatever_decoding_uses() -> None:
    bench = Bench()
    bench.loop._governor.max_threads = 4
    bench.submit("r", talkative(9), max_tokens=3)
    bench.turn()
    assert bench.context.num_threads == 4
    bench.turn()
    assert bench.context.num_threads == 1


def test_a_clock_that_stands_still_for_many_steps_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of Windows does."""
    monkeypatch.setattr("shimmy.worker.loop.time.monotonic", lambda: 100.0)
    bench, prompts = Bench(), [[7] * 100 + talkative(first) for first in (1, 2, 3)]
    for number, prompt in enumerate(prompts):
        bench.submit(str(number), prompt, max_tokens=20)
        for _ in range(8):
            bench.turn()
    bench.drain()
    for number, prompt in enumerate(prompts):
        assert bench.text(str(number)) == expected(prompt, 20, 4096)[0]
    bench.assert_clean()
