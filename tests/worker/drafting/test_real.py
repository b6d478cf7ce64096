"""Drafts computed by llama.cpp: the answers are those without.

On CPUs with several threads llama.cpp computes the attention of a batch of one row in another way than that of several,
once more than 256 cells are in use; so the demo model is asked what stays below that.
"""

import array
import random
from collections.abc import Sequence as Listed
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.ipc import Abort, EngineOptions, Resume
from shimmy.core.request import Constraint, Sampling, Speculative, Text, Tokens
from shimmy.worker.drafting.drafts import Drafting
from shimmy.worker.drafting.model import ModelDrafter
from shimmy.worker.engine import Engine
from shimmy.worker.llama.likeliest import Likeliest
from shimmy.worker.loading import load_engine
from shimmy.worker.sequence import Sequence
from tests.worker import plain_loop, tiny_models
from tests.worker.conftest import DEMO
from tests.worker.drafting.fakes import FreeRows, SteadyRows
from tests.worker.test_engine import GREEDY, Session
from tests.worker.test_loop import COMMANDS
from tests.worker.test_reuse import load_tiny, plain_tokens, workload

pytestmark = pytest.mark.model

CODE = '''def area(width, height):
    """The area of a rectangle."""
    return width * height


def volume(width, height, depth):
    """The volume of a box."""
    return area(width, height) * depth
'''
EDIT = Text(f"{CODE}\n\n# The same code once more:\n\n{CODE[:60]}")
SEEDED = Sampling(seed=3, temperature=0.7, repetition_penalty=1.1)


def generous(session: Session) -> Session:
    """Rows cost nothing, so that it does not depend on this machine what is drafted."""
    session.loop._scheduler._drafting._costs = FreeRows()
    return session


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_an_edit_is_the_same_with_prompt_lookup_and_takes_fewer_steps(engine: Engine, sampling: Sampling) -> None:
    texts, usages = [], []
    for type in ("none", "ngram"):
        session = generous(Session(engine))
        session.submit("a", EDIT, max_tokens=50, sampling=sampling, speculative=Speculative(type=type))
        session.run()
        texts.append(session.text("a"))
        usages.append(session.finished("a").usage)
    assert texts[0] == texts[1]
    assert usages[0].drafted_tokens == 0 and usages[1].completion_tokens == usages[0].completion_tokens
    if sampling is GREEDY:
        assert usages[1].accepted_tokens > 25


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_a_constrained_answer_is_the_same_with_drafts(engine: Engine, sampling: Sampling) -> None:
    """A draft is compared with what was drawn at last, also where another token was refused before it."""
    plan = Constraint("regex", r"([a-z]+ = [0-9]{1,3} [*+] [0-9]{1,3}; ){6}", "regex")
    texts, usages = [], []
    for type in ("none", "ngram"):
        session = generous(Session(engine))
        session.submit("a", EDIT, max_tokens=80, sampling=sampling, speculative=Speculative(type=type), constraint=plan)
        session.run()
        texts.append(session.text("a"))
        usages.append(session.finished("a").usage)
    assert texts[0] == texts[1]
    assert usages[1].drafted_tokens > usages[1].accepted_tokens > 0


def test_a_prediction_is_used_from_the_first_token_on(engine: Engine) -> None:
    session = generous(Session(engine))
    session.submit("plain", Text("1 2 3 4 5 6 7"), max_tokens=20, sampling=GREEDY)
    session.run()
    session.submit("told", Text("1 2 3 4 5 6 7"), max_tokens=20, sampling=GREEDY, prediction=session.text("plain"))
    session.run()
    assert session.text("told") == session.text("plain")
    assert session.finished("told").usage.accepted_tokens >= 15


@pytest.fixture(scope="module")
def drafted() -> Engine:
    """The demo model drafts for itself."""
    options = EngineOptions(context_length=512, num_sequences=4, draft_paths=(str(DEMO),), speculative="draft")
    return load_engine([str(DEMO)], options, lambda fraction: None)


def test_a_draft_model_that_is_the_model_itself_is_nearly_always_right(engine: Engine, drafted: Engine) -> None:
    prompts = ["The capital of Japan is", "Once upon a time", EDIT.text]
    session = Session(engine)
    for name in prompts:
        session.submit(name, Text(name), max_tokens=16, sampling=GREEDY)
        session.run()
    texts = [session.text(name) for name in prompts]
    session = generous(Session(drafted))
    for name in prompts:
        session.submit(name, Text(name), max_tokens=16, sampling=GREEDY)
        session.run()
    assert [session.text(name) for name in prompts] == texts
    usages = [session.finished(name).usage for name in prompts]
    assert sum(usage.drafted_tokens for usage in usages) > 10
    assert sum(usage.accepted_tokens for usage in usages) > 0.95 * sum(usage.drafted_tokens for usage in usages)


