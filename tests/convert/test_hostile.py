"""Checkpoints whose small files say anything at all: what is wrong is a reason, and never another exception."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.convert.conversion import plan, write
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import files_of
from shimmy.models.facts import inspect
from shimmy.models.gguf import check_servable, read_header
from tests.convert.checkpoints import FAMILIES, write_checkpoint

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "1_Pooling/config.json")
VALUES: list[Any] = [None, True, 0, -1, 7, 1 << 31, 10**30, 1.5, -1e308, "", "x", "\ud800", [], [[]], {}, {"a": 1}]
ODD = st.sampled_from(VALUES)

Place = list[str | int]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostile")
    return {family: write_checkpoint(folder, family) for family in FAMILIES}


def places(value: Any, above: Place) -> list[Place]:
    """Of everything in a JSON value; of many elements that are alike, of the first ones."""
    inside: Sequence[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())[:30]
    elif isinstance(value, list):
        inside = list(enumerate(value))[:3]
    return [above, *(place for key, each in inside for place in places(each, [*above, key]))]


def replaced(value: Any, place: Place, new: Any) -> Any:
    if not place:
        return new
    changed = value.copy()
    changed[place[0]] = replaced(value[place[0]], place[1:], new)
    return changed


def convert(folder: Path, target: Path) -> None:
    """All that a server and then a worker do with it."""
    found = files_of(str(folder), os.listdir(folder))
    assert found is not None and found[1] is None
    inspect(found[0])
    with target.open("wb") as sink:
        write(plan(found[0], folder.name), sink, lambda fraction: None)
    check_servable([read_header(str(target))])


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_value_anywhere(
    data: st.DataObject, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = checkpoints[data.draw(st.sampled_from(list(FAMILIES)))]
    path = folder / data.draw(st.sampled_from([name for name in FILES if (folder / name).exists()]))
    before = path.read_bytes()
    known = json.loads(before)
    place = data.draw(st.sampled_from(places(known, [])))
    path.write_text(json.dumps(replaced(known, place, data.draw(ODD))))
    try:
        convert(folder, tmp_path_factory.getbasetemp() / "hostile.gguf")
    except ModelInvalid as error:
        assert error.message
    finally:
        path.write_bytes(before)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_byte_of_a_tokenizer_model(
    data: st.DataObject, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = checkpoints["mistral"]
    path = folder / "tokenizer.model"
    before = path.read_bytes()
    at = data.draw(st.one_of(st.integers(0, 60), st.integers(len(before) - 60, len(before) - 1)))
    path.write_bytes(before[:at] + data.draw(st.binary(max_size=5)) + before[at + data.draw(st.integers(0, 3)) :])
    try:
        convert(folder, tmp_path_factory.getbasetemp() / "hostile.gguf")
    except ModelInvalid as error:
        assert error.message
    finally:
        path.write_bytes(before)
