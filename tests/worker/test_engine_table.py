"""What the `[engine]` table asks for is what llama.cpp does: by its own log, by what the system sees, and by what comes
out of it. (Where tensors go: test_placement.py.)"""

import os
import random
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ModelFailed
from shimmy.core.events import TextDelta
from shimmy.core.ipc import DiskCache, EngineOptions
from shimmy.core.request import Sampling, Tokens
from shimmy.worker.engine import Engine
from shimmy.worker.llama import backend
from shimmy.worker.loading import load_engine
from tests.worker import plain_loop, tiny_models
from tests.worker.conftest import DEMO
from tests.worker.test_engine import Session

pytestmark = pytest.mark.model
TRAINED = 4096
PROMPT = random.Random(3).choices(range(tiny_models.FIRST_TOKEN, tiny_models.VOCABULARY), k=150)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_models.full(path)
    return path


def load(path: Path, *, disk: Path | None = None, context_length: int | None = 256, **settings: Any) -> Engine:
    cache = DiskCache(os.fsencode(disk), 64 << 20) if disk else None
    packed = msgspec.msgpack.encode(EngineSettings(**settings))
    options = EngineOptions(
        context_length=context_length, num_sequences=1, num_threads=1, settings=packed, disk_cache=cache
    )
    return load_engine([str(path)], options, lambda fraction: None)


def said(path: Path, what: str, **settings: Any) -> str:
    """The rest of the line of llama.cpp's log that begins with `what`."""
    log: list[str] = []
    with backend.listening(log.append):
        load(path, **settings)
    [line] = [line for line in "".join(log).splitlines() if line.startswith(what)]
    return line.removeprefix(what).strip(" =")


def numbers(path: Path, **settings: Any) -> list[float]:
    """The log probabilities of the answer to a prompt, which everything that is computed otherwise changes."""
    session = Session(load(path, **settings))
    session.submit("a", Tokens(PROMPT), max_tokens=4, sampling=Sampling(temperature=0), logprobs=0)
    session.run()
    return [token.logprob or 0.0 for event in session.events if isinstance(event, TextDelta) for token in event.tokens]


def are_distinct(answers: Iterable[list[float]]) -> bool:
    listed = [tuple(answer) for answer in answers]
    return len(set(listed)) == len(listed)


BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5, "iq4_nl": 4.5}


@pytest.mark.parametrize(("keys", "values"), [*zip(BITS, BITS, strict=True), ("q8_0", "f16"), ("f16", "q4_0")])
def test_types_of_the_cache(keys: str, values: str) -> None:
    """A state, which is all that the cache holds of a sequence, has the size of these types."""
    log: list[str] = []
    with backend.listening(log.append):
        engine = load(DEMO, cache_type_k=keys, cache_type_v=values)
    [line] = [line for line in "".join(log).splitlines() if line.startswith("llama_kv_cache: size")]
    assert f"K ({keys}):" in line and f"V ({values}):" in line
    plain_loop.compute(engine._context, list(range(100, 200)))
    num_values = 100 * 30 * 3 * 64
    wanted = num_values * (BITS[keys] + BITS[values]) / 8
    assert engine._context.state_bytes(0) == pytest.approx(wanted, rel=0.02)


def test_a_type_that_does_not_fit_the_model(tiny: Path) -> None:
    with pytest.raises(ModelFailed, match="q8_0 with block size 32 does not divide n_embd_head_k=16"):
        load(tiny, cache_type_k="q8_0")


@pytest.mark.parametrize(("value", "name"), [("auto", "auto"), ("on", "enabled"), ("off", "disabled")])
def test_flash_attention(value: str, name: str, tiny: Path) -> None:
    assert said(tiny, "llama_context: flash_attn  ", flash_attn=value) == name


def test_flash_attention_makes_a_difference(tiny: Path) -> None:
    off, on = numbers(tiny, flash_attn="off"), numbers(tiny, flash_attn="on")
    assert off != on and off == pytest.approx(on, abs=0.05)


def test_batches_are_computed_in_parts(tiny: Path) -> None:
    assert said(tiny, "llama_context: n_ubatch  ", ubatch_size=64) == "64"
    assert numbers(tiny, ubatch_size=64) == pytest.approx(numbers(tiny), abs=0.05)


