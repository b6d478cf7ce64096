"""Whatever the bytes, the reader ends with a header or with `ModelInvalid`, and holds little memory meanwhile."""

import tempfile
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import ModelInvalid
from shimmy.models.facts import inspect
from shimmy.models.gguf import Header, read_header
from tests.fakes.gguf_writer import GGUF, TensorSpec, Typed, model

SOUND = model(tokenizer__ggml__merges=["a b", "c d"], tokenizer__chat_template="{{ x }}").encode()
HEADER_BYTES = len(SOUND) - 260 * 32 - 32
SCALARS = st.integers(-(2**31), 2**32 - 1) | st.floats(width=32) | st.booleans() | st.text(max_size=20)
MAX_BYTES_HELD = 24 << 20


def read(data: bytes) -> Header | None:
    """None for a refusal; any other exception fails the test."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        assert inspect([file.name]).kind
        try:
            return read_header(file.name)
        except ModelInvalid as error:
            assert error.message
            return None


@given(st.integers(0, len(SOUND) - 1))
def test_no_truncation_passes(length: int) -> None:
    assert read(SOUND[:length]) is None


@given(st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_give_a_header_or_a_refusal(flips: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for index, value in flips:
        data[index] = value
    header = read(bytes(data))
    for tensor in header.tensors if header else []:
        assert header and header.data_offset + tensor.offset + tensor.size_bytes <= len(data)


@given(st.integers(0, HEADER_BYTES - 8), st.sampled_from([0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 65536]))
def test_wild_counts_anywhere_cost_no_memory(index: int, count: int) -> None:
    data = SOUND[:index] + count.to_bytes(8, "little") + SOUND[index + 8 :]
    tracemalloc.start()
    try:
        read(data)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES_HELD
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_junk_after_the_magic(junk: bytes) -> None:
    read(b"GGUF\x03\0\0\0" + junk)


@given(
    st.dictionaries(st.text(min_size=1, max_size=10), SCALARS | st.lists(st.text(max_size=9), min_size=1), max_size=9),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=5),
)
def test_sound_files_are_read_back(metadata: dict[str, object], shapes: list[tuple[int, int]]) -> None:
    tensors = [TensorSpec(f"t{number}", shape) for number, shape in enumerate(shapes)]
    header = read(GGUF(dict(metadata), tensors).encode())
    assert header is not None
    assert [tensor.shape for tensor in header.tensors] == shapes
    assert list(header.metadata) == list(metadata)


def test_four_million_empty_strings_are_bounded_by_the_file() -> None:
    claimed = GGUF({"x": Typed("arr", ["a"], "str", claimed_length=1 << 22)}).encode()
    assert read(claimed) is None
