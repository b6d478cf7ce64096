"""The real engine on the demo model: exact where it must be, and unimpressed by what would abort llama.cpp."""

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from shimmy.core.errors import ContextOverflow, ModelFailed, ModelInvalid, RequestError, TooLarge
from shimmy.core.events import Event, Finished, TextDelta
from shimmy.core.ipc import Abort, EngineOptions, Events
from shimmy.core.request import Chat, Generation, Message, Prompt, Sampling, Text, Tokens
from shimmy.worker.engine import Engine, _context_length
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.model import Model
from shimmy.worker.loading import load_engine
from shimmy.worker.loop import Command, Loop
from tests.worker import plain_loop
from tests.worker.conftest import DEMO

pytestmark = pytest.mark.model
GREEDY = Sampling(temperature=0)


class Session:
    """Drives one engine's loop by hand and collects its events."""

    def __init__(self, engine: Engine) -> None:
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.events: list[Event] = []
        self.loop: Loop = engine.loop(self.commands, self._take)
        self.prompter = engine.prompter()

    def _take(self, frame: Events) -> None:
        self.events += frame.events

    def submit(self, name: str, prompt: Prompt, **fields: object) -> None:
        generation = Generation(id=name, model="m", prompt=prompt, **fields)  # type: ignore[arg-type]
        self.commands.put(self.prompter.prepare(generation))

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        while True:
            self.loop._receive(wait=False)
            busy = self.loop.step()
            self.loop._emit()
            if not busy or until():
                return

    def text(self, name: str, index: int = 0) -> str:
        deltas = (event for event in self.events if isinstance(event, TextDelta))
        return "".join(event.text for event in deltas if (event.id, event.index) == (name, index))

    def finished(self, name: str, index: int = 0) -> Finished:
        return next(e for e in self.events if isinstance(e, Finished) and (e.id, e.index) == (name, index))


def ask(question: str) -> Chat:
    return Chat([Message("user", question)])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=7, repetition_penalty=1.2, presence_penalty=0.5)])
def test_one_stream_equals_the_plain_loop_byte_for_byte(engine: Engine, sampling: Sampling) -> None:
    prompt = ask("Write a haiku about the sea, with an emoji.")
    tokens = Session(engine).prompter.prepare(Generation(id="", model="", prompt=prompt)).prompt.tolist()
    expected = plain_loop.generate(engine._model, engine._context, tokens, 60, sampling)
    session = Session(engine)
    session.submit("a", prompt, max_tokens=60, sampling=sampling)
    session.run()
    assert session.text("a") == expected.decode("utf-8", "ignore")
    assert session.finished("a").usage.prompt_tokens == len(tokens)


CAPITALS = {
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "Egypt": "Cairo",
    "England": "London",
    "China": "Beijing",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Poland": "Warsaw",
}


def test_eight_mixed_streams_each_get_their_own_answer(engine: Engine) -> None:
    session = Session(engine)
    for country in CAPITALS:
        session.submit(country, ask(f"What is the capital of {country}?"), max_tokens=24, sampling=GREEDY)
    session.run()
    for country, capital in CAPITALS.items():
        assert capital in session.text(country), session.text(country)


