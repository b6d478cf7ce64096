"""Which files of a repository are a model, and which one is taken."""

import random

import pytest

from shimmy.core.errors import ModelNotFound, RequestError
from shimmy.store.quantization import (
    FLOATS,
    PRIORITY,
    Candidate,
    RemoteFile,
    by_file,
    by_tag,
    candidates,
    preferred,
    quantization_of,
)


def found(*paths: str, size: int = 10) -> list[Candidate]:
    return candidates(RemoteFile(path, size, "0" * 64) for path in paths)


@pytest.mark.parametrize(
    ("stem", "quantization"),
    [
        ("Qwen2.5-0.5B-Instruct-Q4_K_M", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q4_k_m", "Q4_K_M"),
        ("SmolLM2.Q8_0", "Q8_0"),
        ("model-IQ4_XS", "IQ4_XS"),
        ("model-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("model_f16", "F16"),
        ("model-BF16", "BF16"),
        ("Q5_K_M/model", "Q5_K_M"),
        ("f16/model-q8_0", "Q8_0"),
        ("gpt-oss-20b-MXFP4", "MXFP4"),
        ("model", None),
        ("q4model", None),
    ],
)
def test_what_a_name_says(stem: str, quantization: str | None) -> None:
    assert quantization_of(stem) == quantization


def test_what_is_no_model() -> None:
    others = ["README.md", "mmproj-model-f16.gguf", "imatrix.gguf", "my-lora-f16.gguf", "x.safetensors"]
    assert [each.stem for each in found("a-Q4_0.gguf", *others)] == ["a-Q4_0"]


def test_only_whole_sets_of_shards() -> None:
    shards = [f"a-Q4_0-{number:05}-of-00003.gguf" for number in (3, 1, 2)]
    (whole,) = found(*shards)
    assert [file.path for file in whole.files] == sorted(shards) and whole.size == 30
    assert found(*shards[:2]) == []
    assert found("a-Q4_0-00000-of-00000.gguf", "a-Q4_0-00001-of-99999.gguf") == []


def test_the_order() -> None:
    """Everything that the issue names, in its order; what is unknown before the whole floats."""
    order = [*PRIORITY, "Q6_K", "F16"]
    for at in range(len(order)):
        paths = [f"m-{each}.gguf" for each in order[at:]]
        random.Random(at).shuffle(paths)
        assert preferred(found(*paths)).quantization == order[at]
    assert PRIORITY[:4] == ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q5_K_S") and "BF16" in FLOATS


def test_what_fits() -> None:
    sizes = {"Q4_K_M": 40, "Q3_K_S": 30, "Q2_K": 20}
    there = candidates(RemoteFile(f"m-{name}.gguf", size, "0" * 64) for name, size in sizes.items())
    assert preferred(there, lambda size: size <= 30).quantization == "Q3_K_S"
    assert preferred(there, lambda size: size <= 10).quantization == "Q2_K"


def test_which_one_was_asked_for() -> None:
    there = found("big-Q4_0.gguf", "big-Q8_0.gguf", "plain.gguf")
    assert by_tag(there, "q8_0").stem == "big-Q8_0"
    assert by_tag(there, "BIG-q4_0").stem == "big-Q4_0"
    assert by_file(there, "plain.gguf").stem == "plain"
    with pytest.raises(ModelNotFound):
        by_tag(there, "Q2_K")
    with pytest.raises(ModelNotFound):
        by_file(there, "none.gguf")
    with pytest.raises(ModelNotFound):
        preferred([])


def test_several_of_one_quantization_have_to_be_told_apart() -> None:
    there = found("big-Q4_0.gguf", "small-Q4_0.gguf")
    with pytest.raises(RequestError, match="big-Q4_0.gguf, small-Q4_0.gguf"):
        by_tag(there, "Q4_0")
    with pytest.raises(RequestError, match="big-Q4_0.gguf, small-Q4_0.gguf"):
        preferred(there)
