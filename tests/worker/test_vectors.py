"""Vectors of real models: the ones that were published, however many are made at once, and beside streams."""

import math
import random
import time
from collections.abc import Sequence
from queue import SimpleQueue

import pytest

from shimmy.core.errors import ContextOverflow, RequestError, TooLarge, Unsupported
from shimmy.core.events import Embedded, Event, Failed, Finished, TextDelta
from shimmy.core.ipc import Abort, EngineOptions, Events
from shimmy.core.request import Embedding, Generation, Pooling, Sampling, Text, TokenId
from shimmy.worker.embedding import Embedder
from shimmy.worker.embedding_inputs import MAX_NUMBERS
from shimmy.worker.encoder import EncoderEngine, EncoderLoop
from shimmy.worker.engine import Engine
from shimmy.worker.llama.pooled import PooledContext
from shimmy.worker.loading import load
from shimmy.worker.loop import Closed, Command
from shimmy.worker.scheduler import Scheduler
from tests.models import minilm

pytestmark = pytest.mark.model
Input = str | list[TokenId]
WORDS = "the cat sat on a mat and saw two dogs that ran over green fields to old towns by some river".split()


def vectors(
    engine: EncoderEngine | Engine, inputs: Sequence[Input], *, tokens: int = 512, **fields: object
) -> list[list[float]]:
    embedder = engine.embedder() if isinstance(engine, EncoderEngine) else Embedder(engine._make_pooled_context)
    request = Embedding(id="a", model="m", inputs=list(inputs), **fields)  # type: ignore[arg-type]
    assert embedder.add(engine.inputs().prepare(request)) is None
    found: dict[int, bytes] = {}
    while embedder.has_work:
        for event in embedder.step(tokens):
            assert isinstance(event, Embedded), event
            found[event.index] = event.vectors
    assert sorted(found) == list(range(len(inputs)))
    return [list(memoryview(found[index]).cast("f")) for index in range(len(inputs))]


def cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def texts(count: int, most_words: int, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, most_words))) for _ in range(count)]


def test_the_published_similarities(encoder: EncoderEngine) -> None:
    found = vectors(encoder, minilm.SENTENCES)
    assert {len(vector) for vector in found} == {minilm.WIDTH}
    for (one, other), similarity in minilm.SIMILARITIES.items():
        assert cosine(found[one], found[other]) == pytest.approx(similarity, abs=0.002)
    assert [cosine(vector, vector) for vector in found] == pytest.approx([1.0] * 3, abs=1e-5)


def test_neither_packing_nor_order_changes_a_vector(encoder: EncoderEngine) -> None:
    inputs = texts(40, 60)
    packed, backwards = vectors(encoder, inputs), vectors(encoder, inputs[::-1])[::-1]
    for text, vector, other in zip(inputs, packed, backwards, strict=True):
        [alone] = vectors(encoder, [text])
        assert vector == pytest.approx(alone, abs=2e-4)
        assert other == pytest.approx(alone, abs=2e-4)


def test_tokens_make_the_vector_of_their_text(encoder: EncoderEngine) -> None:
    tokens = encoder._model.tokenize("A cat sat.", add_special=True)
    assert len(tokens) == 6
    one, other = vectors(encoder, ["A cat sat.", tokens])
    assert one == pytest.approx(other, abs=1e-5)


def test_an_input_may_be_as_long_as_the_model_allows(encoder: EncoderEngine) -> None:
    longest = [101, *[2000] * (minilm.MAX_TOKENS - 2), 102]
    assert len(vectors(encoder, ["before", longest, "after"])) == 3
    with pytest.raises(ContextOverflow) as caught:
        vectors(encoder, ["fine", [*longest, 102]])
    assert caught.value.param == "input[1]"
    assert caught.value.details == {"num_prompt_tokens": 513, "context_length": 512}


def test_an_empty_text_has_a_vector_where_the_model_adds_tokens(encoder: EncoderEngine, engine: Engine) -> None:
    assert len(vectors(encoder, [""])[0]) == minilm.WIDTH
    with pytest.raises(RequestError, match=r"input\[0\]: it has no tokens"):
        vectors(engine, [""])


@pytest.mark.parametrize("each", [[10**6], [-1], "\ud800"])
def test_what_would_abort_llama_is_refused_by_number(encoder: EncoderEngine, each: Input) -> None:
    with pytest.raises(RequestError) as caught:
        vectors(encoder, ["fine", each])
    assert caught.value.param == "input[1]"
    assert caught.value.message.startswith("input[1]: ")


def test_many_inputs(encoder: EncoderEngine) -> None:
    inputs = texts(2048, 3)
    found = vectors(encoder, inputs)
    for index in (0, 1000, 2047):
        assert found[index] == pytest.approx(vectors(encoder, [inputs[index]])[0], abs=2e-4)


