"""What is drawn instead of a token that may not come is what the chain draws of those that may, as if there were no
others: exactly, since a chain with the same seed draws the same."""

import ctypes as c
import itertools
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.request import Sampling
from shimmy.worker.banned import Banned
from shimmy.worker.constraints.few import Few
from shimmy.worker.constraints.matcher import ALLOWED
from shimmy.worker.llama import abi, guided
from shimmy.worker.llama.chain import NUM_KEPT, Chain
from shimmy.worker.llama.guided import GuidedDraw
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.likeliest import ENTRY_BYTES
from shimmy.worker.llama.recipe import Recipe

pytestmark = pytest.mark.model

Logits = Sequence[float]
BANNED = Banned(always=frozenset({1}))


class Stuck(Exception):
    """Nothing may come."""


class Guide:
    """Lets come what is in `allowed`, and notes what has."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.allowed: set[int] = set()
        self.taken: list[int] = []

    def take(self, token: int) -> bool:
        if token in self.allowed:
            self.taken.append(token)
        return token in self.allowed

    def mask(self) -> bytes:
        return b"".join(ALLOWED if token in self.allowed else b"\0" for token in range(self._size))

    def bits(self) -> bytes:
        return sum(1 << token for token in self.allowed).to_bytes(self._size // 8 + 1, "little")

    def failure(self) -> Exception:
        return Stuck()


def entries(tokens: Sequence[int], logits: Logits) -> "array[int]":
    made = array("i", bytes(ENTRY_BYTES * len(tokens)))
    memoryview(made)[::3] = array("i", tokens)
    memoryview(made).cast("B").cast("f")[1::3] = array("f", logits)
    return made


def apply(sampler: int, tokens: Sequence[int], logits: Logits) -> tuple[int, list[int]]:
    """What a sampler draws, and all that it has left."""
    made = entries(tokens, logits)
    found = abi.llama_token_data_array(made.buffer_info()[0], len(tokens), -1, False)
    llama().llama_sampler_apply(sampler, c.addressof(found))
    left = memoryview(c.string_at(found.data, ENTRY_BYTES * found.size)).cast("i")[::3].tolist()
    return left[found.selected], left


MADE: "list[Draw | MaskedFirst]" = []


@pytest.fixture(autouse=True)
def freed() -> Iterator[None]:
    """Chains lead back to what draws through them, so that this stays until they are freed."""
    yield
    while MADE:
        llama().llama_sampler_free(MADE.pop().chain.native)


class Draw(GuidedDraw):
    """On logits of our own instead of a context's."""

    def __init__(self, recipe: Recipe, guide: Guide) -> None:
        self.chain = Chain(recipe, 0)
        super().__init__(self.chain, guide, recipe.vocabulary_size)
        self._own = array("f")
        self.num_asked: list[int] = []
        MADE.append(self)

    def draw(self, logits: Logits) -> int:
        self._own, self._error = array("f", logits), None
        token, _ = apply(self.chain.native, range(len(logits)), logits)
        if self._error is not None:
            raise self._error
        llama().llama_sampler_accept(self.chain.native, token)
        return token

    def _logits(self) -> int:
        return self._own.buffer_info()[0]

    def _likeliest(self, count: int) -> bytes:
        self.num_asked.append(count)
        tokens = sorted(range(len(self._own)), key=self._own.__getitem__, reverse=True)[:count]
        return entries(tokens, [self._own[token] for token in tokens]).tobytes()


class MaskedFirst:
    """The same without a constraint, which draws anew from what may come alone when it has drawn another token."""

    def __init__(self, recipe: Recipe) -> None:
        self.chain = Chain(recipe, 0)
        MADE.append(self)

    def draw(self, logits: Logits, allowed: set[int]) -> int:
        native = self.chain.native
        token, _ = apply(native, range(len(logits)), logits)
        if token not in allowed:
            tokens = sorted(allowed)
            token, _ = apply(native, tokens, [logits[token] for token in tokens])
        llama().llama_sampler_accept(native, token)
        return token


def recipe(size: int, fields: dict[str, Any], *, is_constrained: bool, bans: bool = False) -> Recipe:
    banned = BANNED if bans else Banned()
    return Recipe(
        Sampling(**({"seed": 1} | fields)), banned, None, size, 1000, None, mock.Mock() if is_constrained else None
    )


def few(limit: int) -> Any:
    """So many tokens are few."""
    return mock.patch.object(guided, "_few", mock.Mock(return_value=Few(limit)))


