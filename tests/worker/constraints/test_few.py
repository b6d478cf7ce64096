"""The tokens of a mask that allows few."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.worker.constraints import few
from shimmy.worker.constraints.few import Few, allowed_by
from shimmy.worker.constraints.matcher import ALLOWED

SIZE = 2000


def mask_of(tokens: set[int]) -> bytes:
    return b"".join(ALLOWED if token in tokens else b"\0" for token in range(SIZE))


def bits_of(tokens: set[int]) -> bytes:
    bits = bytearray(SIZE // 8)
    for token in tokens:
        bits[token // 8] |= 1 << token % 8
    return bytes(bits)


class Masks:
    def __init__(self) -> None:
        self.num_asked = 0

    def of(self, kept: Few, tokens: set[int], vocabulary_size: int = SIZE) -> tuple[int, ...] | None:
        def mask() -> bytes:
            self.num_asked += 1
            return mask_of(tokens)

        return kept.of(bits_of(tokens), vocabulary_size, mask)


@given(st.integers(0, 2**32), st.integers(0, 600), st.integers(600, SIZE), st.integers(0, 600))
def test_they_are_those_of_the_mask_or_too_many(seed: int, num_allowed: int, within: int, limit: int) -> None:
    tokens = set(random.Random(seed).sample(range(within), num_allowed))
    expected = tuple(sorted(tokens)) if len(tokens) <= limit else None
    assert Masks().of(Few(limit), tokens) == allowed_by(mask_of(tokens), limit) == expected


def test_the_same_mask_is_searched_once() -> None:
    masks, kept = Masks(), Few(10)
    assert [masks.of(kept, {1, 2}), masks.of(kept, {3}), masks.of(kept, {1, 2})] == [(1, 2), (3,), (1, 2)]
    assert masks.num_asked == 2


def test_what_allows_much_is_not_searched_at_all() -> None:
    masks = Masks()
    assert masks.of(Few(10), set(range(SIZE))) is None
    assert masks.num_asked == 0


def test_what_is_not_in_the_vocabulary_does_not_come() -> None:
    masks, kept = Masks(), Few(10)
    assert masks.of(kept, {1, 1999}, 1999) == (1,)
    assert masks.of(kept, {1, 1999}) == (1, 1999)


def test_so_many_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "CACHE_BYTES", 1000)
    masks, kept = Masks(), Few(10)
    for token in (1, 2, 3, 4, 3, 2, 1):
        assert masks.of(kept, {token}) == (token,)
    assert masks.num_asked == 5
    assert kept._kept.num_bytes <= 1000
