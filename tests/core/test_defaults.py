"""What a model's file says about sampling: used where it makes sense, and never more than that."""

import math
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.defaults import own_sampling
from shimmy.core.request import MODEL_FIELDS, SAMPLER_ORDER, Sampling

KEYS = """
    sequence top_k top_p min_p xtc_probability xtc_threshold temp penalty_last_n penalty_repeat mirostat mirostat_tau
    mirostat_eta
""".split()


def read(**values: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields, and the keys that were ignored."""
    ignored: list[str] = []
    keys = {f"general.sampling.{key}": value for key, value in values.items()}
    return own_sampling(keys.get, lambda key, value: ignored.append(key)), ignored


def test_every_key_has_its_field() -> None:
    values = [1, 0.5, 0.25, 0.5, 0.2, 0.6, 32, 1.1, 2, 4.0, 0.2]
    own, ignored = read(**dict(zip(KEYS, ["top_k;temperature", *values], strict=True)))
    assert (set(own), ignored) == (set(MODEL_FIELDS), [])
    assert (own["temperature"], own["repetition_penalty"], own["repeat_last_n"]) == (0.6, 1.1, 32)
    assert own["samplers"] == ("top_k", "temperature")


def test_texts_are_read_like_numbers() -> None:
    """llama.cpp gives a worker the text of every value."""
    assert read(temp="0.600000", top_k="20", mirostat="2") == read(temp=0.6000000238418579, top_k=20, mirostat=2)


def test_samplers_go_by_all_their_names() -> None:
    own, _ = read(sequence="penalties;dry;top-n-sigma;topk;typ;nucleus;Min_P;xtc;temp;infill;xtc")
    assert own["samplers"] == SAMPLER_ORDER


def test_what_makes_no_sense_is_ignored_and_named() -> None:
    wrong = {"temp": math.nan, "top_p": "1.5", "top_k": "many", "mirostat": 3, "min_p": -1, "sequence": "nonsense"}
    own, ignored = read(xtc_threshold=0.3, **wrong)
    assert own == {"xtc_threshold": 0.3}
    assert {key.rpartition(".")[2] for key in ignored} == set(wrong)


anything = st.floats() | st.integers(-(2**64), 2**64) | st.text(max_size=20) | st.booleans() | st.none()


@given(st.dictionaries(st.sampled_from(KEYS), anything))
def test_whatever_a_file_says_the_outcome_is_valid(values: dict[str, Any]) -> None:
    own, _ = read(**values)
    sampling = Sampling().or_else(own)
    assert msgspec.json.decode(msgspec.json.encode(sampling), type=Sampling) == sampling
