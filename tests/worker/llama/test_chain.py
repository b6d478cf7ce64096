"""Each option of sampling, by what it does to a distribution that is known."""

import ctypes as c
import math
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.request import SAMPLER_ORDER, Sampling
from shimmy.worker.banned import Banned
from shimmy.worker.llama import abi
from shimmy.worker.llama.chain import MAX_SORTED, Chain
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.recipe import Recipe

pytestmark = pytest.mark.model

# Probabilities of tokens 0 to 5
SKEWED = [0.4, 0.3, 0.15, 0.1, 0.04, 0.01]
# No sampler does anything, except what a test sets.
OPEN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}


class Bench:
    """A chain over one distribution."""

    def __init__(
        self, probabilities: Sequence[float], sampling: Sampling, banned: Banned, prompt: Sequence[int]
    ) -> None:
        library = llama()
        self._apply = library._short.llama_sampler_apply
        self._apply.restype, self._apply.argtypes = None, (c.c_void_p, c.c_void_p)
        self._accept, self._free = library.llama_sampler_accept, library.llama_sampler_free
        chain = Chain(Recipe(sampling, banned, None, len(probabilities), 1000, None), choice=0)
        for link, window in chain.remembering:
            for token in prompt[-window:]:
                self._accept(link, token)
        self._chain = chain.native
        self._logits = [math.log(p) if p else -math.inf for p in probabilities]

    def draw(self) -> tuple[int, int]:
        """A token, and how many were left to draw from."""
        data = (abi.llama_token_data * len(self._logits))(*map(abi.llama_token_data, count(), self._logits))
        array = abi.llama_token_data_array(c.addressof(data), len(data), -1, False)
        self._apply(self._chain, c.addressof(array))
        token = abi.llama_token_data.from_address(array.data + array.selected * c.sizeof(abi.llama_token_data)).id
        self._accept(self._chain, token)
        return token, array.size

    def close(self) -> None:
        self._free(self._chain)


def drawn(
    fields: dict[str, Any],
    probabilities: Sequence[float] = SKEWED,
    count: int = 300,
    banned: Banned = Banned(),  # noqa: B008
    prompt: Sequence[int] = (),
) -> "Counter[int]":
    """How often each token comes; with penalties, for instance, the draws depend on each other."""
    bench = Bench(probabilities, Sampling(**(OPEN | fields)), banned, prompt)
    tokens = Counter(bench.draw()[0] for _ in range(count))
    bench.close()
    return tokens


def test_nothing_set_draws_by_probability() -> None:
    tokens = drawn({}, count=4000)
    assert set(tokens) == set(range(6))
    assert all(abs(tokens[token] / 4000 - p) < 0.03 for token, p in enumerate(SKEWED))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, {0}),
        ({"temperature": 1e-30}, {0}),
        ({"temperature": 0, "dynatemp_range": 2.0}, {0}),
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 2**31 - 1}, {0, 1, 2, 3, 4, 5}),
        ({"top_p": 0.65}, {0, 1}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.3}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"typical_p": 0.0}, {1}),
        ({"typical_p": 0.4}, {1, 2}),
        ({"top_n_sigma": 0.0}, {0, 1, 2, 3, 4, 5}),
        ({"top_n_sigma": 1.0}, {0, 1, 2}),
        ({"top_n_sigma": 0.001}, {0}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.12}, {2, 3, 4, 5}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.6}, {0, 1, 2, 3, 4, 5}),
        ({"mirostat": 1, "mirostat_tau": 0.0}, {0}),
        ({"mirostat": 2, "mirostat_tau": 0.0}, {0}),
        ({"logit_bias": {5: 100.0}}, {5}),
        ({"logit_bias": {0: -100.0, 1: -100.0, 2: -100.0}}, {3, 4, 5}),
        ({"top_k": 2, "samplers": ("temperature",)}, {0, 1, 2, 3, 4, 5}),
        ({"top_k": 2, "samplers": ()}, {0, 1, 2, 3, 4, 5}),
        ({"top_k": 2, "samplers": ("top_k", "top_k")}, {0, 1}),
    ],
)
def test_what_can_be_drawn(fields: dict[str, Any], expected: set[int]) -> None:
    assert set(drawn(fields, count=800)) == expected


def test_xtc_takes_its_chance() -> None:
    tokens = drawn({"xtc_probability": 0.5, "xtc_threshold": 0.12}, count=4000)
    assert abs((tokens[0] + tokens[1]) / 4000 - 0.5 * 0.7) < 0.04, "the draw does not go with the chance"


