"""Sampling on real models: what is banned, what is repeated, what is told of tokens, what a model's file asks for."""

import array
import ctypes as c
import itertools
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from shimmy.core.errors import RequestError
from shimmy.core.events import Echoed, TextDelta, TokenLogprob
from shimmy.core.ipc import EngineOptions
from shimmy.core.request import Sampling, Text, Tokens
from shimmy.worker.engine import Engine
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.recipe import Recipes
from shimmy.worker.loading import load_engine
from tests.worker import plain_loop, tiny_models
from tests.worker.test_engine import GREEDY, Session, ask

pytestmark = pytest.mark.model
JAPAN = ask("What is the capital of Japan?")
STORY = ask("Tell me a story about the sea.")


def session(engine: Engine, prompt: Any = JAPAN, **fields: Any) -> Session:
    """After one request, called "a"."""
    made = Session(engine)
    made.submit("a", prompt, **({"max_tokens": 24} | fields))
    made.run()
    return made


def told(made: Session, index: int = 0) -> list[TokenLogprob]:
    deltas = (event for event in made.events if isinstance(event, TextDelta) and event.index == index)
    return [token for delta in deltas for token in delta.tokens]


def test_bad_words_never_come(engine: Engine) -> None:
    assert "Tokyo" in session(engine, sampling=GREEDY).text("a")
    for words in (["Tokyo"], ["capital of Japan"], ["Tokyo", "The", "capital"]):
        text = session(engine, sampling=Sampling(temperature=0, bad_words=words), max_tokens=12).text("a")
        assert text and not any(word in text for word in words), text


def test_an_answer_has_its_least_tokens_and_ends_right_after(engine: Engine) -> None:
    free = session(engine, sampling=GREEDY, max_tokens=60).finished("a").usage.completion_tokens
    held = session(engine, sampling=Sampling(temperature=0, min_tokens=free + 8), max_tokens=600)
    assert free < 20 and held.finished("a").reason == "stop"
    assert free + 8 <= held.finished("a").usage.completion_tokens < 600


def test_a_model_that_must_not_end_goes_on_to_the_limit(engine: Engine) -> None:
    made = session(engine, sampling=Sampling(temperature=0, ignore_eos=True), max_tokens=20)
    assert (made.finished("a").reason, made.finished("a").usage.completion_tokens) == ("length", 20)


def test_a_stop_token_ends_the_answer_before_it_and_not_too_soon(engine: Engine) -> None:
    japan = engine._model.tokenize(" Japan", add_special=False)
    made = session(engine, sampling=GREEDY, stop_tokens=japan)
    assert (made.text("a"), made.finished("a").reason, made.finished("a").stop) == ("The capital of", "stop", None)
    later = session(engine, sampling=Sampling(temperature=0, min_tokens=10), stop_tokens=japan)
    assert later.finished("a").usage.completion_tokens >= 10


def test_tokens_outside_the_vocabulary_are_refused(engine: Engine) -> None:
    with pytest.raises(RequestError) as caught:
        session(engine, stop_tokens=[10**6])
    assert caught.value.param == "stop_token_ids"


LOOP = Text("one and two and one and two and one and two and one")
DRY: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"dry_sequence_breakers": ()}, False),
    ({"dry_penalty_last_n": -1}, False),
    ({"dry_penalty_last_n": 2**31 - 1}, False),
    ({"dry_base": 3.0}, False),
    ({"dry_sequence_breakers": ("and",)}, True),
    ({"dry_penalty_last_n": 0}, True),
    ({"dry_allowed_length": 2**31 - 1}, True),
    ({"samplers": ("top_k",)}, True),
]


@pytest.mark.parametrize(("fields", "loops"), DRY)
def test_dry_ends_a_loop(engine: Engine, fields: dict[str, Any], loops: bool) -> None:
    looping = session(engine, LOOP, sampling=GREEDY, max_tokens=8).text("a")
    assert looping == " and two and one and two and one"
    dry = Sampling(temperature=0, dry_multiplier=2.0, **fields)
    assert (session(engine, LOOP, sampling=dry, max_tokens=8).text("a") == looping) is loops


def test_the_search_for_sequence_breakers_is_done_once(engine: Engine) -> None:
    recipes = Recipes(engine._model, 100)
    same = [recipes._dries.of(Sampling(dry_multiplier=1.0, temperature=t)) for t in (0.0, 1.0)]
    assert same[0] is same[1] is not None
    assert recipes._dries.of(Sampling(dry_multiplier=1.5)) is not same[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=3, typical_p=0.8, top_k=0),
        Sampling(seed=3, xtc_probability=0.5, xtc_threshold=0.05),
        Sampling(seed=3, mirostat=2),
        Sampling(seed=3, dry_multiplier=0.8, frequency_penalty=0.3),
        Sampling(seed=3, dynatemp_range=0.5, top_n_sigma=2.0),
        Sampling(seed=3, min_tokens=10, bad_words=["the sea", "Once"]),
    ],
)
def test_a_seeded_stream_equals_the_plain_loop(engine: Engine, sampling: Sampling) -> None:
    tokens = Session(engine).prompter._vocabulary.tokenize("Once upon a time", add_special=True)
    expected = plain_loop.generate(engine._model, engine._context, tokens, 20, sampling)
    made = session(engine, Tokens(tokens), sampling=sampling, max_tokens=20)
    assert made.text("a") == expected.decode("utf-8", "ignore")


