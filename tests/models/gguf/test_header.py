"""The header reader against files of our own writer, of the `gguf` package, and the demo model."""

import os
import struct
from pathlib import Path

import gguf
import numpy
import pytest

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf import Array, Header, read_header
from shimmy.models.gguf.tensors import TENSOR_TYPES
from tests.fakes.gguf_writer import GGUF, TensorSpec, Typed, model

DEMO = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def read(file: GGUF | bytes, folder: Path) -> Header:
    path = folder / "file.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.encode())
    return read_header(str(path))


def refusal(file: GGUF | bytes, folder: Path) -> str:
    with pytest.raises(ModelInvalid) as error:
        read(file, folder)
    return error.value.message


@pytest.mark.parametrize("version", [2, 3])
def test_reads_scalars_arrays_and_tensors(version: int, tmp_path: Path) -> None:
    values = {
        "general.name": "näme",
        "a": Typed("u8", 255),
        "b": Typed("i8", -1),
        "c": Typed("u16", 65535),
        "d": Typed("i16", -2),
        "e": Typed("u64", 2**63),
        "f": Typed("i64", -3),
        "g": Typed("f64", 0.5),
        "h": True,
        "i": 1.5,
    }
    tensors = [TensorSpec("one", (8, 2)), TensorSpec("two", (32,), type_code=2, size_bytes=18)]
    header = read(GGUF(values | {"list": ["x", "yy"], "end": 7}, tensors, version), tmp_path)
    plain = {key: value.value if isinstance(value, Typed) else value for key, value in values.items()}
    array = header.metadata.pop("list")
    assert header.metadata == plain | {"end": 7}
    assert isinstance(array, Array) and (array.element, array.length) == ("str", 2)
    assert [(t.name, t.shape, t.type, t.size_bytes, t.offset) for t in header.tensors] == [
        ("one", (8, 2), "F32", 64, 0),
        ("two", (32,), "Q4_0", 18, 64),
    ]
    assert header.num_parameters == 48


