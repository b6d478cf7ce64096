"""Llama 1 to 3, Mistral without experts, and what is built like them."""

from shimmy.convert.data import Planned, literal
from shimmy.convert.family import Family, described, head_lengths, llama3_factors, rotated
from shimmy.convert.gguf import Value
from shimmy.convert.names import ATTENTION, FEED_FORWARD, decoder_name
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Config

_PARTS = ATTENTION | FEED_FORWARD | {"post_attention_layernorm": "ffn_norm"}
_ROPE_BASE = 10_000.0
MAX_HEAD_LENGTH = 1 << 14


def _head_length(config: Config) -> int:
    length = config.size("head_dim", config.size("hidden_size") // config.size("num_attention_heads"))
    if length > MAX_HEAD_LENGTH:
        raise ModelInvalid(f"config.json: its heads are {length} long, the limit is {MAX_HEAD_LENGTH}")
    return length


def _describe(config: Config) -> dict[str, Value]:
    length = _head_length(config)
    keys = described(config) | head_lengths(length) | rotated(config, _ROPE_BASE)
    return keys | {"vocab_size": config.size("vocab_size"), "rope.dimension_count": length}


def _num_heads(config: Config, name: str) -> int | None:
    heads = config.size("num_attention_heads")
    if ".attn_q." in name:
        return heads
    return config.size("num_key_value_heads", heads) if ".attn_k." in name else None


def _extra(config: Config) -> list[Planned]:
    factors = llama3_factors(config, _head_length(config), _ROPE_BASE)
    return [literal("rope_freqs.weight", factors)] if factors else []


LLAMA = Family(
    architecture="llama",
    tensor_name=lambda name: decoder_name(name, _PARTS),
    describe=_describe,
    num_heads=_num_heads,
    extra=_extra,
)