def test_greedy_takes_the_first_of_the_alternatives(engine: Engine) -> None:
    made = session(engine, sampling=GREEDY, logprobs=5)
    tokens = told(made)
    assert len(tokens) == made.finished("a").usage.completion_tokens
    assert b"".join(token.bytes for token in tokens).decode() == made.text("a")
    for token in tokens:
        assert (token.bytes, token.logprob) == (token.top[0].bytes, token.top[0].logprob)
        assert [each.logprob for each in token.top] == sorted((each.logprob for each in token.top), reverse=True)
        assert len({each.bytes for each in token.top}) == 5 and sum(math.exp(each.logprob) for each in token.top) <= 1


def test_log_probabilities_are_those_of_the_softmax(engine: Engine) -> None:
    """Computed here from the row of logits, for every token."""
    engine._context.clear()
    row = plain_loop.compute(engine._context, engine._model.tokenize("The capital of Japan is", add_special=True))
    handle, size = engine._context.handle, engine._model.vocabulary_size
    address = llama().llama_get_logits_ith(handle, row)
    logits = list((c.c_float * size).from_address(address))
    reading = engine._probe.read(handle, row)
    assert sum(math.exp(logit - reading.normaliser) for logit in logits) == pytest.approx(1, abs=1e-5)
    ranked = sorted(range(size), key=lambda token: -logits[token])
    assert [token for token, _ in reading.top] == ranked[:20]
    unlikely = engine._probe.record(reading, ranked[-1], 0)
    assert unlikely.logprob == pytest.approx(logits[ranked[-1]] - reading.normaliser) and (unlikely.logprob or 0) < -15
    engine._context.forget(0)


def test_samplers_do_not_change_what_is_told(engine: Engine) -> None:
    plain = told(session(engine, sampling=GREEDY, logprobs=3, max_tokens=1))[0]
    others: list[Sampling] = [
        Sampling(seed=1, temperature=5.0, top_k=1),
        Sampling(temperature=0, presence_penalty=2.0, repetition_penalty=3.0, dry_multiplier=5.0),
        Sampling(temperature=0, logit_bias={1000: 100.0}),
        Sampling(temperature=0, min_tokens=5, bad_words=["The"]),
    ]
    for sampling in others:
        assert told(session(engine, sampling=sampling, logprobs=3, max_tokens=1))[0].top == plain.top


def test_telling_of_tokens_changes_none(engine: Engine) -> None:
    sampling = Sampling(seed=11, temperature=1.2, mirostat=2)
    # In batches of the same size, since the last bit of a logit depends on it.
    plain = session(engine, STORY, sampling=sampling, max_tokens=10, num_choices=2)
    watched = session(engine, STORY, sampling=sampling, max_tokens=10, logprobs=20, num_choices=2)
    assert watched.text("a") != watched.text("a", 1)
    for index in range(2):
        assert watched.text("a", index) == plain.text("a", index)
        assert b"".join(token.bytes for token in told(watched, index)).decode() == watched.text("a", index)


def test_characters_of_several_tokens_come_whole_with_their_tokens(engine: Engine) -> None:
    octopus = engine._model.tokenize("🐙", add_special=False)
    assert len(octopus) > 1
    forced = Sampling(temperature=0, logit_bias={octopus[0]: 100.0})
    made = session(engine, Text("Sea"), sampling=forced, max_tokens=1, logprobs=0)
    assert (made.text("a"), told(made)) == ("", []), "half a character is no text"
    emoji = session(engine, ask("Answer with the octopus emoji 🐙 only."), sampling=GREEDY, logprobs=0)
    assert b"".join(token.bytes for token in told(emoji)).decode() == emoji.text("a")


@pytest.mark.parametrize("stop", ["apital", "of Jap", "Tok", "."])
def test_tokens_end_where_a_stop_string_cuts_the_text(engine: Engine, stop: str) -> None:
    made = session(engine, sampling=GREEDY, stop=[stop], logprobs=1)
    assert made.finished("a").stop == stop
    assert b"".join(token.bytes for token in told(made)).decode() == made.text("a")


def test_a_prompt_is_echoed_as_it_was_written(engine: Engine) -> None:
    text = "Héllo <|im_start|> wörld"
    for prompt, expected in (
        (Text(text), text),
        (Tokens(engine._model.tokenize("one two", add_special=False)), "one two"),
    ):
        made = session(engine, prompt, echo=True, max_tokens=1)
        assert [event.text for event in made.events if isinstance(event, Echoed)] == [expected]


def echoed(made: Session) -> list[TokenLogprob]:
    return [token for event in made.events if isinstance(event, Echoed) for token in event.tokens]