def test_agrees_with_the_gguf_package_on_its_own_file(tmp_path: Path) -> None:
    path = str(tmp_path / "theirs.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_block_count(3)
    writer.add_token_list([f"token {number}" for number in range(1000)])
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("a.weight", numpy.ones((5, 7), dtype=numpy.float32))
    writer.add_tensor("b.weight", numpy.ones((9,), dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    compare(path)


@pytest.mark.model
@pytest.mark.skipif(not DEMO.exists(), reason="make model fetches the demo model")
def test_agrees_with_the_gguf_package_on_the_demo_model() -> None:
    compare(str(DEMO))


def compare(path: str) -> None:
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    fields = {key: value for key, value in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.data_offset == theirs.data_offset
    assert ours.metadata.keys() == fields.keys()
    for key, value in ours.metadata.items():
        if isinstance(value, Array):
            assert value.length == len(fields[key].data)
        else:
            assert value == fields[key].contents()
    described = [(t.name, t.shape, t.type, t.size_bytes, ours.data_offset + t.offset) for t in ours.tensors]
    assert described == [
        (t.name, tuple(int(extent) for extent in t.shape), t.tensor_type.name, t.n_bytes, t.data_offset)
        for t in theirs.tensors
    ]


def test_tensor_types_agree_with_the_gguf_package() -> None:
    theirs = {kind.value: (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {code: tuple(TENSOR_TYPES[code]) for code in theirs} == theirs


def test_a_text_too_long_to_keep_is_stepped_over(tmp_path: Path) -> None:
    header = read(GGUF({"tokenizer.huggingface.json": "x" * (3 << 20), "after": 1}), tmp_path)
    long = header.metadata["tokenizer.huggingface.json"]
    assert isinstance(long, Array) and long.length == 3 << 20
    assert header.integer("after") == 1


def test_accessors_ignore_values_of_another_kind(tmp_path: Path) -> None:
    header = read(GGUF({"flag": True, "word": "text", "number": 5, "real": 1.0}), tmp_path)
    assert [header.integer(key) for key in ("flag", "word", "number", "real", "absent")] == [None, None, 5, None, None]
    assert [header.text(key) for key in ("number", "word", "absent")] == [None, "text", None]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "truncated: the header goes on to byte 24, the file has 0"),
        (b"GGML" + bytes(40), "not a GGUF file: it starts with b'GGML'"),
        (GGUF(version=1), "GGUF version 1 is not supported, only 2 and 3"),
        (GGUF(version=4), "GGUF version 4 is not supported, only 2 and 3"),
        (GGUF(version=3 << 24), "a big-endian GGUF file, which is not supported"),
        (GGUF(claimed_keys=2**60), f"the header claims {2**60} keys, the limit is 65536"),
        (GGUF(claimed_tensors=2**60), f"the header claims {2**60} tensors, the limit is 65536"),
        (GGUF(claimed_keys=1), "truncated: the header goes on to byte 32, the file has 24"),
        (GGUF({"": 1}), "a key has no name"),
        (GGUF({"x": Typed("arr", [], "arr")}), "the array 'x' has elements of the unsupported type 9"),
        (
            GGUF({"x": Typed("arr", [], "u8", claimed_length=2**62)}),
            f"the array 'x' claims {2**62} elements, the limit is 4194304",
        ),
        (
            GGUF({"x": Typed("arr", [], "u8", claimed_length=1000)}),
            "truncated: the header goes on to byte 1049, the file has 49",
        ),
        (GGUF({"general.alignment": 0}), "general.alignment is 0, not a power of two up to 1048576"),
        (GGUF({"general.alignment": 24}), "general.alignment is 24, not a power of two up to 1048576"),
        (GGUF({"general.alignment": 2**31}), f"general.alignment is {2**31}, not a power of two up to 1048576"),
        (GGUF({"general.alignment": "32"}), "general.alignment is '32', not a power of two up to 1048576"),
        (GGUF(tensors=[TensorSpec("t", (1, 1, 1, 1, 1))]), "tensor t claims 5 dimensions, the limit is 4"),
        (GGUF(tensors=[TensorSpec("t", (1,), type_code=4)]), "tensor t has the unknown type 4"),
        (GGUF(tensors=[TensorSpec("t", (31,), type_code=2)]), "tensor t of type Q4_0 cannot have the shape (31,)"),
        (GGUF(tensors=[TensorSpec("t", (4, 0))]), "tensor t of type F32 cannot have the shape (4, 0)"),
        (GGUF(tensors=[TensorSpec("t", (1,), offset=4)]), "tensor t lies at offset 4, not a multiple of 32"),
        (GGUF(tensors=[TensorSpec("t", (1,)), TensorSpec("t", (1,))]), "two tensors have the same name"),
        (GGUF(tensors=[TensorSpec("n" * 64, (1,))]), "a tensor name is 64 bytes long, the limit is 63"),
    ],
)
def test_refuses_with_the_reason(file: GGUF | bytes, reason: str, tmp_path: Path) -> None:
    assert refusal(file, tmp_path) == reason


def test_refuses_a_key_that_stands_there_twice(tmp_path: Path) -> None:
    one = GGUF({"x": 1}).header()
    assert refusal(one[:16] + struct.pack("<Q", 2) + one[24:] + one[24:], tmp_path) == "the key 'x' stands there twice"


def test_refuses_an_unknown_value_type(tmp_path: Path) -> None:
    data = GGUF({"x": 1}).header()
    assert refusal(data[:-8] + struct.pack("<II", 13, 1), tmp_path) == "the key 'x' has the unknown type 13"


def test_refuses_a_text_longer_than_the_limit(tmp_path: Path) -> None:
    data = GGUF({"x": ""}).header()[:-8] + struct.pack("<Q", 2**62)
    assert f"is {2**62} bytes long, the limit is" in refusal(data, tmp_path)


@pytest.mark.parametrize("shape", [(2**62, 8), (2**63, 2**63, 2**63, 2**63), (2**40,)])
def test_huge_shapes_do_not_overflow(shape: tuple[int, ...], tmp_path: Path) -> None:
    message = refusal(GGUF(tensors=[TensorSpec("t", shape, size_bytes=64)]), tmp_path)
    assert message.startswith("truncated: tensor t ends at byte ")


def test_an_offset_cannot_wrap_around(tmp_path: Path) -> None:
    message = refusal(GGUF(tensors=[TensorSpec("t", (8,), offset=2**64 - 32)]), tmp_path)
    assert message.startswith(f"truncated: tensor t ends at byte {2**64 - 32 + 64 + 32}")


def test_one_byte_missing_at_the_end_is_noticed(tmp_path: Path) -> None:
    data = GGUF(tensors=[TensorSpec("t", (8,))]).encode()
    read(data, tmp_path)
    assert refusal(data[:-1], tmp_path) == f"truncated: tensor t ends at byte {len(data)}, the file has {len(data) - 1}"


def test_a_header_may_not_be_endless(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    arrays = 3
    array = Typed("arr", [], "u64", claimed_length=1 << 22)
    with path.open("wb") as file:
        file.write(GGUF(claimed_keys=arrays).header())
        for number in range(arrays):
            file.write(GGUF({f"array {number:02}": array}).header()[24:])
            file.seek(8 << 22, os.SEEK_CUR)
        file.truncate()
    with pytest.raises(ModelInvalid, match="the header is longer than 67108864 bytes"):
        read_header(str(path))


def test_a_file_that_is_not_there_keeps_its_cause(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match="cannot be read: No such file") as error:
        read_header(str(tmp_path / "absent.gguf"))
    assert isinstance(error.value.__cause__, FileNotFoundError)


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo.gguf")
    os.mkfifo(path)
    with pytest.raises(ModelInvalid, match="not a regular file"):
        read_header(path)


def test_the_tiny_model_is_sound(tmp_path: Path) -> None:
    assert read(model(), tmp_path).architecture == "llama"
