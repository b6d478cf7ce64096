"""Headers of SafeTensors files: sound ones are read as they are, and of all others the reader says what is wrong."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.core.errors import ModelInvalid
from shimmy.models.safetensors import MAX_HEADER_BYTES, read_tensors
from tests.convert.checkpoints import write_tensors


def written(path: Path, header: Any, data: bytes = b"", *, claimed: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if claimed is None else claimed) + text + data)
    return path


def entry(dtype: str = "F16", shape: Any = (2, 3), begin: int = 0, end: int | None = None) -> dict[str, Any]:
    shape = list(shape) if isinstance(shape, tuple) else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + 12 if end is None else end]}


def refusal(path: Path) -> str:
    with pytest.raises(ModelInvalid) as caught:
        read_tensors(str(path))
    return caught.value.message


def test_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"b": ("F32", (2,), bytes(8)), "a": ("BF16", (1, 3), bytes(6)), "none": ("I64", (0,), b"")})
    tensors = {tensor.name: tensor for tensor in read_tensors(str(path))}
    start = path.stat().st_size - 14
    assert [(tensors[name].type, tensors[name].shape) for name in ("b", "a")] == [("F32", (2,)), ("BF16", (1, 3))]
    assert [(tensors[name].offset, tensors[name].size_bytes) for name in ("b", "a")] == [(start, 8), (start + 8, 6)]
    assert tensors["a"].num_elements == 3 and tensors["none"].num_elements == 0


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"x": entry(end=11)}, "tensor x of 12 bytes lies at [0, 11]"),
        ({"x": entry(), "y": entry(begin=6)}, "tensor y lies at byte"),
        ({"x": entry(begin=1)}, "tensor x lies at byte"),
        ({"x": entry(shape=(2, 2), end=8)}, "the tensors end at byte"),
        ({"x": entry(shape=(4, 3), end=24)}, "the tensors end at byte"),
        ({"x": entry(dtype="F12")}, "the unknown type 'F12'"),
        ({"x": entry(dtype=None)}, "the unknown type None"),  # type: ignore[arg-type]
        ({"x": entry(shape=(-2, 3))}, "has the shape [-2, 3]"),
        ({"x": entry(shape=(2, True))}, "has the shape [2, True]"),
        ({"x": entry(shape=(2.0, 3))}, "has the shape [2.0, 3]"),
        ({"x": entry(shape="23")}, "has the shape '23'"),
        ({"x": entry(shape=(1,) * 7 + (2, 3))}, "has the shape"),
        ({"x": entry(shape=(1 << 62, 1 << 62))}, "has the shape"),
        ({"x": entry(shape=(1 << 40, 1 << 40))}, "bytes lies at [0, 12]"),
        ({"x": {**entry(), "data_offsets": [0]}}, "lies at [0]"),
        ({"x": {**entry(), "data_offsets": [12, 0]}}, "lies at [12, 0]"),
        ({"x": {**entry(), "data_offsets": None}}, "lies at None"),
        ({"x": 7}, "the unknown type None"),
        ({"": entry()}, "a tensor is called ''"),
        ({"a\nb": entry()}, "a tensor is called 'a\\nb'"),
        ({"n" * 600: entry()}, "a tensor is called 'nnn"),
        ([], "its header starts with"),
        (b"{", "the header is no JSON"),
        (b"{\xff}", "the header is no JSON"),
        (b'{"x": ' + b"9" * 5000 + b"}", "the header is no JSON"),
        (b'{"a":' * 100_000, "the header is nested too deeply"),
        (b'{"x": {}, "x": {}}', "a key stands there twice"),
        (b'{"x": {"dtype": "F16", "dtype": "F16"}}', "a key stands there twice"),
    ],
)
def test_what_is_refused(tmp_path: Path, header: Any, reason: str) -> None:
    assert reason in refusal(written(tmp_path / "model.safetensors", header, bytes(12)))


def test_lengths_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for size in (0, 7):
        path.write_bytes(bytes(size))
        assert "truncated" in refusal(path)
    for claimed in (3, 1 << 40, (1 << 64) - 1):
        assert "truncated" in refusal(written(path, b"{}", claimed=claimed))
    with written(path, b"{}", claimed=MAX_HEADER_BYTES + 1).open("ab") as file:
        file.truncate(MAX_HEADER_BYTES + 100)
    assert "the limit is" in refusal(path)


def test_too_many_tensors(tmp_path: Path) -> None:
    nothing = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    assert "more than 65536 tensors" in refusal(
        written(tmp_path / "model.safetensors", dict.fromkeys(map(str, range(65537)), nothing))
    )


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_damage_is_a_reason_or_nothing(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is read afterwards, all of it lies within the file and nothing twice."""
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    write_tensors(path, {"a": ("F32", (2, 2), bytes(16)), "b": ("BF16", (3,), bytes(6))})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        content = content or bytearray(b"\0")
    path.write_bytes(content)
    try:
        tensors = read_tensors(str(path))
    except ModelInvalid as error:
        assert error.message
    else:
        assert sum(tensor.size_bytes for tensor in tensors) + 8 <= len(content)
        assert all(tensor.offset + tensor.size_bytes <= len(content) for tensor in tensors)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(
    header=st.dictionaries(
        st.text(max_size=4),
        json_values | st.fixed_dictionaries({"dtype": json_values, "shape": json_values, "data_offsets": json_values}),
        max_size=4,
    )
)
def test_any_header_is_a_reason_or_nothing(header: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.getbasetemp() / "odd.safetensors", header)
    try:
        tensors = read_tensors(str(path))
    except ModelInvalid as error:
        assert error.message
    else:
        assert all(tensor.size_bytes == 0 for tensor in tensors)
