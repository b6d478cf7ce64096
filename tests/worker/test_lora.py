"""LoRA adapters under the real engine: each request is computed with the adapters that it wants and with no others, and
a file that llama.cpp cannot use is refused before it can harm the worker."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.ipc import Adapter, DiskCache, EngineOptions
from shimmy.core.request import LoraScale, Sampling, Secret, Tokens
from shimmy.worker.engine import Engine
from shimmy.worker.loading import load_engine
from tests.worker import tiny_models
from tests.worker.conftest import DEMO
from tests.worker.lora_files import adapter
from tests.worker.test_engine import Session, ask

pytestmark = pytest.mark.model
GREEDY = Sampling(temperature=0)
DICE = random.Random(5)
PROMPT = DICE.choices(range(tiny_models.FIRST_TOKEN, tiny_models.VOCABULARY), k=100)
# With these the logits of a token are the same bit for bit, whatever else is in a batch (docs/speculative.md).
EXACT: dict[str, Any] = {"context_length": 256, "num_threads": 1}
EVERYTHING = r"(blk\.\d+\.(attn|ffn)_\w+|token_embd|output)\.weight"


class Tiny:
    """A tiny model with two adapters; `session` has an engine of its own for each set of options."""

    def __init__(self, folder: Path, kind: str = "full") -> None:
        self.folder = folder
        self.model = folder / f"{kind}.gguf"
        tiny_models.KINDS[kind](self.model)
        self.poet = adapter(folder / "poet.gguf", self.model, seed=1)
        self.clerk = adapter(folder / "clerk.gguf", self.model, seed=2, targets=EVERYTHING)

    def session(self, *adapters: Adapter, **options: Any) -> Session:
        given: dict[str, Any] = {**EXACT, "num_sequences": 4, "adapters": adapters, **options}
        return Session(load_engine([str(self.model)], EngineOptions(**given), lambda fraction: None))

    def both(self, poet: float = 0.0, clerk: float = 0.0, **options: Any) -> Session:
        adapters = Adapter("poet", str(self.poet), poet), Adapter("clerk", str(self.clerk), clerk)
        return self.session(*adapters, **options)


# Where layers see a window, the order of the cells, and with it the last bit of a sum, depends on what else is there.
@pytest.fixture(scope="module", params=["full", "hybrid"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("full"))


def submit(session: Session, name: str, lora: list[LoraScale] | None, prompt: list[int] = PROMPT, **more: Any) -> None:
    session.submit(name, Tokens(prompt), sampling=GREEDY, max_tokens=12, lora=lora, **more)


def answer(session: Session, lora: list[LoraScale] | None = None, prompt: list[int] = PROMPT, **more: Any) -> str:
    name = str(len(session.events))
    submit(session, name, lora, prompt, **more)
    session.run()
    return session.text(name)


WISHES: list[list[LoraScale] | None] = [
    [],
    [LoraScale(name="poet")],
    [LoraScale(name="poet", scale=0.5)],
    [LoraScale(name="clerk")],
    [LoraScale(id=0, scale=0.5), LoraScale(id=1, scale=-1.0)],
    [LoraScale(name="poet", scale=0)],
    None,
]


def test_each_gets_what_it_gets_alone(tiny: Tiny) -> None:
    """All that is asked for makes a difference, at the scale at which it is; and the prompts have one beginning."""
    prompts = [PROMPT[:60] + [tiny_models.FIRST_TOKEN + number] * 5 for number in range(3)]
    alone = {}
    plain = tiny.session()
    for prompt in range(3):
        for wish in range(len(WISHES)):
            alone[prompt, wish] = answer(tiny.both(poet=1.0), WISHES[wish], prompts[prompt])
        assert len({alone[prompt, wish] for wish in range(5)}) == 5
        assert alone[prompt, 0] == alone[prompt, 5] == answer(plain, None, prompts[prompt])
        assert alone[prompt, 6] == alone[prompt, 1]
    mixed = tiny.both(poet=1.0, num_sequences=3)
    order = random.Random(1).sample(sorted(alone), len(alone))
    for prompt, wish in order:
        submit(mixed, f"{prompt} {wish}", WISHES[wish], prompts[prompt])
        for _ in range(2):
            mixed.loop._receive(wait=False)
            mixed.loop.step()
            mixed.loop._emit()
    mixed.run()
    assert {(prompt, wish): mixed.text(f"{prompt} {wish}") for prompt, wish in alone} == alone


def test_scales_at_load_hold_for_requests_that_do_not_say(full: Tiny) -> None:
    told = full.both(poet=0.5, clerk=0.0)
    assert answer(told) == answer(full.both(), [LoraScale(name="poet", scale=0.5)])
    assert answer(told, []) == answer(full.session())


def test_states_in_ram_are_those_of_their_adapters(full: Tiny) -> None:
    """A context that holds one prompt: each is saved when the next one comes, and found again by its own kind."""
    session = full.both(context_length=256, num_sequences=1)
    wishes = [[LoraScale(id=0)], [], [LoraScale(id=1)]]
    for again in (False, True):
        for number, wish in enumerate(wishes):
            name = f"{number} {again}"
            submit(session, name, wish, PROMPT)
            session.run()
            assert (session.finished(name).usage.cached_tokens > 0) is again
            assert session.text(name) == session.text(f"{number} False")


def cached(tiny: Tiny, states: Path, lora: list[LoraScale] | None, *adapters: Adapter) -> int:
    """How much of the prompt a worker that has just been started finds on the disk."""
    disk = DiskCache(bytes(states), 64 << 20)
    options = EngineOptions(context_length=512, adapters=adapters, disk_cache=disk, prefix_ram_bytes=0)
    engine = load_engine([str(tiny.model)], options, lambda fraction: None)
    session = Session(engine)
    submit(session, "a", lora)
    session.run()
    assert engine._disk is not None
    engine._disk.close(60.0)
    return session.finished("a").usage.cached_tokens


def test_states_on_disk_are_those_of_their_adapters(full: Tiny, tmp_path: Path) -> None:
    """By what the files hold, whatever they are called and in whichever order they come."""
    states = tmp_path / "states"
    poet, clerk = Adapter("poet", str(full.poet)), Adapter("clerk", str(full.clerk), 0.0)
    renamed = Adapter("bard", str(shutil.copy2(full.poet, tmp_path / "bard.gguf")), 0.0)
    other = Adapter("poet", str(adapter(tmp_path / "poet.gguf", full.model, seed=9)))
    assert cached(full, states, None, poet) == 0
    assert cached(full, states, None, poet) == len(PROMPT) - 1
    assert cached(full, states, [LoraScale(name="bard")], clerk, renamed) == len(PROMPT) - 1
    assert cached(full, states, [LoraScale(name="bard", scale=0.9)], clerk, renamed) == 0
    assert cached(full, states, None, other) == 0
    assert cached(full, states, [], other) == 0
    assert cached(full, states, None) == len(PROMPT) - 1


def test_a_key_of_ones_own_keeps_adapters_apart_too(full: Tiny) -> None:
    session = full.both()
    for number, wish in enumerate([[], [LoraScale(id=0)], [LoraScale(id=0)]]):
        submit(session, str(number), wish, encryption_key=Secret(b"k" * 32))
        session.run()
    counts = [session.finished(str(number)).usage.cached_tokens for number in range(3)]
    assert counts[:2] == [0, 0] and counts[2] > 0


def test_the_demo_model(tmp_path: Path) -> None:
    """Each alone, since the last bit of what a real model computes depends on how many rows a batch has."""
    file = adapter(tmp_path / "lora.gguf", DEMO, strength=0.5)

    def told(engine: Engine, lora: list[LoraScale] | None) -> str:
        session = Session(engine)
        session.submit("a", ask("Name a colour."), sampling=GREEDY, max_tokens=16, lora=lora)
        session.run()
        return session.text("a")

    adapted = EngineOptions(**EXACT, adapters=(Adapter("lora", str(file)),))
    engine = load_engine([str(DEMO)], adapted, lambda fraction: None)
    assert engine.facts(0.0).adapters == {"lora": 1.0}
    plain = told(load_engine([str(DEMO)], EngineOptions(**EXACT), lambda fraction: None), None)
    full, half = told(engine, None), told(engine, [LoraScale(id=0, scale=0.5)])
    assert told(engine, [LoraScale(name="lora", scale=0.0)]) == told(engine, []) == plain
    assert told(engine, [LoraScale(name="lora")]) == full
    assert len({plain, full, half}) == 3


def test_a_name_that_is_unknown_is_the_requests_fault(full: Tiny) -> None:
    with pytest.raises(RequestError, match="no adapter 'x'; there are: poet, clerk"):
        submit(full.both(), "a", [LoraScale(name="x")])


def truncated(path: Path, tiny: Tiny) -> Path:
    content = tiny.poet.read_bytes()
    path.write_bytes(content[: len(content) - 1000])
    return path


def text_file(path: Path, tiny: Tiny) -> Path:
    path.write_text("This is no adapter. " * 10)
    return path


def pair(name: str, down: tuple[int, ...], up: tuple[int, ...], type: Any = np.float32) -> Callable[[Path, Tiny], Path]:
    """A file with two tensors of these shapes, rows' length last."""

    def write(path: Path, tiny: Tiny) -> Path:
        writer = gguf.GGUFWriter(path, "gemma3")
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 4.0)
        writer.add_tensor(f"{name}.lora_a", np.ones(down, type))
        writer.add_tensor(f"{name}.lora_b", np.ones(up, type))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def made(**more: Any) -> Callable[[Path, Tiny], Path]:
    return lambda path, tiny: adapter(path, tiny.model, **more)


