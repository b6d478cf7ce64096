"""The loop and its scheduler over a fake context: whatever is mixed, every request gets what it would get alone."""

import random
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.events import Accepted, Event, Failed, Finished, TextDelta
from shimmy.core.ipc import Abort, Events, Pause, Resume
from shimmy.core.request import Generation, Tokens
from shimmy.worker.llama.context import DecodeFailed
from shimmy.worker.loop import Closed, Command, Loop
from shimmy.worker.scheduler import Scheduler
from shimmy.worker.sequence import Request
from shimmy.worker.threads import ThreadGovernor
from tests.worker.fake_context import FakeContext, FakeSampler, next_token

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


def talkative(first: int) -> list[int]:
    """A prompt that begins with `first` and generates at least 30 tokens."""
    return next(p for p in ([first, b, c] for b in range(40) for c in range(40)) if expected(p, 30, 4096)[2] == 30)


class Bench:
    """A loop with everything fake but the scheduling."""

    def __init__(self, *, context_length: int = 4096, slots: int = 4, batch_tokens: int = 64, share: bool = True):
        self.context = FakeContext(context_length=context_length, num_sequences=slots, batch_tokens=batch_tokens)
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.events: list[Event] = []
        self.frames: list[list[Event]] = []
        self.samplers: list[FakeSampler] = []
        self.loop = Loop(
            self.context,
            Scheduler(self.context, slots, can_share_prefix=share),
            ThreadGovernor(1, lambda: 0.0),
            self.commands,
            self._send,
            piece,
            lambda sampling, request, choice: self._make_sampler(),
        )

    def _send(self, message: Events) -> None:
        self.frames.append(message.events)
        self.events += message.events

    def _make_sampler(self) -> FakeSampler:
        self.samplers.append(FakeSampler(self.context, VOCABULARY))
        return self.samplers[-1]

    def submit(
        self, name: str, prompt: list[int], *, max_tokens: int = 20, n: int = 1, stop: list[str] | None = None
    ) -> None:
        generation = Generation(
            id=name, model="m", prompt=Tokens(prompt), max_tokens=max_tokens, num_choices=n, stop=stop or []
        )
        self.commands.put(Request(generation, prompt, generation.stop, 0.0 + self.commands.qsize()))

    def turn(self) -> bool:
        self.loop._receive(wait=False)
        busy = self.loop.step()
        self.loop._emit()
        return busy

    def drain(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if not self.turn():
                return
        raise AssertionError("the loop never became idle")

    def text(self, name: str, index: int = 0) -> str:
        deltas = (event for event in self.events if isinstance(event, TextDelta))
        return "".join(event.text for event in deltas if event.id == name and event.index == index)

    def finished(self, name: str, index: int = 0) -> Finished:
        found = [e for e in self.events if isinstance(e, Finished) and (e.id, e.index) == (name, index)]
        assert len(found) == 1
        return found[0]

    def assert_clean(self) -> None:
        assert not any(self.context.cells.values()), "cells leaked"
        assert all(sampler.freed for sampler in self.samplers), "samplers leaked"


requests = st.lists(
    st.tuples(st.integers(1, 90), st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=12
)  # prompt length, max_tokens, choices


@given(requests, st.integers(1, 6), st.integers(8, 64), st.booleans(), st.integers(130, 600), st.integers(0, 2**32))
def test_mixing_changes_nothing(
    specs: list[tuple[int, int, int]], slots: int, batch_tokens: int, share: bool, context_length: int, seed: int
) -> None:
    """Any mix of prompts, choices, slots, batch sizes, cache sizes and pauses equals each request on its own."""
    dice = random.Random(seed)
    bench = Bench(context_length=context_length, slots=slots, batch_tokens=max(batch_tokens, slots), share=share)
    prompts = [[dice.randrange(1, VOCABULARY) for _ in range(length)] for length, _, _ in specs]
    for number, (prompt, (_, max_tokens, n)) in enumerate(zip(prompts, specs, strict=True)):
        bench.submit(str(number), prompt, max_tokens=max_tokens, n=n)
        for _ in range(dice.randrange(3)):
            bench.turn()
        victim = str(dice.randrange(number + 1))
        bench.commands.put(Pause(victim) if dice.random() < 0.5 else Resume(victim))
    for number in range(len(specs)):
        bench.commands.put(Resume(str(number)))
    bench.drain()
    for number, (prompt, (_, max_tokens, n)) in enumerate(zip(prompts, specs, strict=True)):
        for index in range(n):
            text, reason, count = expected(prompt, max_tokens, context_length)
            finished = bench.finished(str(number), index)
            assert bench.text(str(number), index) == text
            assert (finished.reason, finished.usage.completion_tokens) == (reason, count)
            assert finished.usage.prompt_tokens == len(prompt)
    bench.assert_clean()


@given(requests, st.integers(0, 2**32))
def test_aborting_any_request_leaves_the_others_whole(specs: list[tuple[int, int, int]], seed: int) -> None:
    dice = random.Random(seed)
    bench = Bench(context_length=400, slots=3)
    prompts = [[dice.randrange(1, VOCABULARY) for _ in range(length)] for length, _, _ in specs]
    for number, (prompt, (_, max_tokens, n)) in enumerate(zip(prompts, specs, strict=True)):
        bench.submit(str(number), prompt, max_tokens=max_tokens, n=n)
    for _ in range(dice.randrange(40)):
        bench.turn()
    aborted = dice.randrange(len(specs))
    before = len(bench.events)
    bench.commands.put(Abort(str(aborted)))
    bench.drain()
    assert not [
        event for event in bench.events[before:] if event.id == str(aborted) and not isinstance(event, Accepted)
    ]
    for number, (prompt, (_, max_tokens, n)) in enumerate(zip(prompts, specs, strict=True)):
        if number != aborted:
            assert [bench.text(str(number), index) for index in range(n)] == [expected(prompt, max_tokens, 400)[0]] * n
    bench.assert_clean()


def test_one_frame_per_step_carries_the_events_of_all() -> None:
    bench = Bench()
    for name in "abc":
        bench.submit(name, talkative(ord(name)), max_tokens=3)
    bench.drain()
    assert len(bench.frames) == bench.context.num_decodes == 3
    assert {event.id for event in bench.frames[1]} == {"a", "b", "c"}


def test_a_long_prompt_beside_a_running_stream_is_computed_in_small_chunks() -> None:
    bench = Bench(batch_tokens=512)
    bench.submit("running", talkative(2), max_tokens=30)
    bench.turn()
    bench.submit("long", [4] * 600, max_tokens=1)
    sizes = []
    for _ in range(5):
        bench.turn()
        sizes.append(bench.context.batch.size)
    assert max(sizes) <= 129
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
    computed = bench.context.largest_batch
    assert computed == 400
    assert bench.context.num_decodes <= 4


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