def rows(dice: random.Random, size: int) -> list[float]:
    """Logits of which no two are equal, also not when they were penalised."""
    return [logit / 16 for logit in dice.sample(range(-5 * size, 5 * size), size)]


SAMPLINGS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    "top_k": st.sampled_from([0, 1, 3, 20, 200]),
    "top_p": st.sampled_from([0.3, 0.9, 1.0]),
    "min_p": st.sampled_from([0.0, 0.1]),
    "typical_p": st.sampled_from([0.5, 1.0]),
    "top_n_sigma": st.sampled_from([-1.0, 1.0]),
    "xtc_probability": st.sampled_from([0.0, 0.5]),
    "dynatemp_range": st.sampled_from([0.0, 0.3]),
    "mirostat": st.integers(0, 2),
    "frequency_penalty": st.sampled_from([0.0, 0.3717]),
    "repetition_penalty": st.sampled_from([1.0, 1.3717]),
    "logit_bias": st.dictionaries(st.integers(0, 1), st.sampled_from([-3.01, 4.01]), max_size=1),
    "samplers": st.sampled_from([Sampling().samplers, ("temperature", "penalties", "top_k", "min_p"), ("min_p",)]),
}
FIELDS = st.fixed_dictionaries({}, optional=SAMPLINGS)
# Those whose chain keeps the likeliest tokens.
KEEPING = st.fixed_dictionaries(
    {"top_k": st.sampled_from([1, 3, 20])},
    optional={
        name: SAMPLINGS[name] for name in sorted(SAMPLINGS.keys() - {"top_k", "top_n_sigma", "mirostat", "samplers"})
    },
)
SEEDS = st.integers(0, 2**32)


def agree(fields: dict[str, Any], size: int, num_allowed: int, seed: int, *, bans: bool) -> None:
    """Whether both draw the same, some tokens one after the other, of which most are refused."""
    dice = random.Random(seed)
    guide = Guide(size)
    bound = Draw(recipe(size, fields, is_constrained=True, bans=bans), guide)
    masked = MaskedFirst(recipe(size, fields, is_constrained=False, bans=bans))
    drawn = []
    for _ in range(5):
        logits = rows(dice, size)
        # Token 1 may be banned, and what is drawn where all that may come is, is a matter of its own.
        guide.allowed = {0, *dice.sample(range(size), num_allowed)}
        refused = min(set(range(size)) - guide.allowed, default=0)
        logits[refused] = max(logits) + 7.03
        drawn.append(bound.draw(logits))
        assert drawn[-1] == masked.draw(logits, guide.allowed)
    assert guide.taken == drawn


@given(FIELDS, st.integers(2, 300), st.floats(0, 1), SEEDS, st.booleans())
def test_of_few_it_is_drawn_as_if_there_were_no_others(
    fields: dict[str, Any], size: int, share: float, seed: int, bans: bool
) -> None:
    agree(fields, size, int(share * size), seed, bans=bans)


@given(KEEPING, st.integers(2, 300), st.integers(0, NUM_KEPT - 20), SEEDS, st.booleans())
def test_of_many_too_where_as_many_of_the_likeliest_may_come_as_top_k_leaves(
    fields: dict[str, Any], size: int, num_refused: int, seed: int, bans: bool
) -> None:
    with few(0):
        agree(fields, size, max(0, size - num_refused), seed, bans=bans)


@given(FIELDS, st.integers(2, 300), st.integers(1, 300), SEEDS)
def test_what_is_greedy_takes_the_best_that_may_come(
    fields: dict[str, Any], size: int, num_allowed: int, seed: int
) -> None:
    with few(0):
        agree(fields | {"temperature": 0.0}, size, min(num_allowed, size), seed, bans=False)


@given(FIELDS, st.integers(2, 300), st.integers(1, 300), SEEDS, st.booleans())
def test_of_many_nothing_else_is_drawn(
    fields: dict[str, Any], size: int, num_allowed: int, seed: int, bans: bool
) -> None:
    dice = random.Random(seed)
    guide = Guide(size)
    bound = Draw(recipe(size, fields, is_constrained=True, bans=bans), guide)
    with few(0):
        for _ in range(5):
            guide.allowed = set(dice.sample(range(size), min(num_allowed, size)))
            assert bound.draw(rows(dice, size)) in guide.allowed


