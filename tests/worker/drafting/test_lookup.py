"""Prompt lookup finds what a slow search finds, and follows a text through its edits."""

import array
import random

from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.request import Generation
from shimmy.core.request import Tokens as Ids
from shimmy.worker.drafting.lookup import CHUNK_TOKENS, NGRAM_TOKENS, Lookup, LookupDrafter, NgramIndex
from shimmy.worker.sequence import Request

Tokens = array.array  # of "i"


def tokens(*ids: int) -> "Tokens[int]":
    return Tokens("i", ids)


def slow_find(text: list[int]) -> int:
    places = range(NGRAM_TOKENS, len(text))
    return max((at for at in places if text[at - NGRAM_TOKENS : at] == text[-NGRAM_TOKENS:]), default=-1)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_the_index_finds_the_latest_place(text: list[int]) -> None:
    index = NgramIndex(tokens())
    for token in text:
        index.text.append(token)
        index.grow()
    # Another n-gram may have pushed the right one out, but what is found is right.
    assert index.find() in (slow_find(text), -1)


def test_a_long_prompt_is_taken_in_over_several_steps() -> None:
    text = list(range(1, 3 * CHUNK_TOKENS))
    lookup = Lookup(tokens(*text), [])
    lookup.grow()
    lookup.push(tokens(*text[-20:-10]))
    assert not lookup.draft(5)
    lookup.grow()
    lookup.push(tokens(text[-10]))
    assert lookup.draft(5).tolist() == text[-9:-4]


def test_a_copy_is_followed_and_found_again_after_an_edit() -> None:
    text = list(range(100, 140))
    lookup = Lookup(tokens(*text), [])
    lookup.push(tokens(*text[:5]))
    assert lookup.draft(4).tolist() == text[5:9]
    lookup.push(tokens(*text[5:9]))
    assert lookup.draft(100)[:31].tolist() == text[9:]
    lookup.push(tokens(7))
    assert not lookup.draft(4)
    lookup.push(tokens(*text[20:23]))
    assert lookup.draft(4).tolist() == text[23:27]


def test_a_text_that_repeats_itself_is_taken_to_go_on() -> None:
    lookup = Lookup(tokens(9), [])
    lookup.push(tokens(1, 2, 3, 1, 2, 3))
    assert lookup.draft(8).tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


def test_the_answer_is_taken_to_begin_as_predicted() -> None:
    lookup = Lookup(tokens(1, 2, 3), [50, 51, 52, 53, 54])
    assert lookup.draft(3).tolist() == [50, 51, 52]
    lookup.push(tokens(50, 51))
    assert lookup.draft(9).tolist() == [52, 53, 54]
    lookup.push(tokens(9))
    assert not lookup.draft(9)
    lookup.push(tokens(51, 52, 53))
    assert lookup.draft(9).tolist() == [54], "what is beyond the prediction is not part of it"


def test_each_sequence_has_its_own_text_until_it_ends() -> None:
    drafter = LookupDrafter()
    request = Request(Generation(id="r", model="m", prompt=Ids([]), num_choices=2), [5, 6, 7, 8, 5, 6], [], 0.0)
    one, other = request.sequences
    one.tokens.append(7)
    other.tokens.append(8)
    assert [draft.tolist() for draft in drafter.draft([(one, 1), (other, 1)])] == [[8], []]
    drafter.end(one)
    drafter.end(one)
    assert list(drafter._lookups) == [other]


def test_random_text_is_hardly_ever_guessed() -> None:
    dice = random.Random(1)
    lookup = Lookup(tokens(*(dice.randrange(50_000) for _ in range(5000))), [])
    for _ in range(10):
        lookup.grow()
    for _ in range(500):
        lookup.push(tokens(dice.randrange(50_000)))
        assert not lookup.draft(1)
