"""What a GGUF file says that its model is for: which kinds of answers, and how vectors are made of it.

The server reads it from the header, a worker asks llama.cpp.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from shimmy.core.request import Pooling

Capability = Literal["completion", "embedding", "rerank"]

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# llama.cpp, src/llama-model.cpp: create_memory makes none for these, and a model without cannot go on with a text.
# Those that answer by diffusion are among them.
ENCODERS = frozenset(
    "bert eurobert gemma-embedding jina-bert-v2 jina-bert-v3 modern-bert neo-bert nomic-bert nomic-bert-moe "
    "dream llada llada-moe rnd1 wavtokenizer-dec".split()
)


def stated_pooling(get: Callable[[str], Any]) -> Pooling | None:
    """How the model's vectors are made of those of its tokens; None where the file does not say, or says nonsense.

    `get` gives the value of a key, a number or its text, or None.
    """
    value = get(f"{get('general.architecture')}.pooling_type")
    try:
        code = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return POOLINGS[code] if 0 <= code < len(POOLINGS) else None


def is_encoder(get: Callable[[str], Any]) -> bool:
    return get("general.architecture") in ENCODERS


def capabilities(get: Callable[[str], Any]) -> tuple[Capability, ...]:
    """What the model was made for: where its file says how vectors are made, that is it, as in Ollama."""
    pooling = stated_pooling(get)
    if pooling == "rank":
        return ("rerank",)
    return ("embedding",) if is_encoder(get) or pooling not in (None, "none") else ("completion",)
