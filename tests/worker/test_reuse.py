"""Prefixes that are used again, and a memory that grows, by llama.cpp: the answers are those of the plain loop, which
has one sequence.

Logits depend a little on where in the cache cells are and which rows a batch has. So the demo model is asked what
leaves no doubt about the next token, and the answers of the tiny models are compared up to the first doubt.
"""

import ctypes as c
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.core.ipc import Abort, EngineOptions, Resume
from shimmy.core.request import Sampling, Tokens
from shimmy.worker import growth
from shimmy.worker.engine import Engine
from shimmy.worker.llama import zeroing
from shimmy.worker.llama.libllama import llama
from shimmy.worker.loading import load_engine
from tests.worker import plain_loop, tiny_models
from tests.worker.conftest import DEMO
from tests.worker.test_engine import Session, ask
from tests.worker.test_loop import COMMANDS, SteadyPacer

pytestmark = pytest.mark.model
GREEDY = Sampling(temperature=0)
NUM_TOKENS = 12


class Twins:
    """A session; and beside it what the plain loop gives, computed before the session begins."""

    def __init__(self, engine: Engine, *prompts: list[int]) -> None:
        self._expected = {tuple(tokens): self._plain(engine, tokens) for tokens in prompts}
        self.session = Session(engine)

    def _plain(self, engine: Engine, tokens: list[int]) -> str:
        text = plain_loop.generate(engine._model, engine._context, tokens, NUM_TOKENS, GREEDY)
        return text.decode("utf-8", "ignore")

    def submit(self, name: str, tokens: list[int], tenant: str = "") -> None:
        self.session.submit(name, Tokens(tokens), max_tokens=NUM_TOKENS, sampling=GREEDY, tenant=tenant)

    def cached(self, name: str, tokens: list[int]) -> int:
        """How much of the prompt was there, after a look at the answer."""
        assert self.session.text(name) == self._expected[tuple(tokens)]
        return self.session.finished(name).usage.cached_tokens

    def ask(self, name: str, tokens: list[int], tenant: str = "") -> int:
        self.submit(name, tokens, tenant)
        self.session.run()
        return self.cached(name, tokens)

    def check(self) -> None:
        self.session.loop._scheduler.check()


def counting(engine: Engine, start: int, num_tokens: int) -> list[int]:
    text = ", ".join(str(number) for number in range(start, start + num_tokens))
    return engine._model.tokenize(text, add_special=False)[:num_tokens]


@pytest.mark.parametrize("together", [False, True])
def test_from_a_sequence_that_runs(engine: Engine, together: bool) -> None:
    shared = counting(engine, 100, 30)
    first, second = shared + counting(engine, 200, 20), shared + counting(engine, 300, 20)
    twins = Twins(engine, first, second)
    twins.submit("first", first)
    twins.session.run(until=lambda: together or bool(twins.session.text("first")))
    twins.submit("second", second)
    twins.session.run()
    assert (twins.cached("first", first), twins.cached("second", second)) == (0, 30)


