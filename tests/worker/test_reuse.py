"""Prefixes that are used again, in real models: byte for byte what the plain loop gives, which has one sequence.

Logits depend a little on where in the cache cells are and which rows a batch has. So the prompts leave no doubt about
what comes next, as long as all of their tokens are seen.
"""

import pytest

from shimmy.core.ipc import EngineOptions
from shimmy.core.request import Sampling, Tokens
from shimmy.worker.engine import Engine
from shimmy.worker.loading import load_engine
from tests.worker import plain_loop, window_model
from tests.worker.test_engine import Session

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
    first, second = shared + counting(engine, 200, 60), shared + counting(engine, 300, 60)
    twins = Twins(engine, first, second)
    assert twins.ask("first", first) == 0
    assert twins.ask("second", second) == 60
    assert twins.ask("first again", first) == 119
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


def test_from_ram(small_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    prompts = [counting(small_engine, start, 110) for start in (100, 300, 500)]
    twins = Twins(small_engine, *prompts)
    assert [twins.ask(f"{number}", tokens) for number, tokens in enumerate(prompts)] == [0, 0, 0]
    assert [twins.ask(f"{number} again", tokens) for number, tokens in enumerate(prompts)] == [109, 109, 109]
    assert twins.session.loop._scheduler._cache.num_used <= 256 < sum(map(len, prompts))
    twins.check()
    assert not caplog.text


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


@pytest.fixture(scope="module")
def window_engine() -> Engine:
    try:
        model = window_model.path()
    except SystemExit:
        pytest.skip("the model with a window cannot be downloaded")
    return load_engine([str(model)], EngineOptions(context_length=1024, num_sequences=2), lambda fraction: None)


def test_a_window_that_slides_leaves_what_is_needed(window_engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The prompts are longer than the window, and together longer than the cache."""
    assert window_engine._model.reuse.window == window_model.WINDOW_TOKENS
    long, other = counting(window_engine, 100, 540), counting(window_engine, 500, 480)
    parted = long[:515] + counting(window_engine, 300, 10)
    twins = Twins(window_engine, long, other, parted)
    assert twins.ask("long", long) == 0
    assert twins.ask("long again", long) == 539
    assert twins.ask("parted", parted) == 515
    assert twins.ask("other", other) == 0
    assert twins.ask("long after other", long) == 539, "from RAM, if not from the cache"
    assert twins.session.loop._scheduler._cache.num_used < 1024 < len(long) + len(other) + 5 * NUM_TOKENS
    twins.check()
    assert not caplog.text