def test_a_draft_model_that_costs_as_much_as_the_model_is_hardly_ever_asked(
    drafted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = SteadyRows()

    def learn(drafter: ModelDrafter, seconds: float) -> None:
        drafter.token_seconds = costs.seconds(1)

    monkeypatch.setattr(ModelDrafter, "_learn_cost", learn)
    session = Session(drafted)
    session.loop._scheduler._drafting._costs = costs
    session.submit("a", EDIT, max_tokens=60, sampling=GREEDY)
    session.run()
    assert session.finished("a").usage.drafted_tokens < 20


def test_a_request_for_a_draft_model_is_refused_where_there_is_none(engine: Engine) -> None:
    with pytest.raises(RequestError):
        Session(engine).submit("a", EDIT, speculative=Speculative(type="draft"))


def test_a_draft_model_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    tiny_models.full(tmp_path / "tiny.gguf")
    with pytest.raises(ModelInvalid, match="the draft model has 259 tokens, the model 49152"):
        load_engine([str(DEMO)], EngineOptions(draft_paths=(str(tmp_path / "tiny.gguf"),)), lambda fraction: None)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelInvalid, match="the draft model cannot be loaded"):
        load_engine([str(DEMO)], EngineOptions(draft_paths=(str(tmp_path / "broken.gguf"),)), lambda fraction: None)


def test_the_likeliest_token_is_what_greedy_sampling_takes(engine: Engine) -> None:
    context = engine._context
    context.clear()
    row = plain_loop.compute(context, engine._model.tokenize("The capital of Japan is", add_special=False))
    likeliest = Likeliest(10)
    token, probability = likeliest.pick(context.handle, row)
    assert engine._model.piece(token) == b" Tokyo" and 0.1 < probability < 1
    assert likeliest.pick(context.handle, row) == (token, probability), "nothing of a row is left for the next one"


class Rumours:
    """Drafts what it heard that the answers are, with mistakes."""

    is_free = True
    token_seconds = 0.0

    def __init__(self, dice: random.Random, answers: dict[str, list[int]]) -> None:
        self._dice = dice
        self._answers = answers

    def keep_up(self, sequences: Listed[Sequence], *, is_alone: bool) -> None:
        pass

    def draft(self, wanted: Listed[tuple[Sequence, int]]) -> "list[array.array[int]]":
        return [array.array("i", self._heard(sequence)[:length]) for sequence, length in wanted]

    def _heard(self, sequence: Sequence) -> list[int]:
        rest = self._answers[sequence.request.id][sequence.num_generated :]
        anything = range(tiny_models.FIRST_TOKEN, tiny_models.VOCABULARY)
        return [token if self._dice.random() < 0.7 else self._dice.choice(anything) for token in rest]

    def end(self, sequence: Sequence) -> None:
        pass


@pytest.fixture(scope="module", params=["full", "window"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    tiny_models.KINDS[request.param](path)
    return load_tiny(path)


@settings(max_examples=6)
@given(st.integers(1, 10), st.integers(0, 2**32))
def test_any_mix_gives_every_request_what_it_gets_alone(tiny: Engine, count: int, seed: int) -> None:
    """In a cache that is too small for them; where layers see a window, what they need is still there afterwards."""
    dice = random.Random(seed)
    specs = workload(dice, count)
    expected = [plain_tokens(tiny, prompt, max_tokens) for prompt, max_tokens, _ in specs]
    session = Session(tiny)
    rumours = Rumours(dice, {str(number): tokens for number, tokens in enumerate(expected)})
    session.loop._scheduler._drafting = Drafting({"ngram": rumours}, "ngram", FreeRows())
    cancelled = set()
    for number, (prompt, max_tokens, n) in enumerate(specs):
        session.submit(str(number), Tokens(prompt), max_tokens=max_tokens, sampling=GREEDY, num_choices=n)
        steps = iter(range(dice.choice([0, 1, 3, 60])))
        session.run(until=lambda steps=steps: next(steps, None) is None)  # type: ignore[misc]
        victim, command = str(dice.randrange(number + 1)), dice.choice(COMMANDS)
        session.commands.put(command(victim))
        cancelled |= {victim} if command is Abort else set()
    for number in range(count):
        session.commands.put(Resume(str(number)))
    session.run()
    session.run()
    for number, (_, _, n) in enumerate(specs):
        for index in range(n if str(number) not in cancelled else 0):
            text = "".join(f".{token - tiny_models.FIRST_TOKEN}" for token in expected[number])
            assert session.text(str(number), index).startswith(text)
    used = session.loop._scheduler._cache.num_used
    session.loop._scheduler._cache._cells.check()
    assert session.loop._scheduler._cache.num_used == used, "the check found something wrong"


def test_a_memory_that_takes_nothing_back_gets_no_drafts(tmp_path: Path) -> None:
    tiny_models.recurrent(tmp_path / "tiny.gguf")
    session = Session(load_tiny(tmp_path / "tiny.gguf"))
    session.submit("a", Tokens([5, 6, 7] * 20), max_tokens=20, sampling=GREEDY, speculative=Speculative(type="ngram"))
    session.run()
    assert session.finished("a").usage.drafted_tokens == 0
    assert session.finished("a").usage.completion_tokens > 0