def test_temperature_sharpens_and_flattens() -> None:
    cold, hot = drawn({"temperature": 0.2}, count=1000), drawn({"temperature": 5.0}, count=1000)
    assert cold[0] > 750 and hot[0] < 250 and hot[5] > 50


def test_a_dynamic_temperature_is_low_where_the_model_is_sure() -> None:
    sure = [0.97, *[0.0075] * 4]
    assert drawn({}, sure, 1000)[0] < 990
    assert drawn({"dynatemp_range": 1.0}, sure, 1000)[0] >= 999
    flat = [0.2] * 5
    assert min(drawn({"dynatemp_range": 1.0}, flat, 1000).values()) > 100


def test_a_dynamic_temperature_next_to_nothing_is_greedy_not_the_least_likely() -> None:
    """llama.cpp divides by it: the logits overflow, and what comes out is the last token."""
    sure = [0.999e9, 0.0005e9, 0.0005e9]
    for exponent in range(14, 24):
        assert set(drawn({"dynatemp_range": 1.0, "dynatemp_exponent": exponent}, sure, 3)) == {0}


def test_the_order_of_samplers_is_that_asked_for() -> None:
    hot = {"temperature": 10.0, "min_p": 0.5}
    assert set(drawn(hot | {"samplers": ("min_p", "temperature")})) == {0, 1}
    assert len(drawn(hot | {"samplers": ("temperature", "min_p")})) > 3


def test_mirostat_heeds_its_target_and_its_rate() -> None:
    even = [1 / 64] * 64
    for version in (1, 2):
        assert len(drawn({"mirostat": version, "mirostat_tau": 1.0}, SKEWED, 400)) <= 4
    assert len(drawn({"mirostat": 2, "mirostat_tau": 9.0}, even)) > 40
    # The first draws are too surprising for it, so that it allows less and less.
    assert drawn({"mirostat": 2, "mirostat_tau": 3.5, "mirostat_eta": 5.0}, SKEWED + even, 400) != drawn(
        {"mirostat": 2, "mirostat_tau": 3.5, "mirostat_eta": 0.0}, SKEWED + even, 400
    )


def test_penalties_count_what_came() -> None:
    greedy = {"temperature": 0.0}
    assert drawn(greedy | {"presence_penalty": 1.0}, count=2) == {0: 1, 1: 1}
    assert len(drawn(greedy | {"frequency_penalty": 1.0}, count=20)) > 3
    assert drawn(greedy | {"presence_penalty": 2.0, "samplers": ("top_k",)}, count=9) == {0: 9}, "left out"
    assert drawn(greedy | {"presence_penalty": 1.0}, count=1, prompt=[0] * 50) == {0: 1}, "the prompt does not count"


def test_the_repetition_penalty_counts_the_prompt_within_its_window() -> None:
    # Logits are negative: it multiplies them.
    fields = {"temperature": 0.0, "repetition_penalty": 2.0}
    assert drawn(fields, count=1) == {0: 1}
    assert drawn(fields, count=1, prompt=[0]) == {1: 1}
    far = [0, *[5] * 10]
    assert drawn(fields | {"repeat_last_n": 5}, count=1, prompt=far) == {0: 1}
    assert drawn(fields | {"repeat_last_n": -1}, count=1, prompt=far) == {1: 1}
    assert drawn(fields | {"repeat_last_n": 0}, count=1, prompt=far) == {0: 1}
    assert drawn(fields | {"repeat_last_n": 2**31 - 1}, count=1, prompt=far) == {1: 1}, "no memory is taken for it all"


def test_what_is_banned_is_never_drawn_not_even_with_a_bias() -> None:
    banned = Banned(always=frozenset({0, 1}))
    assert set(drawn({"logit_bias": {0: 100.0}}, banned=banned)) == {2, 3, 4, 5}
    assert drawn({"temperature": 0}, banned=banned, count=5) == {2: 5}
    assert set(drawn({"typical_p": 0.99}, banned=banned)) <= {2, 3, 4, 5}
    assert set(drawn({"top_n_sigma": 50.0, "typical_p": 0.999}, banned=banned)) == {2, 3, 4, 5}


@pytest.mark.parametrize("fields", [{}, {"temperature": 0}, {"typical_p": 0.5}, {"mirostat": 1}, {"mirostat": 2}])
def test_with_nothing_left_to_draw_from_llama_still_draws(fields: dict[str, Any]) -> None:
    banned = Banned(always=frozenset(range(6)))
    assert sum(drawn(fields | {"top_n_sigma": 1.0, "top_p": 0.5}, banned=banned, count=20).values()) == 20