def test_fewer_dimensions_are_scaled_anew(encoder: EncoderEngine) -> None:
    [whole], [part] = vectors(encoder, ["a cat"]), vectors(encoder, ["a cat"], dimensions=100)
    length = math.hypot(*whole[:100])
    assert part == pytest.approx([value / length for value in whole[:100]], abs=1e-6)
    assert len(vectors(encoder, ["a cat"], dimensions=384)[0]) == 384
    with pytest.raises(RequestError, match=r"dimensions: 385 are more than the model's 384"):
        vectors(encoder, ["a cat"], dimensions=385)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_poolings_are_made_of_the_vectors_of_tokens(encoder: EncoderEngine, pooling: Pooling) -> None:
    inputs = ["A cat sat.", "Two dogs."]
    width = minilm.WIDTH
    for rows, found in zip(
        vectors(encoder, inputs, pooling="none"), vectors(encoder, inputs, pooling=pooling, norm=-1), strict=True
    ):
        tokens = [rows[at : at + width] for at in range(0, len(rows), width)]
        means = [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]
        expected = {"mean": means, "cls": tokens[0], "last": tokens[-1]}[pooling]
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_vectors_of_all_tokens_have_to_fit_into_a_frame(encoder: EncoderEngine) -> None:
    most = MAX_NUMBERS // minilm.WIDTH
    inputs: list[Input] = [[2000] * 512] * (most // 512)
    request = Embedding(id="a", model="m", inputs=list(inputs), pooling="none")
    encoder.inputs().prepare(request)
    with pytest.raises(TooLarge) as caught:
        encoder.inputs().prepare(Embedding(id="a", model="m", inputs=[*inputs, [2000] * 512], pooling="none"))
    assert caught.value.param == "input"


def test_only_a_model_that_ranks_does(encoder: EncoderEngine) -> None:
    with pytest.raises(Unsupported, match="does not rank"):
        vectors(encoder, ["a"], query="b")
    with pytest.raises(Unsupported, match="does not rank"):
        vectors(encoder, ["a"], pooling="rank")


@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last", None])
def test_a_model_that_generates_makes_the_same_vectors_in_pieces(engine: Engine, pooling: Pooling | None) -> None:
    inputs = texts(3, 40)
    whole, pieces = vectors(engine, inputs, pooling=pooling), vectors(engine, inputs, pooling=pooling, tokens=24)
    for one, other in zip(whole, pieces, strict=True):
        # Activations are rounded to 8 bits in this model.
        assert cosine(one, other) / math.hypot(*one) / math.hypot(*other) > 0.998


def test_a_model_that_generates_understands_texts_by_their_last_tokens(engine: Engine) -> None:
    assert vectors(engine, ["A dog barks."]) == vectors(engine, ["A dog barks."], pooling="last")


class Session:
    """The loop of a model that generates, driven by hand; notes when each frame is sent."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.frames: list[tuple[float, list[Event]]] = []
        self.loop = engine.loop(self.commands, self._take)

    def _take(self, frame: Events) -> None:
        self.frames.append((time.monotonic(), frame.events))

    def generate(self, id: str, max_tokens: int) -> None:
        sampling = Sampling(temperature=0, ignore_eos=True)
        generation = Generation(id=id, model="m", prompt=Text("Once"), max_tokens=max_tokens, sampling=sampling)
        self.commands.put(self.engine.prompter().prepare(generation))

    def embed(self, id: str, inputs: Sequence[Input]) -> None:
        self.commands.put(self.engine.inputs().prepare(Embedding(id=id, model="m", inputs=list(inputs))))

    def run(self) -> None:
        while True:
            self.loop._receive(wait=False)
            busy = self.loop.step()
            self.loop._emit()
            if not busy:
                return

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for _, events in self.frames for event in events if isinstance(event, kind)]


def test_a_stream_goes_on_while_vectors_are_made(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # As little as there may be, so that it does not depend on the speed of this machine how many steps have some.
    monkeypatch.setattr(Scheduler, "spare_seconds", lambda scheduler: 0.0)
    alone = Session(engine)
    alone.generate("stream", 20)
    alone.run()
    session = Session(engine)
    session.generate("stream", 20)
    session.embed("vectors", texts(20, 30))
    session.run()
    assert [event for event in session.of(TextDelta)] == [event for event in alone.of(TextDelta)]
    assert len(session.of(Embedded)) == 20 and len(session.of(Finished)) == 1
    kinds = [{type(event) for event in events} for _, events in session.frames]
    last_text = max(at for at, kind in enumerate(kinds) if TextDelta in kind)
    # Both went on side by side, not one after the other.
    assert sum(Embedded in kind for kind in kinds[:last_text]) > 2


def test_an_abort_ends_the_vectors_and_not_the_stream(engine: Engine) -> None:
    session = Session(engine)
    session.embed("vectors", texts(200, 60))
    session.generate("stream", 5)
    session.loop._receive(wait=False)
    session.loop.step()
    session.commands.put(Abort("vectors"))
    session.run()
    assert len(session.of(Embedded)) < 60 and len(session.of(Finished)) == 1


def test_the_loop_of_an_encoder(encoder: EncoderEngine) -> None:
    commands: SimpleQueue[Command] = SimpleQueue()
    frames: list[list[Event]] = []
    reader = encoder.inputs()
    for id in ("a", "aborted", "b"):
        commands.put(reader.prepare(Embedding(id=id, model="m", inputs=["x", "y"])))
    commands.put(Abort("aborted"))
    commands.put(Failed("wrong", RequestError("no").fault()))

    def send(frame: Events) -> None:
        frames.append(frame.events)
        commands.put(Closed())

    EncoderLoop(commands, send, encoder.embedder()).run()
    assert sorted(event.id for event in frames[0]) == ["a", "a", "b", "b", "wrong"]


def test_a_shorter_context_is_heeded(encoder: EncoderEngine) -> None:
    short = load([str(minilm.path())], EngineOptions(context_length=16), lambda fraction: None)
    assert isinstance(short, EncoderEngine)
    assert short.facts(0.0).context_length == 16
    [one], [other] = vectors(short, ["a cat"]), vectors(encoder, ["a cat"])
    assert one == pytest.approx(other, abs=1e-5)
    with pytest.raises(ContextOverflow):
        vectors(short, [" ".join(WORDS)])


def test_a_context_holds_as_many_texts_as_it_says(encoder: EncoderEngine) -> None:
    context = encoder._context("mean")
    assert isinstance(context, PooledContext)
    count = context.num_sequences
    assert len(vectors(encoder, [[101, 102]] * (count + 1))) == count + 1