def test_choices_of_one_request_share_its_prompt_and_differ(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", ask("Tell me a story."), max_tokens=16, num_choices=4, sampling=Sampling(seed=1))
    session.run()
    assert len({session.text("a", index) for index in range(4)}) > 1
    assert {session.finished("a", index).reason for index in range(4)} <= {"length", "stop"}


def test_greedy_choices_of_a_shared_prefix_are_the_same(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", ask("What is the capital of Japan?"), max_tokens=16, num_choices=3, sampling=GREEDY)
    session.run()
    assert "Tokyo" in session.text("a", 0)
    assert session.text("a", 0) == session.text("a", 1) == session.text("a", 2)


def test_the_same_seed_gives_the_same_text(engine: Engine) -> None:
    texts = []
    for _ in range(2):
        # With nothing cached, so that the logits are the same, too.
        session = Session(engine)
        session.submit("a", ask("Tell me a story."), max_tokens=24, sampling=Sampling(seed=42))
        session.run()
        texts.append(session.text("a"))
    assert texts[0] == texts[1] != ""


def test_the_model_ends_its_turn_with_stop(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", ask("What is the capital of Japan?"), sampling=GREEDY, max_tokens=200)
    session.run()
    assert session.finished("a").reason == "stop"
    assert "<|im_end|>" not in session.text("a")


def test_logit_bias_can_forbid_and_force(engine: Engine) -> None:
    forced = engine._model.tokenize(" Zebra", add_special=False)[0]
    session = Session(engine)
    session.submit("a", Text("Hello"), max_tokens=3, sampling=Sampling(temperature=0, logit_bias={forced: 100.0}))
    session.run()
    piece = engine._model.piece(forced)
    assert piece is not None and session.text("a") == piece.decode() * 3


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", ask("What is the capital of Japan?"), max_tokens=50, sampling=GREEDY, stop=["of Jap"])
    session.run()
    assert session.text("a") == "The capital "
    assert session.finished("a").stop == "of Jap"


def test_a_full_context_ends_with_length(small_engine: Engine) -> None:
    session = Session(small_engine)
    session.submit("a", Tokens([5] * 248), sampling=Sampling(temperature=0, logit_bias={5: 100.0}))
    session.run()
    assert session.finished("a").reason == "length"
    assert session.finished("a").usage.completion_tokens == 8


def test_sequences_that_outgrow_the_cache_together_still_finish(small_engine: Engine) -> None:
    """Four times 110 tokens do not fit 256 cells: some wait, some are computed twice, all are right."""
    session = Session(small_engine)
    for number in range(4):
        bias = Sampling(temperature=0, logit_bias={1000 + number: 100.0})
        session.submit(str(number), Tokens([5] * 20), max_tokens=90, sampling=bias)
    session.run()
    for number in range(4):
        piece = small_engine._model.piece(1000 + number)
        assert piece is not None and session.text(str(number)) == piece.decode() * 90


def test_an_abort_stops_a_running_prefill_within_a_step(engine: Engine) -> None:
    session = Session(engine)
    session.submit("long", Tokens([5] * 2000), max_tokens=5)
    session.run(until=lambda: True)
    session.commands.put(Abort("long"))
    session.run()
    assert [type(event).__name__ for event in session.events] == ["Accepted"]
    session.submit("next", ask("What is the capital of Japan?"), max_tokens=20, sampling=GREEDY)
    session.run()
    assert "Tokyo" in session.text("next")


def test_overflow_is_refused_with_both_counts(engine: Engine) -> None:
    with pytest.raises(ContextOverflow) as caught:
        Session(engine).submit("a", Text("word " * 3000))
    assert caught.value.details["context_length"] == 2048
    assert caught.value.details["num_prompt_tokens"] > 3000


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        (Tokens([10**9]), RequestError),
        (Tokens([-1]), RequestError),
        (Text("\ud800"), RequestError),
        (Text("x" * (5 << 20)), TooLarge),
    ],
)
def test_prompts_that_would_abort_llama_are_refused(engine: Engine, prompt: Prompt, error: type[Exception]) -> None:
    with pytest.raises(error):
        Session(engine).submit("a", prompt)


@pytest.mark.parametrize("text", ["\0", "\x7f" * 50, "\U0010ffff", "𐍈" * 200, "\ufffe", "a" * 100_000, " " * 5000])
def test_odd_text_tokenizes(engine: Engine, text: str) -> None:
    assert engine._model.tokenize(text, add_special=False)


def test_pieces_of_a_text_give_the_text_back(engine: Engine) -> None:
    text = "Héllo, wörld! 你好 👩‍👩‍👧‍👦\n\tdef f(x): return x"
    pieces = [engine._model.piece(token) or b"" for token in engine._model.tokenize(text, add_special=False)]
    assert b"".join(pieces).decode() == text


def test_a_batch_over_its_capacity_never_reaches_llama(engine: Engine) -> None:
    import array

    batch = engine._context.batch
    batch.clear()
    with pytest.raises(ValueError, match="over its capacity"):
        batch.add(0, array.array("i", [5] * (batch.capacity + 1)), 0, logits=True)


def test_a_file_that_is_no_model_is_refused_with_a_reason(tmp_path: object) -> None:
    path = f"{tmp_path}/broken.gguf"
    with open(DEMO, "rb") as source, open(path, "wb") as target:
        target.write(source.read(1 << 20))
    with pytest.raises(ModelInvalid, match="not within the file bounds|corrupt|failed"):
        Model([path], lambda fraction: None)


def test_the_real_figures_are_reported(engine: Engine) -> None:
    facts = engine.facts(0.5)
    assert (facts.context_length, facts.training_context_length, facts.num_sequences) == (2048, 8192, 8)
    assert (facts.vocabulary_size, facts.template_source) == (49152, "gguf")
    assert 134_000_000 < facts.num_parameters < 135_000_000


def test_a_context_that_cannot_be_made_is_an_error(engine: Engine) -> None:
    with pytest.raises(ModelFailed, match="context"):
        Context(engine._model, context_length=512, num_sequences=300, num_threads=1)


@pytest.mark.parametrize(
    ("wanted", "trained", "length", "fixed_length"),
    [
        (None, 2048, 2048, 2048),
        (None, 131072, 131072, 8192),
        (None, 10**7, 262144, 8192),
        (512, 2048, 512, 512),
        (10**9, 2048, 2048, 2048),
        (None, 0, 8192, 8192),
        (65536, 131072, 65536, 65536),
        (4096, 0, 4096, 4096),
    ],
)
def test_the_context_is_as_long_as_wanted_but_not_longer_than_trained(
    wanted: int | None, trained: int, length: int, fixed_length: int
) -> None:
    assert _context_length(wanted, trained, can_grow=True) == length
    assert _context_length(wanted, trained, can_grow=False) == fixed_length


@pytest.mark.parametrize(("asked", "length"), [(None, 16384), (65536, None)])
def test_a_default_that_the_system_refuses_is_made_shorter(
    engine: Engine, asked: int | None, length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Context):
        def __init__(self, model: Model, *, context_length: int, **more: Any) -> None:
            if context_length > 20000:
                raise ModelFailed("cannot make a context")
            super().__init__(model, context_length=context_length, **more)

    monkeypatch.setattr("shimmy.worker.engine.Context", Refused)
    monkeypatch.setattr("shimmy.worker.engine._context_length", lambda *ignored: 65536)
    monkeypatch.setattr(engine, "_options", EngineOptions(context_length=asked))
    if length is None:
        with pytest.raises(ModelFailed):
            engine._make_context(engine._model)
    else:
        assert engine._make_context(engine._model).context_length == length


def test_options_reach_the_engine() -> None:
    options = EngineOptions(context_length=512, num_sequences=3, num_threads=1)
    facts = load_engine([str(DEMO)], options, lambda fraction: None).facts(0.0)
    assert (facts.context_length, facts.num_sequences, facts.num_threads) == (512, 3, 1)


def test_a_prompt_joins_in_chunks_that_the_pacer_allows(engine: Engine) -> None:
    session = Session(engine)
    pacer = session.loop._scheduler._pacer
    session.submit("story", Tokens([5] * 40), max_tokens=60, sampling=Sampling(temperature=0, logit_bias={1000: 100.0}))
    session.run(until=lambda: len(session.text("story")) > 20)
    session.submit("long", Tokens([1000 + number for number in range(150)]), max_tokens=1)
    chunks: list[int] = []
    while sum(chunks) < 150:
        before, allowed = len(session.text("story")), min(pacer.budget(1), 150 - sum(chunks))
        session.run(until=lambda: True)
        chunks.append(engine._context.batch.size - 1)
        assert chunks[-1] == allowed
        assert len(session.text("story")) > before, "the stream goes on in every step"
    assert len(chunks) > 1 and session.finished("long").usage.completion_tokens == 1
    session.run()
    assert session.finished("story").usage.completion_tokens == 60
