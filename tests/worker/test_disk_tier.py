"""The disk tier under the real engine: after a restart a prompt goes on where it was, and whatever is wrong is a miss.

What is compared is what a restart may change: the answer is that of an engine that computes all of it.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shimmy.core.events import Finished
from shimmy.core.ipc import Answer, DiskCache, EngineOptions, Events, Generate, Pause, Resume, ToWorker
from shimmy.core.request import Generation, Sampling, Secret, Tokens
from shimmy.worker.disk.index import _LIST_AGAIN_SECONDS
from shimmy.worker.engine import Engine
from shimmy.worker.llama.libllama import find
from shimmy.worker.llama.model import Model
from shimmy.worker.loading import load_engine
from tests.worker import tiny_models
from tests.worker.test_engine import Session
from tests.worker.test_reuse import plain_tokens, workload

pytestmark = pytest.mark.model
GREEDY = Sampling(temperature=0)
CONTEXT = 512
LIMIT = 64 << 20
LIMIT_SECONDS = 60.0
KEY = b"k" * 32
DICE = random.Random(5)
TOKENS = DICE.choices(range(tiny_models.FIRST_TOKEN, tiny_models.VOCABULARY), k=1000)
PROMPT = TOKENS[:200]


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    tiny_models.KINDS[request.param](path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_models.full(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


@pytest.fixture
def states(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "states"


class Life:
    """One worker's: an engine with its loop, from start to end."""

    def __init__(self, model: Path, states: Path | None, key: bytes | None = None, **options: int) -> None:
        disk = DiskCache(os.fsencode(states), LIMIT, Secret(key) if key else None) if states else None
        given: dict[str, Any] = {"context_length": CONTEXT, "num_sequences": 4, "prefix_ram_bytes": 0}
        given |= {"disk_cache": disk, **options}
        self.engine: Engine = load_engine([str(model)], EngineOptions(**given), lambda fraction: None)
        self.session = Session(self.engine)
        self.session.prompter = self.engine.prompter()

    def submit(self, name: str, prompt: list[int], max_tokens: int = 8, **fields: object) -> None:
        self.session.submit(name, Tokens(prompt), max_tokens=max_tokens, sampling=GREEDY, **fields)

    def ask(self, name: str, prompt: list[int], **fields: object) -> int:
        """How much of the prompt was there."""
        self.submit(name, prompt, **fields)  # type: ignore[arg-type]
        self.session.run()
        return self.session.finished(name).usage.cached_tokens

    def end(self) -> None:
        if self.engine._disk is not None:
            self.engine._disk.close(LIMIT_SECONDS)


def stored(model: Path, states: Path, *prompts: list[int], key: bytes | None = None, **fields: object) -> None:
    """By a worker that has ended since."""
    life = Life(model, states, key)
    for number, prompt in enumerate(prompts or [PROMPT]):
        assert life.ask(str(number), prompt, **fields) == 0
    life.end()


def cached(model: Path, states: Path | None, prompt: list[int] = PROMPT, **options: object) -> int:
    """By the next worker; a look at the answer included."""
    key = options.pop("key", None)
    life = Life(model, states, key)  # type: ignore[arg-type]
    found = life.ask("again", prompt, **options)
    expected = plain_tokens(life.engine, prompt, 8)
    life.end()
    text = "".join(f".{token - tiny_models.FIRST_TOKEN}" for token in expected)
    assert life.session.text("again").startswith(text)
    return found


def files(states: Path) -> list[Path]:
    return sorted(states.iterdir())