def test_positions(tiny: Path) -> None:
    assert said(tiny, "llama_context: freq_base  ", rope_freq_base=5000.0) == "5000.0"
    assert said(tiny, "llama_context: freq_scale  ", rope_freq_scale=0.5) == "0.5"
    assert said(tiny, "llama_context: freq_scale  ", rope_scaling="none") == "1"
    yarn: dict[str, Any] = {"rope_scaling": "yarn", "rope_freq_scale": 0.25}
    asked: list[dict[str, Any]] = [
        {},
        {"rope_freq_base": 5000.0},
        {"rope_scaling": "linear", "rope_freq_scale": 0.25},
        yarn,
        yarn | {"yarn_orig_ctx": 64},
        yarn | {"yarn_ext_factor": 0.5},
        yarn | {"yarn_ext_factor": 0.0, "yarn_attn_factor": 1.5},
        yarn | {"yarn_beta_fast": 4.0},
        yarn | {"yarn_beta_slow": 0.25},
    ]
    assert are_distinct(numbers(tiny, **each) for each in asked)


@pytest.mark.parametrize(
    ("settings", "wanted", "length"),
    [
        ({}, 2 * TRAINED, TRAINED),
        ({"rope_freq_scale": 0.25}, 3 * TRAINED, 3 * TRAINED),
        ({"rope_scaling": "yarn", "rope_freq_scale": 0.5}, 3 * TRAINED, 2 * TRAINED),
        ({"rope_scaling": "yarn", "rope_freq_scale": 0.5, "yarn_orig_ctx": 1024}, 3 * TRAINED, TRAINED),
        ({"rope_freq_scale": 2.0}, 3 * TRAINED, TRAINED),
        ({"rope_freq_base": 1e6}, 3 * TRAINED, 3 * TRAINED),
        ({"rope_freq_base": 1e6}, None, TRAINED),
        ({"rope_scaling": "yarn", "rope_freq_scale": 0.5}, None, 2 * TRAINED),
    ],
)
def test_scaled_positions_reach_further(settings: dict[str, Any], wanted: int, length: int, tiny: Path) -> None:
    assert load(tiny, context_length=wanted, **settings).facts(0.0).context_length == length


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"mmap": True}, "mmap"),
        ({"mmap": False}, "none"),
        ({"mlock": True}, "mmap+mlock"),
        ({"mlock": True, "mmap": False}, "mlock"),
        ({"direct_io": True}, "dio"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what a process has mapped")
def test_how_a_file_is_read(settings: dict[str, Any], mode: str, tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(tiny, tmp_path / f"{mode}.gguf"))
    locked = locked_bytes()
    line = said(copy, "load_tensors: loading model tensors", **settings)
    assert line.endswith(f"(load_mode = {mode})")
    assert (str(copy) in Path("/proc/self/maps").read_text()) is ("mmap" in mode)
    assert (locked_bytes() > locked) is ("mlock" in mode)


def locked_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmLck:"))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_memory_that_cannot_be_locked_deserves_a_warning(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, limits[1]))
    try:
        can_lock_anything = os.geteuid() == 0 and _may_lock()
        load(tiny, mlock=True)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
    warned = "mlock: the system does not let this user lock so much memory" in caplog.text
    assert warned is not can_lock_anything


def _may_lock() -> bool:
    """Whether limits do not hold for this process (CAP_IPC_LOCK)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return bool(next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")) >> 14 & 1)


def test_a_state_on_disk_fits_its_own_kind_of_context_only(tiny: Path, tmp_path: Path) -> None:
    """Each kind finds what it has stored itself, and nothing of the others."""
    kinds: list[dict[str, Any]] = [
        {},
        {"cache_type_k": "f32"},
        {"cache_type_v": "bf16"},
        {"flash_attn": "off"},
        {"rope_freq_base": 5000.0},
        {"rope_scaling": "yarn", "rope_freq_scale": 0.5},
        {"rope_scaling": "linear", "rope_freq_scale": 0.5},
    ]
    for cached in (0, len(PROMPT) - 1):
        for kind in kinds:
            engine = load(tiny, disk=tmp_path / "states", **kind)
            session = Session(engine)
            session.submit("a", Tokens(PROMPT), max_tokens=2, sampling=Sampling(temperature=0))
            session.run()
            assert session.finished("a").usage.cached_tokens == cached
            assert engine._disk is not None
            engine._disk.close(60.0)
