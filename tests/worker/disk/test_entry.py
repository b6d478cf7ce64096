"""The format: what was written comes back, and nothing else ever does."""

import array
import io
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.worker.disk import entry
from shimmy.worker.disk.scope import Scope
from shimmy.worker.disk.sealing import TAG_BYTES

KEY = bytes(range(32))
PLAIN = Scope(b"model", b"", None)
SEALED = Scope(b"model", b"", KEY)
scopes = st.sampled_from([PLAIN, SEALED])
token_lists = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=80)


def packed(scope: Scope, tokens: list[int], state: bytes) -> bytes:
    return b"".join(entry.write(scope, array.array("i", tokens), state))


def unpacked(scope: Scope, tokens: list[int], file: bytes) -> bytes:
    return read(io.BytesIO(file), len(file), scope, array.array("i", tokens))


def read(file: entry.Reader, file_bytes: int, scope: Scope, tokens: "array.array[int]") -> bytes:
    """To the end."""
    reading = entry.read(file, file_bytes, scope, tokens)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return bytes(end.value)


@given(scopes, token_lists, st.binary(min_size=1, max_size=2000))
def test_what_was_written_is_read(scope: Scope, tokens: list[int], state: bytes) -> None:
    file = packed(scope, tokens, state)
    assert len(file) == entry.size_of(scope, len(tokens), len(state))
    assert unpacked(scope, tokens, file) == state


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """So small that a small state has several; returns their size."""
    monkeypatch.setattr(entry, "_CHUNK_BYTES", 64)
    return 64


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_states_of_several_chunks(scope: Scope, small_chunks: int) -> None:
    for state_bytes in range(1, 4 * small_chunks):
        state = bytes(index % 251 for index in range(state_bytes))
        file = packed(scope, [1, 2, 3], state)
        assert len(file) == entry.size_of(scope, 3, state_bytes)
        assert unpacked(scope, [1, 2, 3], file) == state


def test_sealed_chunks_stay_in_their_places(small_chunks: int) -> None:
    file = packed(SEALED, [1], bytes(3 * small_chunks))
    sealed_chunk = small_chunks + TAG_BYTES
    start = len(file) - 3 * sealed_chunk
    head, chunks = file[:start], [file[start + number * sealed_chunk :][:sealed_chunk] for number in range(3)]
    for order in [*itertools.permutations(range(3)), (0, 0, 2), (0, 1, 1)]:
        shuffled = head + b"".join(chunks[number] for number in order)
        if order == (0, 1, 2):
            assert unpacked(SEALED, [1], shuffled) == bytes(3 * small_chunks)
        else:
            with pytest.raises(entry.Damaged):
                unpacked(SEALED, [1], shuffled)


def test_a_sealed_file_shows_neither_tokens_nor_state() -> None:
    tokens, state = list(range(1000, 1100)), b"a state that nobody must read"
    plain, sealed = packed(PLAIN, tokens, state), packed(SEALED, tokens, state)
    for secret in (state[:8], array.array("i", tokens[:2]).tobytes(), KEY):
        assert secret not in sealed
        assert secret in plain or secret == KEY


def test_sealing_the_same_twice_gives_two_files() -> None:
    one, other = packed(SEALED, [1, 2], bytes(100)), packed(SEALED, [1, 2], bytes(100))
    assert one != other
    assert unpacked(SEALED, [1, 2], one) == unpacked(SEALED, [1, 2], other)


@pytest.mark.parametrize(
    "other",
    [
        Scope(b"other model", b"", None),
        Scope(b"model", b"namespace", None),
        Scope(b"mode", b"l", None),
        Scope(b"model", b"", bytes(32)),
        Scope(b"model", b"namespace", KEY),
    ],
)
def test_another_scope_does_not_read_it(other: Scope) -> None:
    for scope in (PLAIN, SEALED):
        with pytest.raises(entry.Damaged):
            unpacked(other, [1, 2], packed(scope, [1, 2], b"state"))


def test_the_same_header_with_another_key_does_not_open() -> None:
    other = Scope(b"model", b"", bytes(32))
    other.id = SEALED.id
    with pytest.raises(entry.Damaged):
        unpacked(other, [1, 2], packed(SEALED, [1, 2], b"state"))


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_other_tokens_do_not_read_it(scope: Scope) -> None:
    file = packed(scope, [1, 2, 3], b"state")
    for tokens in ([1, 2], [1, 2, 4], [3, 2, 1], [1, 2, 3, 4]):
        with pytest.raises(entry.Damaged):
            unpacked(scope, tokens, file)


def test_a_read_may_be_short() -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 5))

    for scope in (PLAIN, SEALED):
        file = packed(scope, [1, 2, 3], b"some state")
        assert read(Dribble(file), len(file), scope, array.array("i", [1, 2, 3])) == b"some state"


@pytest.mark.parametrize(
    ("scope", "differences"),
    [(PLAIN, range(1, 256)), (SEALED, (1, 2, 4, 8, 16, 32, 64, 128, 255))],
    ids=["plain", "sealed"],
)
def test_no_change_of_a_byte_goes_unnoticed(scope: Scope, differences: Iterable[int]) -> None:
    file = packed(scope, [7, 8], b"st")
    for position, difference in itertools.product(range(len(file)), differences):
        damaged = bytearray(file)
        damaged[position] ^= difference
        with pytest.raises(entry.Damaged):
            unpacked(scope, [7, 8], bytes(damaged))


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_no_change_of_length_goes_unnoticed(scope: Scope) -> None:
    file = packed(scope, [7, 8], b"state")
    for damaged in [*(file[:length] for length in range(len(file))), file + b"\0"]:
        with pytest.raises(entry.Damaged):
            unpacked(scope, [7, 8], damaged)


@pytest.mark.parametrize("scope", [PLAIN, SEALED], ids=["plain", "sealed"])
def test_a_file_that_shrinks_while_it_is_read(scope: Scope) -> None:
    file = packed(scope, [7, 8], b"state")
    for length in range(len(file)):
        with pytest.raises(entry.Damaged):
            read(io.BytesIO(file[:length]), len(file), scope, array.array("i", [7, 8]))
