"""What can be used of a state, and how RAM is shared out among states."""

import pytest

from shimmy.worker.prefix_states import Hit, RamTier, Reuse
from shimmy.worker.prefix_tree import Tokens


def tokens(text: str) -> "Tokens[int]":
    return Tokens("i", list(text.encode()))


def found(tier: RamTier, text: str, namespace: str = "") -> tuple[int, int, bytes] | None:
    """(length, stored, state) of the best match."""
    hit = tier.match(tokens(text), namespace)
    if hit is None:
        return None
    state = tier.fetch(hit)
    assert state is not None
    return hit.length, hit.stored, state


@pytest.mark.parametrize(
    ("reuse", "length", "first", "reaches"),
    [
        (Reuse(), 5, 0, True),
        (Reuse(), 5, 1, False),
        (Reuse(), 5, -1, False),
        (Reuse(window=4), 10, 0, True),
        (Reuse(window=4), 10, 7, True),
        (Reuse(window=4), 10, 8, False),
        (Reuse(window=4), 2, 0, True),
        (Reuse(window=4), 2, 1, False),
        (Reuse(window=4), 10, -1, False),
    ],
)
def test_cells_reach_when_the_next_token_sees_no_others(reuse: Reuse, length: int, first: int, reaches: bool) -> None:
    """With a window of 4 the token at position 10 sees positions 7 to 10."""
    assert reuse.reaches(length, first) is reaches


@pytest.mark.parametrize(
    ("reuse", "length", "fits"),
    [
        (Reuse(), 1, True),
        (Reuse(whole=True), 10, True),
        (Reuse(whole=True), 9, False),
        (Reuse(window=4), 10, True),
        (Reuse(window=4), 9, True),
        (Reuse(window=4), 8, False),
        (Reuse(window=20), 1, True),
        (Reuse(whole=True, window=20), 9, False),
    ],
)
def test_a_state_of_ten_tokens_fits(reuse: Reuse, length: int, fits: bool) -> None:
    assert reuse.fits(length, 10) is fits


def test_the_longest_common_beginning_is_found_and_one_token_left_to_compute() -> None:
    tier = RamTier(1000, Reuse())
    tier.offer(tokens("abcdefgh"), "", b"long")
    tier.offer(tokens("abX"), "", b"short")
    assert found(tier, "abcdefgh") == (7, 8, b"long")
    assert found(tier, "abcdefghij") == (8, 8, b"long")
    assert found(tier, "abcdX") == (4, 8, b"long")
    assert found(tier, "abXY") == (3, 3, b"short")
    assert found(tier, "xyz") is None
    assert found(tier, "a") is None


def test_a_recurrent_state_is_found_for_exactly_its_tokens() -> None:
    tier = RamTier(1000, Reuse(whole=True))
    tier.offer(tokens("abcd"), "", b"4")
    tier.offer(tokens("abcdefgh"), "", b"8")
    assert found(tier, "abcdefgX") == (4, 4, b"4")
    assert found(tier, "abcdefgh") == (4, 4, b"4")
    assert found(tier, "abcdefghi") == (8, 8, b"8")
    assert found(tier, "abcX") is None


def test_namespaces_do_not_meet() -> None:
    tier = RamTier(1000, Reuse())
    tier.offer(tokens("abcd"), "x", b"x")
    assert found(tier, "abcd", "y") is None
    assert tier.wants(tokens("abcd"), "y", 1) and not tier.wants(tokens("abcd"), "x", 1)
    tier.offer(tokens("abcdef"), "y", b"y")
    assert found(tier, "abcdef", "x") == (4, 4, b"x")


def test_a_longer_state_takes_the_place_of_one_that_it_covers() -> None:
    tier = RamTier(1000, Reuse())
    tier.offer(tokens("abcd"), "", b"1234")
    tier.offer(tokens("abcdef"), "", b"123456")
    assert tier.num_bytes == 6
    whole = RamTier(1000, Reuse(whole=True))
    whole.offer(tokens("abcd"), "", b"1234")
    whole.offer(tokens("abcdef"), "", b"123456")
    assert whole.num_bytes == 10


def test_the_least_recently_used_are_dropped_when_bytes_run_short() -> None:
    tier = RamTier(10, Reuse())
    for name in "abc":
        tier.offer(tokens(name * 8), "", name.encode() * 3)
    assert found(tier, "aaaaaaaaa") is not None
    assert not tier.wants(tokens("bbbbbbbb"), "", 3), "being asked for what is there counts as use"
    tier.offer(tokens("dddddddd"), "", b"ddd")
    assert tier.num_bytes == 9
    assert [bool(found(tier, name * 9)) for name in "abcd"] == [True, True, False, True]


def test_what_is_too_large_is_not_wanted() -> None:
    tier = RamTier(10, Reuse())
    assert tier.wants(tokens("abc"), "", 10) and not tier.wants(tokens("abc"), "", 11)


def test_a_hit_may_be_gone_when_it_is_fetched() -> None:
    tier = RamTier(3, Reuse())
    tier.offer(tokens("abc"), "", b"abc")
    hit: Hit | None = tier.match(tokens("abcd"), "")
    assert hit is not None
    tier.offer(tokens("xyz"), "", b"xyz")
    assert tier.fetch(hit) is None
