"""The regex and the plain walk step over the same strings."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.cursor import Cursor
from shimmy.models.gguf.strings import _walk, _walk_singly, skip_strings
from tests.fakes.gguf_writer import text

texts = st.lists(st.binary(max_size=60) | st.sampled_from([b"", b"\0" * 8, b"x" * 47, b"x" * 48, b"y" * 300]))


@given(texts, st.integers(1, 400), st.integers(0, 64))
def test_both_walks_agree(strings: list[bytes], repeat: int, cut: int) -> None:
    data = b"".join(map(text, strings)) * repeat
    buffer = data[: len(data) - cut]
    count = len(strings) * repeat
    assert _walk(buffer, 0, count) == _walk_singly(buffer, 0, count)


def test_steps_over_strings_that_lie_across_blocks() -> None:
    strings = [b"a" * (number % 90) for number in range(60_000)] + [b"b" * (3 << 20)] + [b"c" * 5] * 1000
    data = b"".join(map(text, strings))
    cursor = Cursor(io.BytesIO(data + b"rest"), len(data) + 4)
    skip_strings(cursor, len(strings), limit=4 << 20)
    assert cursor.offset == len(data)
    assert cursor.take(4) == b"rest"


def test_refuses_a_string_over_the_limit() -> None:
    data = text(b"short") + text(b"x" * 200)
    with pytest.raises(ModelInvalid, match="is 200 bytes long, the limit is 100"):
        skip_strings(Cursor(io.BytesIO(data[:60]), 1 << 30), 2, limit=100)


def test_notices_a_file_that_became_shorter() -> None:
    with pytest.raises(ModelInvalid, match="became shorter"):
        skip_strings(Cursor(io.BytesIO(text(b"x")), 1000), 5, limit=100)