def one_by_one(engine: Engine, tokens: list[int]) -> list[float]:
    """Each token's log probability but the first one's, with every token decoded by itself."""
    context, logprobs = engine._context, []
    context.clear()
    for position, (token, following) in enumerate(itertools.pairwise(tokens)):
        context.batch.clear()
        row = context.batch.add(0, array.array("i", [token]), position, logits=True)
        context.decode()
        logprobs.append(engine._probe.record(engine._probe.read(context.handle, row), following, 0).logprob or 0.0)
    context.clear()
    return logprobs


# More tokens than one batch may have logits.
LONG = "The sea is wide, and the 🐙 in it has <|im_start|> eight arms. " * 20


@pytest.mark.parametrize("text", ["Héllo wörld, 🐙!", "one", LONG])
def test_a_prompts_probabilities_are_those_of_its_tokens_one_by_one(engine: Engine, text: str) -> None:
    tokens = engine._model.tokenize(text, add_special=True)
    expected = one_by_one(engine, tokens)
    made = session(engine, Text(text), echo=True, logprobs=2, echo_logprobs=True, max_tokens=1, num_choices=2)
    first, *others = echoed(made)
    assert first.logprob is None and not first.top
    assert [token.logprob for token in others] == pytest.approx(expected, abs=0.05)
    assert all(len(token.top) == 2 and token.top[0].logprob >= (token.logprob or 0) - 1e-6 for token in others)
    assert b"".join(token.bytes for token in [first, *others]).decode() == text
    assert len(told(made)) == 1, "what follows is told as always"


def test_what_is_cached_of_a_prompt_is_told_all_the_same(engine: Engine) -> None:
    made = Session(engine)
    fields: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 4, "echo": True, "logprobs": 0}
    made.submit("warm", Text(LONG), sampling=GREEDY, max_tokens=4)
    made.run()
    made.submit("a", Text(LONG), **fields, echo_logprobs=True)
    made.run()
    assert len(echoed(made)) == len(engine._model.tokenize(LONG, add_special=True))
    assert (made.finished("a").usage.cached_tokens, made.text("a")) == (0, made.text("warm"))
    made.submit("again", Text(LONG), **fields)
    made.run()
    assert made.finished("again").usage.cached_tokens > 100, "what was computed for it is kept"


def test_nothing_is_generated_where_no_token_is_asked_for(engine: Engine) -> None:
    made = session(engine, Text("One, two, three"), echo=True, logprobs=0, echo_logprobs=True, max_tokens=0)
    finished = made.finished("a")
    assert (finished.reason, finished.usage.completion_tokens, made.text("a"), told(made)) == ("length", 0, "", [])
    assert len(echoed(made)) == finished.usage.prompt_tokens > 4


@pytest.mark.parametrize("ending", ["end", "stop token", "half a character"])
def test_every_token_is_told_where_the_prompts_are(engine: Engine, ending: str) -> None:
    """So that those who count from the end find the prompt's."""
    octopus, end = (engine._model.tokenize(text, add_special=False)[0] for text in ("🐙", "<|im_end|>"))
    wanted = end if ending == "end" else octopus
    fields: dict[str, Any] = {"stop_tokens": [octopus]} if ending == "stop token" else {}
    sampling = Sampling(temperature=0, logit_bias={wanted: 100.0})
    made = session(
        engine, Text("Sea"), sampling=sampling, max_tokens=1, logprobs=0, echo=True, echo_logprobs=True, **fields
    )
    assert [(token.bytes, made.text("a")) for token in told(made)] == [(b"", "")]


def test_a_files_own_defaults_hold_unless_a_request_has_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.gguf"
    tiny_models.opinionated(path)
    with caplog.at_level(logging.WARNING, "shimmy.worker"):
        own = load_engine([str(path)], EngineOptions(context_length=256, num_sequences=2), lambda fraction: None)
        prompter = own.prompter()
    assert "general.sampling.top_p is '7.000000', which is ignored" in caplog.text

    def asked(sampling: Sampling) -> Sampling:
        made = Session(own)
        made.prompter = prompter
        made.submit("a", Tokens([5, 6]), sampling=sampling)
        request: Any = made.commands.get()
        resolved: Sampling = request.recipe.sampling
        return resolved

    assert (asked(Sampling()).temperature, asked(Sampling()).top_k, asked(Sampling()).top_p) == (0.0, 7, 0.95)
    assert asked(Sampling()).samplers == ("top_k", "temperature")
    assert asked(Sampling.of(temperature=0.8, top_k=None)).temperature == 0.8
    assert asked(Sampling(top_k=3)).top_k == 3
    greedy = {session(own, Tokens([5, 6]), max_tokens=8).text("a") for _ in range(3)}
    assert len(greedy) == 1, "as the file says"
    assert own._model.suppressed_tokens == {tiny_models.FIRST_TOKEN}
    forced = Sampling(temperature=0.0, logit_bias={tiny_models.FIRST_TOKEN: 100.0})
    assert session(own, Tokens([5, 6]), max_tokens=1, sampling=forced).text("a") != ".0"
