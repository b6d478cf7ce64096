"""What the headers of a model's files must say before anything native sees the files. A header on its own may be
fine and still be no model: a vocabulary, an adapter, one shard of several."""

from collections.abc import Sequence
from typing import Literal

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.header import Header
from shimmy.models.gguf.vocabulary import num_tokens

MAX_BLOCKS = 512  # llama-hparams.h LLAMA_MAX_LAYERS; more of them abort the process

# ggml-cpu/ops.cpp aborts the process over one that is negative or no number, at the first token.
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")

Kind = Literal["model", "vocabulary", "adapter", "projector", "other"]

_KINDS: dict[str, Kind] = {
    "adapter": "adapter",
    "mmproj": "projector",
    "clip": "projector",
    "imatrix": "other",
    "controlvector": "other",
}


def kind_of(headers: Sequence[Header]) -> Kind:
    """What the file, or the shards of one, hold. "vocabulary" is a file without tensors."""
    first = headers[0]
    for word in (first.text("general.type"), first.architecture):
        if word in _KINDS:
            return _KINDS[word]
    if "adapter.type" in first.metadata:
        return "adapter"
    return "model" if any(header.tensors for header in headers) else "vocabulary"


def check_servable(headers: Sequence[Header]) -> None:
    """Raises `ModelInvalid` unless the headers, one per shard and in order, make a whole language model."""
    kind = kind_of(headers)
    if kind != "model":
        article = "an" if kind[0] in "aeiou" else "a"
        raise ModelInvalid("not a model but auxiliary data" if kind == "other" else f"not a model but {article} {kind}")
    _check_shards(headers)
    first = headers[0]
    if not first.architecture:
        raise ModelInvalid("general.architecture is missing")
    key = f"{first.architecture}.block_count"
    blocks = first.integer(key)
    if blocks is None or not 1 <= blocks <= MAX_BLOCKS:
        raise ModelInvalid(f"{key} is {'missing' if blocks is None else blocks}, it has to be 1 to {MAX_BLOCKS}")
    _check_epsilons(first)
    _check_vocabulary_size(headers)


def _check_epsilons(header: Header) -> None:
    for name in _EPSILONS:
        key = f"{header.architecture}.attention.{name}"
        value = header.metadata.get(key)
        # A NaN fails this as well.
        if isinstance(value, float) and not value >= 0:
            raise ModelInvalid(f"{key} is {value:g}, it has to be 0 or more")


def _check_shards(headers: Sequence[Header]) -> None:
    for index, header in enumerate(headers):
        count = header.integer("split.count") or 1
        if count != len(headers):
            raise ModelInvalid(f"made of {count} files, of which {len(headers)} would be loaded")
        number = header.integer("split.no") or 0
        if number != index:
            raise ModelInvalid(f"shard {number + 1} of {count} lies in the place of shard {index + 1}")
    total = headers[0].integer("split.tensors.count")
    found = sum(len(header.tensors) for header in headers)
    if len(headers) > 1 and total is not None and total != found:
        raise ModelInvalid(f"the shards hold {found} tensors of {total}")


def _check_vocabulary_size(headers: Sequence[Header]) -> None:
    size = num_tokens(headers[0].metadata)
    if not size:
        raise ModelInvalid("it has no tokenizer")
    for header in headers:
        for tensor in header.tensors:
            if tensor.name == "token_embd.weight" and tensor.shape[1:2] != (size,):
                raise ModelInvalid(f"the vocabulary has {size} tokens, token_embd.weight the shape {tensor.shape}")
