import re
from pathlib import Path

import pytest

from shimmy.core.request import Generation, Tokens
from shimmy.worker.engine import Engine
from shimmy.worker.fingerprint import Fingerprint


def fingerprint(paths: list[str], setup: dict[str, object]) -> str:
    return Fingerprint(paths, setup).of()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_it_names_content_and_setup_apart(tmp_path: Path) -> None:
    first = write(tmp_path / "a.gguf", bytes(range(256)) * 4096)
    same = write(tmp_path / "b.gguf", bytes(range(256)) * 4096)
    other = write(tmp_path / "c.gguf", bytes(range(256)) * 4095 + bytes(256))
    name, model, setup = fingerprint([first], {"length": 8, "build": "x"}).split("_")
    assert name == "fp"
    assert fingerprint([same], {"build": "x", "length": 8}) == f"fp_{model}_{setup}"
    assert fingerprint([other], {"length": 8, "build": "x"}).split("_")[1] != model
    changed = fingerprint([first], {"length": 9, "build": "x"}).split("_")
    assert changed[1] == model
    assert changed[2] != setup


def test_shards_count_in_their_order(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1", b"one"), write(tmp_path / "2", b"two")
    assert fingerprint([first, second], {}) != fingerprint([second, first], {})
    assert fingerprint([first, second], {}) != fingerprint([first], {})


def test_an_empty_file_has_one_too(tmp_path: Path) -> None:
    assert fingerprint([write(tmp_path / "empty", b"")], {}).startswith("fp_")


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        fingerprint([str(tmp_path / "none")], {})


def test_what_a_request_selects_belongs_to_it(tmp_path: Path) -> None:
    named = Fingerprint([write(tmp_path / "a.gguf", b"a model")], {"build": "x"})
    strong, weak = named.of(((0, 1.0),)), named.of(((0, 0.5),))
    assert len({named.of(), strong, weak}) == 3
    assert len({name.split("_")[1] for name in (named.of(), strong, weak)}) == 1
    assert named.of() == named.of(()) and named.of(((0, 1.0),)) == strong


@pytest.mark.model
def test_a_request_says_which_model_and_set_up_answer_it(engine: Engine, small_engine: Engine) -> None:
    asked = Generation(id="r", model="m", prompt=Tokens([1, 2]))
    long, short = (each.prompter().prepare(asked).fingerprint for each in (engine, small_engine))
    assert re.fullmatch(r"fp_[0-9a-f]{10}_[0-9a-f]{10}", long)
    assert long.split("_")[1] == short.split("_")[1], "it is one model"
    assert long != short, "with contexts that differ"