def test_from_sequences_that_ended(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    shared = counting(engine, 100, 60)
    first, second = shared + counting(engine, 200, 30), shared + counting(engine, 300, 30)
    twins = Twins(engine, first, second)
    assert twins.ask("first", first) == 0
    assert twins.ask("second", second) == 60
    assert twins.ask("first again", first) == 89
    assert twins.ask("another's", first, tenant="another") == 0
    twins.check()
    assert not caplog.text


def test_the_next_turn_takes_over_the_answer(engine: Engine) -> None:
    first = counting(engine, 100, 40)
    twins = Twins(engine, first)
    assert twins.ask("first", first) == 0
    answer = engine._model.tokenize(twins.session.text("first"), add_special=False)
    twins.submit("second", first + answer + counting(engine, 300, 20))
    twins.session.run()
    assert 40 < twins.session.finished("second").usage.cached_tokens < 40 + NUM_TOKENS


def test_the_check_finds_cells_that_llama_has_lost(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    tokens = counting(engine, 100, 60)
    twins = Twins(engine, tokens)
    assert twins.ask("before", tokens) == 0
    engine._context.forget(engine._context.holders[0], 30)
    twins.check()
    assert "a kept prefix of 71 tokens is dropped: sequence 9 has positions 0 to 29" in caplog.text
    assert twins.ask("after", tokens) == 0


def test_a_state_that_llama_cannot_read_is_refused(engine: Engine) -> None:
    context = engine._context
    context.clear()
    assert not context.load_state(0, b"junk" * 100)
    assert context.last_position(0) == -1


STORIES = {animal: ask(f"Tell me a long story about a {animal}.") for animal in ("cat", "dog", "crow", "fox")}


def told(context_length: int) -> tuple[dict[str, str], int]:
    """What four streams side by side say, computed in the same steps each time; and how many cells they grew to."""
    options = EngineOptions(context_length=context_length, num_sequences=8, num_threads=1)
    engine = load_engine([str(DEMO)], options, lambda fraction: None)
    session = Session(engine)
    session.loop._scheduler._pacer = SteadyPacer()
    for animal, question in STORIES.items():
        session.submit(animal, question, max_tokens=24, sampling=GREEDY)
    session.run()
    return {animal: session.text(animal) for animal in STORIES}, engine._context.num_cells


@pytest.mark.skipif(not zeroing.IS_LAZY, reason="contexts have all of their memory from the start")
def test_streams_say_in_a_context_that_grows_what_they_say_in_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zeroing, "IS_LAZY", False)
        expected, num_cells = told(2048)
        assert num_cells == 2048
    monkeypatch.setattr(growth, "FIRST_CELLS", 64)
    monkeypatch.setattr(growth, "STEP_CELLS", 32)
    texts, num_cells = told(2048)
    assert texts == expected
    assert 4 * 24 < num_cells < 512


# Tiny models

CONTEXT = 256
DOUBT = 0.05


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    tiny_models.KINDS[request.param](path)
    return load_tiny(path)


def load_tiny(path: Path, ram_bytes: int = 1 << 20) -> Engine:
    """It begins with a quarter of its cells, and grows."""
    options = EngineOptions(context_length=CONTEXT, num_sequences=4, prefix_ram_bytes=ram_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "FIRST_CELLS", CONTEXT // 4)
        return load_engine([str(path)], options, lambda fraction: None)


def plain_tokens(engine: Engine, prompt: list[int], max_tokens: int) -> list[int]:
    """What the plain loop gives, as far as the best token is clearly better than the second best."""
    text = plain_loop.generate(engine._model, engine._context, prompt, max_tokens, GREEDY).decode()
    answer = [int(number) + tiny_models.FIRST_TOKEN for number in text.split(".")[1:]]
    for length in range(len(answer)):
        if is_doubtful(engine, prompt + answer[:length]):
            return answer[:length]
    return answer


def is_doubtful(engine: Engine, tokens: list[int]) -> bool:
    context = engine._context
    context.clear()
    row = plain_loop.compute(context, tokens)
    logits = c.cast(llama().llama_get_logits_ith(context.handle, row), c.POINTER(c.c_float))
    second, first = sorted(logits[: tiny_models.VOCABULARY])[-2:]
    return bool(first - second < DOUBT)


Spec = tuple[list[int], int, int]  # prompt, max_tokens, choices


def workload(dice: random.Random, count: int) -> list[Spec]:
    """Prompts that begin alike."""

    def some(least: int, most: int) -> list[int]:
        return [
            dice.randrange(tiny_models.FIRST_TOKEN, tiny_models.VOCABULARY) for _ in range(dice.randint(least, most))
        ]

    bases = [some(20, 140) for _ in range(3)]
    specs = []
    for _ in range(count):
        base = dice.choice(bases)
        kept = base[: dice.choice([len(base), dice.randrange(len(base))])]
        specs.append((kept + some(0, 1) + some(0, 1) * 30 or [5], dice.randint(1, 12), dice.choice([1, 1, 3])))
    return specs


@settings(max_examples=6)
@given(st.integers(1, 10), st.integers(0, 2**32))
def test_any_mix_gives_every_request_what_it_gets_alone(tiny: Engine, count: int, seed: int) -> None:
    """Arrivals, pauses and cancels at random, in a cache that is too small for them, whatever kind of memory it is."""
    dice = random.Random(seed)
    specs = workload(dice, count)
    expected = [plain_tokens(tiny, prompt, max_tokens) for prompt, max_tokens, _ in specs]
    session = Session(tiny)
    cancelled = set()
    for number, (prompt, max_tokens, n) in enumerate(specs):
        tenant = dice.choice(["", "", "k"])
        session.submit(
            str(number), Tokens(prompt), max_tokens=max_tokens, sampling=GREEDY, num_choices=n, tenant=tenant
        )
        steps = iter(range(dice.choice([0, 1, 3, 60])))
        session.run(until=lambda steps=steps: next(steps, None) is None)  # type: ignore[misc]
        victim, command = str(dice.randrange(number + 1)), dice.choice(COMMANDS)
        session.commands.put(command(victim))
        cancelled |= {victim} if command is Abort else set()
    for number in range(count):
        session.commands.put(Resume(str(number)))
    session.run()
    session.run()
    for number, (prompt, _, n) in enumerate(specs):
        for index in range(n if str(number) not in cancelled else 0):
            text = "".join(f".{token - tiny_models.FIRST_TOKEN}" for token in expected[number])
            assert session.text(str(number), index).startswith(text)
            assert session.finished(str(number), index).usage.cached_tokens < len(prompt)
    used = session.loop._scheduler._cache.num_used
    session.loop._scheduler._cache._cells.check()
    assert session.loop._scheduler._cache.num_used == used, "the check found something wrong"


TOKENS = random.Random(1).choices(range(tiny_models.FIRST_TOKEN, tiny_models.VOCABULARY), k=1000)


def num_cached(session: Session, name: str, prompt: list[int]) -> int:
    session.submit(name, Tokens(prompt), max_tokens=4, sampling=GREEDY)
    session.run()
    return session.finished(name).usage.cached_tokens


def test_a_repeated_prompt_and_a_shared_beginning_are_not_computed_again(tiny: Engine) -> None:
    """The prompts are longer than the window, and together longer than the cache."""
    session, shared = Session(tiny), TOKENS[:100]
    assert num_cached(session, "cold", shared) == 0
    assert num_cached(session, "again", shared) == 99
    assert num_cached(session, "one", shared + TOKENS[100:140]) in (99, 100)
    assert num_cached(session, "other", shared + TOKENS[200:240]) in (99, 100)
    for start in (300, 500, 700):
        assert num_cached(session, f"from {start}", TOKENS[start : start + 200]) == 0
    assert num_cached(session, "much later", shared) == 99
    assert num_cached(session, "another", shared + TOKENS[900:940]) in (99, 100)


def test_without_ram_what_left_the_cache_is_computed_again(tmp_path: Path) -> None:
    tiny_models.full(tmp_path / "tiny.gguf")
    session = Session(load_tiny(tmp_path / "tiny.gguf", ram_bytes=0))
    assert num_cached(session, "cold", TOKENS[:100]) == 0
    assert num_cached(session, "again", TOKENS[:100]) == 99
    for start in (300, 500):
        assert num_cached(session, f"from {start}", TOKENS[start : start + 200]) == 0
    assert num_cached(session, "much later", TOKENS[:100]) == 0
