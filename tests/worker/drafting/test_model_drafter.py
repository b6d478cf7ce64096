"""The draft model's side: its cache keeps in step with the sequences, whatever happens to them or to it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.core.errors import ModelInvalid
from shimmy.core.ipc import Abort, Resume
from shimmy.core.request import Speculative
from shimmy.worker.drafting.drafts import Drafting
from shimmy.worker.drafting.model import LEAST_PROBABILITY, ModelDrafter, check_draft_model
from shimmy.worker.prefix_states import Reuse
from tests.worker.drafting.fakes import FreeRows
from tests.worker.fake_context import FakeContext, next_token
from tests.worker.test_loop import COMMANDS, VOCABULARY, Bench, assert_as_alone, expected, talkative, workload


class DraftContext(FakeContext):
    """Begins empty, whoever had it before."""

    def clear(self) -> None:
        for id in self.cells:
            self.forget(id)


class Draft:
    """A draft model that knows the right token, but is only sure of it with the chance `certainty`."""

    def __init__(
        self,
        *,
        slots: int = 4,
        certainty: float = 1.0,
        context_length: int = 4096,
        seed: int | None = None,
        **memory: object,
    ) -> None:
        self.context = DraftContext(context_length=context_length, num_sequences=slots, seed=seed, **memory)  # type: ignore[arg-type]
        self._dice = random.Random(seed)
        self._certainty = certainty
        self.drafter = ModelDrafter(self.context, self.context.reuse, self._pick, slots, VOCABULARY, lambda: 3)
        self.drafting = Drafting({"draft": self.drafter}, "draft", FreeRows())

    def _pick(self, handle: int, row: int) -> tuple[int, float]:
        assert self.context.row_logits[row]
        slot, position = self.context.row_slots[row], self.context.row_positions[row]
        token = next_token(self.context.tokens(slot)[: position + 1], VOCABULARY)
        return token, LEAST_PROBABILITY + (0.1 if self._dice.random() < self._certainty else -0.1)


def test_it_guesses_for_all_sequences_in_one_batch() -> None:
    draft = Draft()
    bench = Bench(drafting=draft.drafting)
    for number in range(4):
        bench.submit(str(number), talkative(number + 1), max_tokens=30)
    bench.drain()
    for number in range(4):
        assert bench.text(str(number)) == expected(talkative(number + 1), 30, 4096)[0]
        usage = bench.finished(str(number)).usage
        assert usage.accepted_tokens == usage.drafted_tokens > 20
    assert bench.context.num_decodes < 8
    assert draft.context.num_decodes < 40
    assert draft.context.num_threads == 3


def test_guesses_that_it_is_not_sure_of_are_left_out() -> None:
    draft = Draft(certainty=0.0)
    bench = Bench(drafting=draft.drafting)
    bench.submit("r", talkative(3), max_tokens=30)
    bench.drain()
    assert bench.finished("r").usage.drafted_tokens == 0


def test_it_computes_prompts_in_chunks_and_each_token_once() -> None:
    draft = Draft(batch_tokens=64)
    bench = Bench(batch_tokens=64, drafting=draft.drafting)
    prompt = next([4] * 300 + [a] for a in range(1, 40) if expected([4] * 300 + [a], 30, 4096)[2] == 30)
    bench.submit("long", prompt, max_tokens=30)
    bench.drain()
    assert bench.finished("long").usage.accepted_tokens > 20
    assert draft.context.num_computed <= 301 + 30
    assert draft.context.largest_batch == 64


def test_it_takes_over_what_it_has_of_a_prompt() -> None:
    draft = Draft()
    bench = Bench(slots=2, drafting=draft.drafting)
    bench.submit("first", [4] * 300 + talkative(3), max_tokens=5)
    bench.drain()
    before = draft.context.num_computed
    bench.submit("again", [4] * 300 + talkative(3), max_tokens=5)
    bench.submit("beside", [4] * 300 + talkative(5), max_tokens=5)
    bench.drain()
    assert bench.finished("beside").usage.accepted_tokens
    assert draft.context.num_computed - before < 40


def test_a_cache_of_its_own_that_is_full_ends_drafts_and_nothing_else() -> None:
    draft = Draft(context_length=40)
    bench = Bench(drafting=draft.drafting)
    for number in range(3):
        bench.submit(str(number), talkative(number + 1), max_tokens=30)
    bench.drain()
    bench.submit("later", talkative(9), max_tokens=20)
    bench.drain()
    for number in range(3):
        assert bench.text(str(number)) == expected(talkative(number + 1), 30, 4096)[0]
    assert bench.finished("later").usage.accepted_tokens, "what ended sequences left has made room"


@settings(max_examples=80)
@given(
    st.integers(1, 10),
    st.sampled_from([Reuse(), Reuse(window=8), Reuse(window=50)]),
    st.integers(1, 6),
    st.sampled_from([60, 200, 4096]),
    st.integers(0, 2**32),
)
def test_it_keeps_in_step_whatever_happens(count: int, reuse: Reuse, slots: int, length: int, seed: int) -> None:
    dice = random.Random(seed)
    specs = workload(count, dice)
    draft = Draft(slots=slots, certainty=0.8, context_length=length, reuse=reuse, seed=seed)
    bench = Bench(context_length=200, slots=slots, drafting=draft.drafting, reuse=reuse, seed=seed, ram_bytes=1000)
    cancelled = set()
    for number, spec in enumerate(specs):
        wish = Speculative(type=dice.choice([None, None, "none"]))
        bench.submit(str(number), spec.prompt, max_tokens=spec.max_tokens, n=spec.n, speculative=wish)
        for _ in range(dice.choice([0, 1, 2, 50])):
            bench.turn()
        victim, command = str(dice.randrange(number + 1)), dice.choice(COMMANDS)
        bench.commands.put(command(victim))
        cancelled |= {victim} if command is Abort else set()
    for number in range(count):
        bench.commands.put(Resume(str(number)))
    bench.drain()
    for number, spec in enumerate(specs):
        if str(number) not in cancelled:
            assert_as_alone(bench, str(number), spec)
    bench.assert_clean()
    for slot in draft.drafter._slots:
        assert draft.context.tokens(slot.id) == slot.tokens.tolist()


class Vocabulary:
    def __init__(self, size: int = 2000, *, eos: int = 2, odd: int = -1, whole: bool = False) -> None:
        self.vocabulary_size = size
        self.bos_token, self.eos_token = 1, eos
        self.reuse = Reuse(whole)
        self._odd = odd

    def text_of(self, token: int | None) -> str:
        return f"{token}?" if token == self._odd else str(token)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Vocabulary(3000), "3000 tokens, the model 2000"),
        (Vocabulary(eos=3), "another eos_token than the model: 3, not 2"),
        (Vocabulary(odd=1000), "token 1000 of the draft model is '1000\\?', that of the model '1000'"),
        (Vocabulary(whole=True), "recurrent"),
    ],
)
def test_a_draft_model_that_does_not_fit_is_refused(draft: Vocabulary, reason: str) -> None:
    with pytest.raises(ModelInvalid, match=reason):
        check_draft_model(Vocabulary(), draft)


def test_vocabularies_may_differ_in_padding() -> None:
    check_draft_model(Vocabulary(2000), Vocabulary(2064))
