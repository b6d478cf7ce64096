"""The tokenizer's arrays have to agree before llama.cpp indexes one by the other."""

from pathlib import Path
from typing import Any

import pytest

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf import num_tokens, read_header
from tests.fakes.gguf_writer import BYTE, NORMAL, Typed, model


def check(folder: Path, **metadata: Any) -> None:
    read_header(str(model(**metadata).write(folder / "m.gguf")))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tokens", "text", "tokenizer.ggml.tokens is not an array of str"),
        ("tokens", [1, 2], "tokenizer.ggml.tokens is not an array of str"),
        ("scores", ["a"], "tokenizer.ggml.scores is not an array of f32 or i32"),
        ("token_type", [1.0], "tokenizer.ggml.token_type is not an array of i32"),
        ("merges", [1], "tokenizer.ggml.merges is not an array of str"),
        ("precompiled_charsmap", [1.0], "tokenizer.ggml.precompiled_charsmap is not an array of u8 or i8"),
        ("scores", [1.0], "tokenizer.ggml.scores has 1 elements for 260 tokens"),
        ("token_type", Typed("arr", [1], "i32"), "tokenizer.ggml.token_type has 1 elements for 260 tokens"),
        ("eos_token_id", 260, "tokenizer.ggml.eos_token_id is 260, the vocabulary has 260 tokens"),
        ("bos_token_id", -2, "tokenizer.ggml.bos_token_id is -2, the vocabulary has 260 tokens"),
        ("eos_token_id", "2", "tokenizer.ggml.eos_token_id is '2', the vocabulary has 260 tokens"),
        ("token_type", Typed("arr", [BYTE] * 260, "i32"), "260 tokens are of type BYTE"),
    ],
)
def test_refuses_what_does_not_agree(key: str, value: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid) as error:
        check(tmp_path, **{f"tokenizer__ggml__{key}": value})
    assert error.value.message == reason


@pytest.mark.parametrize("name", ["<0x-1>", "<0x0G>", "<0x001>", "", "<0x0A>x"])
def test_refuses_a_byte_token_that_names_no_byte(name: str, tmp_path: Path) -> None:
    tokens = [f"token {number}" for number in range(200)] + [name, "<0x0a>"]
    types = Typed("arr", [NORMAL] * 200 + [BYTE] * 2, "i32")
    with pytest.raises(ModelInvalid, match=r"token 200 is of type BYTE but reads"):
        check(
            tmp_path,
            tokenizer__ggml__tokens=tokens,
            tokenizer__ggml__scores=None,
            tokenizer__ggml__token_type=types,
        )


@pytest.mark.parametrize("value", [Typed("u32", 2**32 - 1), -1, None])
def test_no_end_token_is_allowed(value: Any, tmp_path: Path) -> None:
    check(tmp_path, tokenizer__ggml__eos_token_id=value)


def test_scores_may_be_integers(tmp_path: Path) -> None:
    check(tmp_path, tokenizer__ggml__scores=Typed("arr", [0] * 260, "i32"))


def test_counts_tokens(tmp_path: Path) -> None:
    assert num_tokens(read_header(str(model().write(tmp_path / "m.gguf"))).metadata) == 260
    assert num_tokens({}) is None