QUERY = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (text_file, "not a GGUF file"),
        (truncated, "truncated"),
        (lambda path, tiny: path, "cannot be read: No such file"),
        (lambda path, tiny: tiny.model, "it is no LoRA adapter"),
        (made(general__type="model"), "it is no LoRA adapter"),
        (made(adapter__type="dora"), "it is no LoRA adapter"),
        (made(general__architecture="llama"), "for models of the architecture llama, and this is gemma3"),
        (made(adapter__alora__invocation_tokens=[1, 2]), "an activated LoRA, which is not supported"),
        (made(targets="nothing"), "it has no tensors"),
        (pair("blk.7.attn_q.weight", (4, 64), (64, 4)), "no tensor blk.7.attn_q.weight: it is for another model"),
        (pair(QUERY, (4, 32), (64, 4)), "do not fit the model's (64, 64)"),
        (pair(QUERY, (4, 64), (64, 8)), "do not fit"),
        (pair(QUERY, (4, 64), (32, 4)), "do not fit"),
        (pair(QUERY, (2, 4, 64), (2, 64, 4)), "do not fit"),
        (pair("token_embd.weight", (259, 4), (64, 8)), "do not fit"),
        (pair("token_embd.weight", (4, 259), (64, 4)), "do not fit"),
        (pair(QUERY, (4, 64), (64, 4), np.int32), "have the type I32, not F32, F16, BF16, Q8_0"),
    ],
)
def test_what_cannot_be_used_is_refused(
    write: Callable[[Path, Tiny], Path], reason: str, full: Tiny, tmp_path: Path
) -> None:
    path = write(tmp_path / "bad.gguf", full)
    with pytest.raises(ModelInvalid) as raised:
        full.session(Adapter("good", str(full.poet)), Adapter("bad", str(path)))
    assert str(path) in raised.value.message and reason in raised.value.message


def test_an_embedding_can_have_one(full: Tiny, tmp_path: Path) -> None:
    write = pair("token_embd.weight", (259, 4), (64, 4), np.float16)
    session = full.session(Adapter("embedding", str(write(tmp_path / "e.gguf", full))))
    assert answer(session) != answer(session, [])