@pytest.mark.parametrize(
    ("fields", "keeps"),
    [
        ({}, True),
        ({"temperature": 0}, True),
        ({"repetition_penalty": 1.1, "frequency_penalty": 1.0, "logit_bias": {0: 1.0}}, True),
        ({"samplers": ("temperature", "top_k")}, True),
        ({"top_k": 128}, True),
        ({"top_k": 129}, False),
        ({"top_k": 0}, False),
        ({"mirostat": 2}, False),
        ({"top_n_sigma": 1.0}, False),
        ({"samplers": ("min_p", "top_k")}, False),
        ({"samplers": ("temperature", "top_k"), "dynatemp_range": 0.1}, False),
    ],
)
def test_for_a_constraint_the_likeliest_are_kept_before_any_are_ruled_out(fields: dict[str, Any], keeps: bool) -> None:
    for constraint in (None, mock.Mock()):
        chain = Chain(Recipe(Sampling(**fields), Banned(), None, 6, 1000, None, constraint), choice=0)
        assert (chain.kept is not None) == (keeps and constraint is not None)
        llama().llama_sampler_free(chain.native)


RANGES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 100),
    "dynatemp_range": st.just(0.0) | st.floats(0, 100),
    "dynatemp_exponent": st.floats(0, 100),
    "top_k": st.integers(-1, 40) | st.just(2**31 - 1),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "top_n_sigma": st.floats(-1, 100),
    "xtc_probability": st.floats(0, 1),
    "xtc_threshold": st.floats(0, 1),
    "mirostat": st.integers(0, 2),
    "mirostat_tau": st.floats(0, 100),
    "mirostat_eta": st.floats(0, 10),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0.01, 10),
    "repeat_last_n": st.integers(-1, 5) | st.just(2**31 - 1),
    "logit_bias": st.dictionaries(st.integers(0, 3), st.floats(-100, 100), max_size=3),
    "samplers": st.permutations(SAMPLER_ORDER).flatmap(lambda names: st.integers(0, 9).map(lambda n: tuple(names[:n]))),
    "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
}


@given(
    st.fixed_dictionaries({}, optional=RANGES),
    st.lists(st.just(0.0) | st.floats(1e-30, 1e30), min_size=1, max_size=300),
    st.booleans(),
)
def test_no_values_within_their_ranges_bring_llama_down(
    fields: dict[str, Any], probabilities: list[float], bans: bool
) -> None:
    banned = Banned(always=frozenset({0})) if bans else Banned()
    tokens = drawn(fields, probabilities, count=5, banned=banned, prompt=[0] * 9)
    assert sum(tokens.values()) == 5 and set(tokens) <= set(range(len(probabilities)))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def sequence(seed: int | None) -> list[int]:
        bench = Bench([1 / 64] * 64, Sampling(**(OPEN | {"seed": seed})), Banned(), ())
        tokens = [bench.draw()[0] for _ in range(20)]
        bench.close()
        return tokens

    assert sequence(7) == sequence(7) != sequence(8)
    for seed in (None, -1, 0xFFFFFFFF):
        assert sequence(seed) != sequence(seed), "that is no seed"
    assert sequence(0xFFFFFFFE) == sequence(0xFFFFFFFE)


FLAT = [1 / 30_000] * 30_000
SORTING: list[dict[str, Any]] = [
    {"top_p": 0.99},
    {"typical_p": 0.99},
    {"xtc_probability": 1.0},
    {"dynatemp_range": 0.5},
    {"mirostat": 1},
    {"mirostat": 2, "mirostat_tau": 100.0},
    {"top_k": 20_000},
    {"samplers": ("min_p", *SAMPLER_ORDER), "min_p": 0.001, "top_p": 0.99},
]


@pytest.mark.parametrize("fields", SORTING)
def test_nothing_sorts_the_whole_vocabulary(fields: dict[str, Any]) -> None:
    bench = Bench(FLAT, Sampling(**(OPEN | fields)), Banned(), ())
    assert bench.draw()[1] <= MAX_SORTED
    bench.close()


@pytest.mark.parametrize("fields", [{}, {"min_p": 0.1}, {"top_n_sigma": 1.0}])
def test_what_sorts_nothing_is_not_cut(fields: dict[str, Any]) -> None:
    bench = Bench(FLAT, Sampling(**(OPEN | fields)), Banned(), ())
    assert bench.draw()[1] == len(FLAT)
    bench.close()
