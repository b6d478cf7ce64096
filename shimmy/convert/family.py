"""What a family of models is: which tensors it has by which names, and the numbers that describe it. One file each
in families/."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shimmy.convert.data import Planned
from shimmy.convert.gguf import Value
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Config

MAX_BLOCKS = 512  # llama-hparams.h LLAMA_MAX_LAYERS


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """`architecture` is llama.cpp's name. `tensor_name` gives its name of a tensor as `decoder_name` does. `describe`
    gives the keys of the header, without "architecture." before them. `num_heads` says of queries and keys how many
    heads they have, if their rows are stored in another order. `norm_plus` is added to norms. `extra` are tensors that
    follow from the configuration. `adds_space` is whether texts begin with a space that is not there, if that is known
    of the whole family. Everything raises `ModelInvalid`."""

    architecture: str
    tensor_name: Callable[[str], str | None]
    describe: Callable[[Config], dict[str, Value]]
    defaults: Mapping[str, Any] = {}
    num_heads: Callable[[Config, str], int | None] = lambda config, name: None
    norm_plus: float = 0.0
    extra: Callable[[Config], list[Planned]] = lambda config: []
    adds_space: bool | None = None
    has_tied_output: bool = False


def described(config: Config) -> dict[str, Value]:
    """What is said of every decoder."""
    heads = config.size("num_attention_heads")
    keys: dict[str, Value] = {
        "block_count": num_blocks(config),
        "context_length": config.size("max_position_embeddings"),
        "embedding_length": config.size("hidden_size"),
        "feed_forward_length": config.size("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": config.size("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6),
    }
    # Of those that make vectors only.
    if config.values.get("is_causal") is False:
        keys["attention.causal"] = False
    if config.has("head_dim"):
        keys |= head_lengths(config.size("head_dim"))
    return keys


def head_lengths(length: int) -> dict[str, Value]:
    return {"attention.key_length": length, "attention.value_length": length}


def num_blocks(config: Config) -> int:
    blocks = config.size("num_hidden_layers")
    if blocks > MAX_BLOCKS:
        raise ModelInvalid(f"config.json: num_hidden_layers is {blocks}, the limit is {MAX_BLOCKS}")
    return blocks


def rope_parameters(config: Config) -> Config:
    """How positions are rotated, in layers that see everything; older versions of transformers say it elsewhere."""
    said = config.values.get("rope_parameters") or config.values.get("rope_scaling") or {}
    inner = said.get("full_attention", said) if isinstance(said, dict) else None
    if not isinstance(inner, dict):
        raise ModelInvalid(f"config.json: how positions are rotated is said by {said!r:.80}")
    beside = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    rope = Config({name: config.values[name] for name in beside if config.has(name)} | inner)
    rope.values.setdefault("rope_type", rope.values.get("type", "default"))
    return rope


def rotated(config: Config, default_base: float) -> dict[str, Value]:
    """How positions are, in llama.cpp's terms. Raises `ModelInvalid` for a way that it does not have."""
    rope = rope_parameters(config)
    keys: dict[str, Value] = {"rope.freq_base": rope.number("rope_theta", default_base)}
    match rope.values["rope_type"]:
        case "default" | "llama3":
            pass
        case "linear":
            keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.number("factor")}
        case "yarn":
            keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope.number("factor")}
            keys["rope.scaling.original_context_length"] = _original_length(rope, config)
            keys |= {f"rope.scaling.{ours}": rope.number(name) for name, ours in _YARN.items() if rope.has(name)}
        case "longrope" | "su":
            keys["rope.scaling.type"] = "longrope"
        case other:
            raise ModelInvalid(f"its positions are rotated in a way that cannot be converted: {other!r:.40}")
    return keys


_YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def _original_length(rope: Config, config: Config) -> int:
    return rope.size("original_max_position_embeddings", config.size("max_position_embeddings"))


def llama3_factors(config: Config, head_length: int, default_base: float) -> list[float]:
    """By how much each frequency is divided where long waves are stretched and short ones are not; empty otherwise.

    As in transformers, modeling_rope_utils.py, _compute_llama3_parameters.
    """
    rope = rope_parameters(config)
    if rope.values["rope_type"] != "llama3":
        return []
    base = rope.number("rope_theta", default_base)
    factor, low, high = rope.number("factor"), rope.number("low_freq_factor"), rope.number("high_freq_factor")
    length = rope.size("original_max_position_embeddings")
    if factor <= 0 or low <= 0 or high <= low or base <= 0:
        raise ModelInvalid("config.json: the factors of its rope scaling contradict each other")
    factors = []
    for index in range(0, head_length, 2):
        wave = 2 * math.pi * base ** (index / head_length)
        share = min(1.0, max(0.0, (length / wave - low) / (high - low)))
        factors.append(1 / ((1 - share) / factor + share))
    return factors