# Of ten tokens the likeliest may not come.
SIZE = 10
ROW = [6.0, *(2 - token / 4 for token in range(1, SIZE))]
MAY_COME = set(range(2, SIZE))


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0},
        {"top_k": 0, "top_p": 1.0, "min_p": 0.2, "temperature": 2.0},
        {"top_k": 4, "top_p": 1.0, "min_p": 0.0},
        {"top_k": 0, "top_p": 0.9, "min_p": 0.0},
        {"mirostat": 2, "mirostat_eta": 0.0, "mirostat_tau": 2.0},
    ],
)
@pytest.mark.parametrize("is_many", [True, False])
def test_what_comes_has_the_shares_that_it_has_among_all_that_may(fields: dict[str, Any], is_many: bool) -> None:
    """Also where the draws are not the same one by one, because they are made in another order."""
    guide, num = Guide(SIZE), 4000
    guide.allowed = MAY_COME
    bound = Draw(recipe(SIZE, fields, is_constrained=True), guide)
    masked = MaskedFirst(recipe(SIZE, fields | {"seed": 2}, is_constrained=False)).chain.native
    tokens = sorted(MAY_COME)
    with few(0 if is_many else SIZE), mock.patch.object(guided, "MAX_FEW", 0):
        drawn = Counter(bound.draw(ROW) for _ in range(num))
    expected = Counter(apply(masked, tokens, [ROW[token] for token in tokens])[0] for _ in range(num))
    assert set(drawn) == set(expected)
    assert all(abs(drawn[token] - expected[token]) < 0.04 * num for token in MAY_COME)


def test_what_the_chain_has_left_is_drawn_from_where_it_keeps_nothing() -> None:
    fields = {"top_k": 0, "top_p": 0.999999, "min_p": 0.0, "temperature": 1.0}
    guide = Guide(SIZE)
    guide.allowed = MAY_COME
    bound = Draw(recipe(SIZE, fields, is_constrained=True), guide)
    with few(0):
        assert {bound.draw(ROW) for _ in range(300)} <= MAY_COME
    assert not bound.num_asked


def test_more_and_more_is_asked_until_something_may_come() -> None:
    """Of 9,000 tokens the last may come, the unlikeliest one."""
    size = 9000
    logits = [-token / 1000 for token in range(size)]
    asked = []
    for last, top_k in itertools.product((100, 200, size), (40, 0)):
        guide = Guide(size)
        guide.allowed = {last - 1}
        bound = Draw(recipe(size, {"top_k": top_k, "min_p": 0.5}, is_constrained=True), guide)
        with few(0):
            assert bound.draw(logits) == last - 1
        asked.append((last, top_k, bound.num_asked))
    assert asked == [
        (100, 40, []),
        (100, 0, [128]),
        (200, 40, [8192]),
        (200, 0, [128, 8192]),
        (size, 40, [8192]),
        (size, 0, [128, 8192]),
    ]


def test_penalties_count_also_where_more_is_asked_than_the_chain_has_kept() -> None:
    size = 200
    guide = Guide(size)
    guide.allowed = set(range(150, size))
    bound = Draw(recipe(size, {"temperature": 0.0, "presence_penalty": 2.0}, is_constrained=True), guide)
    with few(0):
        assert [bound.draw([-token / 2 for token in range(size)]) for _ in range(4)] == [150, 151, 152, 153]


@pytest.mark.parametrize("limit", [0, SIZE])
def test_the_constraint_comes_before_what_is_banned(limit: int) -> None:
    """In the row, as words of several tokens are, and by the chain."""
    guide = Guide(SIZE)
    guide.allowed = {3, 5, 9}
    with few(limit):
        for fields in ({}, {"top_k": 0}, {"temperature": 0.0}):
            assert Draw(recipe(SIZE, fields, is_constrained=True), guide).draw([1.0] * 3 + [float("-inf")] * 7) == 3
        guide.allowed = {1}
        assert Draw(recipe(SIZE, {}, is_constrained=True, bans=True), guide).draw(ROW) == 1


@pytest.mark.parametrize("limit", [0, SIZE])
def test_where_nothing_may_come_the_guide_says_why(limit: int) -> None:
    with few(limit), pytest.raises(Stuck):
        Draw(recipe(SIZE, {}, is_constrained=True), Guide(SIZE)).draw(ROW)


def test_penalties_count_what_came_and_nothing_that_was_refused() -> None:
    guide = Guide(SIZE)
    guide.allowed = {4, 5}
    bound = Draw(recipe(SIZE, {"temperature": 0.0, "presence_penalty": 2.0}, is_constrained=True), guide)
    assert [bound.draw(ROW) for _ in range(3)] == [4, 5, 4]
    guide.allowed = set(range(SIZE))
    assert bound.draw(ROW) == 0
