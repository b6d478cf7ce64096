"""What a file says that its model is for."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shimmy.core.capabilities import capabilities, is_encoder, stated_pooling


def file(architecture: Any, pooling: Any = None) -> dict[str, Any]:
    return {"general.architecture": architecture, f"{architecture}.pooling_type": pooling}


@pytest.mark.parametrize(
    ("architecture", "pooling", "name", "expected"),
    [
        ("llama", None, None, ("completion",)),
        ("llama", 0, "none", ("completion",)),
        ("qwen3", 3, "last", ("embedding",)),
        ("qwen3", 4, "rank", ("rerank",)),
        ("bert", 1, "mean", ("embedding",)),
        ("bert", "2", "cls", ("embedding",)),
        ("bert", None, None, ("embedding",)),
        ("nomic-bert", 4, "rank", ("rerank",)),
        (None, None, None, ("completion",)),
    ],
)
def test_capabilities(architecture: str, pooling: Any, name: str | None, expected: tuple[str, ...]) -> None:
    keys = file(architecture, pooling)
    assert stated_pooling(keys.get) == name
    assert capabilities(keys.get) == expected
    assert is_encoder(keys.get) == (architecture in ("bert", "nomic-bert"))


@example(math.inf)
@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()))
def test_nonsense_is_no_pooling(value: Any) -> None:
    found = stated_pooling(file("bert", value).get)
    assert found is None or found in ("none", "mean", "cls", "last", "rank")