def wait_for(states: Path, num_entries: int) -> None:
    """Until so many are stored, and those who look for them see it."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while len([*states.glob("*.kv")]) < num_entries:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(2 * _LIST_AGAIN_SECONDS)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_after_a_restart_a_prompt_is_not_computed_again(any_model: Path, states: Path, key: bytes | None) -> None:
    stored(any_model, states, key=key)
    assert cached(any_model, states, key=key) == 199
    assert cached(any_model, states, PROMPT + TOKENS[500:540], key=key) in (199, 200)
    assert cached(any_model, states, TOKENS[300:500], key=key) == 0


def test_a_beginning_that_prompts_share_is_found_after_a_restart(any_model: Path, states: Path) -> None:
    stored(any_model, states, PROMPT + TOKENS[500:540])
    first = cached(any_model, states, PROMPT + TOKENS[600:640])
    # Where a state fits only its end, another one is stored from the second time on that prompts part there.
    second = cached(any_model, states, PROMPT + TOKENS[700:740])
    assert (first, second) == (200, 200) or (first == 0 and second == 200)


def test_a_beginning_that_was_in_the_cache_is_stored_too(any_model: Path, states: Path) -> None:
    life = Life(any_model, states, prefix_ram_bytes=1 << 20)
    assert life.ask("first", PROMPT + TOKENS[500:540]) == 0
    wait_for(states, 1)
    life.ask("second", PROMPT + TOKENS[600:640])
    life.end()
    assert cached(any_model, states, PROMPT + TOKENS[700:740]) == 200


def test_the_next_turn_finds_the_answer_too(model: Path, states: Path) -> None:
    life = Life(model, states)
    life.ask("first", PROMPT, max_tokens=60)
    answer = [int(each) + tiny_models.FIRST_TOKEN for each in life.session.text("first").split(".")[1:]]
    life.end()
    assert cached(model, states, PROMPT + answer + TOKENS[500:520]) == 200 + 59


def test_a_prompt_is_stored_while_its_answer_goes_on(model: Path, states: Path) -> None:
    """So that it outlives a worker that is killed."""
    life = Life(model, states)
    life.submit("long", PROMPT, max_tokens=250)
    life.session.run(until=lambda: bool(life.session.text("long")))
    assert not states.exists(), "the first token goes first"
    life.session.run(until=lambda: True)
    wait_for(states, 1)
    assert cached(model, states) == 199


def test_at_its_end_a_worker_stores_what_waits(model: Path, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.3)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", slow)
    finished = threading.Event()

    def messages() -> Iterator[ToWorker]:
        generation = Generation(id="a", model="m", prompt=Tokens(PROMPT), max_tokens=2, sampling=GREEDY)
        yield Generate(generation)
        assert finished.wait(60)

    def send(frame: Events | Answer) -> None:
        assert isinstance(frame, Events)
        if any(isinstance(event, Finished) for event in frame.events):
            finished.set()

    Life(model, states).engine.run(messages(), send)
    assert [path.suffix for path in files(states)] == [".kv"]
    assert cached(model, states) == 199


def test_a_state_is_saved_only_when_it_is_wanted(model: Path, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(model, states)
    life = Life(model, states)
    saved = []
    save_state = life.engine._context.save_state

    def counted(sequence: int) -> bytes:
        saved.append(sequence)
        return save_state(sequence)

    monkeypatch.setattr(life.engine._context, "save_state", counted)
    assert life.ask("same", PROMPT) == 199
    assert life.ask("a little more", PROMPT + TOKENS[500:505]) == 200
    assert life.ask("short", TOKENS[600:650]) == 0
    assert saved == []
    assert life.ask("much more", PROMPT + TOKENS[500:540]) == 205
    assert len(saved) == 1


def test_without_the_tier_nothing_is_found_and_nothing_written(model: Path, states: Path) -> None:
    assert cached(model, None) == 0
    assert not states.exists()


def test_another_key_is_a_miss(model: Path, states: Path) -> None:
    stored(model, states, key=KEY)
    for key in (None, b"o" * 32):
        assert cached(model, states, key=key) == 0
    assert cached(model, states, key=KEY) == 199


def test_a_request_with_a_key_of_its_own_shares_with_nobody_else(model: Path, states: Path) -> None:
    own = Secret(KEY)
    stored(model, states, encryption_key=own)
    assert cached(model, states, encryption_key=Secret(b"o" * 32)) == 0
    assert cached(model, states, encryption_key=own, tenant="other") == 0
    assert cached(model, states, encryption_key=own) == 199
    assert not any(KEY in path.read_bytes() for path in files(states))


def test_in_ram_and_cells_such_requests_share_nothing_either(model: Path) -> None:
    life = Life(model, None)
    own = Secret(KEY)
    assert life.ask("open", PROMPT) == 0
    assert life.ask("own", PROMPT, encryption_key=own) == 0
    assert life.ask("other", PROMPT, encryption_key=Secret(b"o" * 32)) == 0
    assert life.ask("own again", PROMPT, encryption_key=own) == 199


def test_tenants_share_nothing(model: Path, states: Path) -> None:
    stored(model, states, tenant="ann")
    assert cached(model, states, tenant="bob") == 0
    assert cached(model, states) == 0
    assert cached(model, states, tenant="ann") == 199


def test_another_model_is_a_miss(model: Path, states: Path) -> None:
    stored(model, states)
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    status = model.stat()
    model.write_bytes(content)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cached(model, states) == 0
    content[-5] ^= 1
    model.write_bytes(content)
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cached(model, states) == 199


def test_another_build_is_a_miss(model: Path, states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(model, states)

    def rebuilt(name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(find(name).read_bytes() + b"another")
        return path

    monkeypatch.setattr("shimmy.worker.disk_tier.find", rebuilt)
    assert cached(model, states) == 0


def test_another_length_of_the_context_is_a_miss(model: Path, states: Path) -> None:
    """Because of it llama.cpp may rotate what it stores differently."""
    stored(model, states)
    assert Life(model, states, context_length=CONTEXT * 2).ask("longer", PROMPT) == 0
    assert Life(model, states, num_sequences=2, num_threads=1).ask("fewer", PROMPT) == 199


def test_a_model_that_is_replaced_while_it_is_loaded_has_no_tier(
    model: Path, states: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def replacing(paths: list[str], *rest: Any) -> Model:
        loaded = Model(paths, *rest)
        shutil.copy(model, f"{model}.new")
        os.replace(f"{model}.new", model)
        return loaded

    monkeypatch.setattr("shimmy.worker.loading.Model", replacing)
    life = Life(model, states)
    assert life.engine._disk is None and "has changed since it was loaded" in caplog.text
    assert life.ask("still answered", PROMPT) == 0


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a folder", "of llama.cpp"])
def test_a_damaged_entry_is_a_miss(model: Path, states: Path, damage: str, key: bytes | None) -> None:
    stored(model, states, key=key)
    [path] = files(states)
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "empty":
            path.write_bytes(b"")
        case "a folder":
            path.unlink()
            path.mkdir()
        case "of llama.cpp":
            path.write_bytes(b"ggsq" + content)
    assert cached(model, states, key=key) == 0


def test_a_folder_that_is_removed_while_running_is_a_miss(model: Path, states: Path) -> None:
    life = Life(model, states, prefix_ram_bytes=0)
    for number in range(3):
        assert life.ask(f"cold {number}", TOKENS[number * 200 : number * 200 + 200]) == 0
        shutil.rmtree(states.parent, ignore_errors=True)
    assert life.ask("again", TOKENS[:200]) in (0, 199)
    assert life.ask("new", TOKENS[600:800]) == 0
    life.end()
    assert cached(model, states, TOKENS[600:800]) == 199


def test_two_workers_use_one_folder_at_the_same_time(model: Path, states: Path) -> None:
    one, other = Life(model, states), Life(model, states)
    for number in range(3):
        prompt = TOKENS[number * 200 : number * 200 + 200]
        writer, reader = (one, other) if number % 2 else (other, one)
        assert writer.ask(f"cold {number}", prompt) == 0
        wait_for(states, number + 1)
        assert reader.ask(f"found {number}", prompt) == 199
    one.end()
    other.end()


def test_any_mix_over_several_lives_gives_every_request_what_it_gets_alone(any_model: Path, states: Path) -> None:
    """In a cache that is too small for them."""
    dice = random.Random(11)
    specs = [each for each in workload(dice, 10) if each[0]]
    alone = Life(any_model, None, context_length=256).engine
    expected = [plain_tokens(alone, prompt, max_tokens) for prompt, max_tokens, _ in specs]
    found = 0
    for _ in range(3):
        life = Life(any_model, states, context_length=256, prefix_ram_bytes=1 << 20)
        for number, (prompt, max_tokens, n) in enumerate(specs):
            life.submit(str(number), prompt, max_tokens, num_choices=n)
            steps = iter(range(dice.choice([0, 1, 3, 60])))
            life.session.run(until=lambda steps=steps: next(steps, None) is None)  # type: ignore[misc]
        life.session.run()
        for number, (_, _, n) in enumerate(specs):
            text = "".join(f".{token - tiny_models.FIRST_TOKEN}" for token in expected[number])
            for index in range(n):
                assert life.session.text(str(number), index).startswith(text)
        found += life.session.finished("0").usage.cached_tokens
        life.session.loop._scheduler.check()
        life.end()
        dice.shuffle(order := list(range(len(specs))))
        specs, expected = [specs[each] for each in order], [expected[each] for each in order]
    assert found > 0


def test_who_runs_does_not_wait_for_the_whole_state(model: Path, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(model, states)
    life = Life(model, states)
    monkeypatch.setattr("shimmy.worker.scheduler.FETCH_SECONDS", 1e-9)
    monkeypatch.setattr("shimmy.worker.disk.entry._CHUNK_BYTES", 1 << 12)
    life.submit("runs", TOKENS[500:520], max_tokens=200)
    life.session.run(until=lambda: bool(life.session.text("runs")))
    before = len(life.session.text("runs"))
    life.submit("waits", PROMPT)
    life.session.run(until=lambda: bool(life.session.text("waits")))
    assert len(life.session.text("runs")) - before > 10, "a token in each step"
    life.session.run()
    assert life.session.finished("waits").usage.cached_tokens == 199
    life.end()


def test_a_reader_that_pauses_holds_nobody_up(model: Path, states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(model, states)
    life = Life(model, states)
    monkeypatch.setattr("shimmy.worker.scheduler.FETCH_SECONDS", 1e-9)
    life.submit("pauses", TOKENS[500:520], max_tokens=20)
    life.session.run(until=lambda: bool(life.session.text("pauses")))
    life.session.commands.put(Pause("pauses"))
    assert life.ask("goes on", PROMPT) == 199
    life.session.commands.put(Resume("pauses"))
    life.session.run()
    assert life.session.finished("pauses")
    life.end()
