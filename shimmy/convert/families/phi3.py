"""Phi 3, 3.5 and 4 without experts and without eyes."""

import math

from shimmy.convert.data import Planned, literal
from shimmy.convert.family import Family, described, rope_parameters
from shimmy.convert.gguf import Value
from shimmy.convert.names import decoder_name
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Config

_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _describe(config: Config) -> dict[str, Value]:
    rope = rope_parameters(config)
    length = config.size("max_position_embeddings")
    original = rope.size("original_max_position_embeddings", length)
    if rope.values["rope_type"] not in ("default", "longrope", "su"):
        raise ModelInvalid(
            f"its positions are rotated in a way that cannot be converted: {rope.values['rope_type']!r:.40}"
        )
    # Which of the two lists of factors counts follows from the length of the context; llama.cpp wants no type beside.
    keys = described(config) | {"rope.freq_base": rope.number("rope_theta", 10_000.0)}
    # A window of zero is how llama.cpp knows one that has none.
    keys["attention.sliding_window"] = config.size("sliding_window") if config.has("sliding_window") else 0
    keys["rope.scaling.original_context_length"] = original
    keys["rope.dimension_count"] = _num_rotated(config)
    if rope.has("long_factor"):
        scale = length / original
        grown = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0
        keys["rope.scaling.attn_factor"] = grown
    return keys


def _num_rotated(config: Config) -> int:
    share = rope_parameters(config).number("partial_rotary_factor", 1.0)
    if not 0 < share <= 1:
        raise ModelInvalid(f"config.json: partial_rotary_factor is {share!r}, it has to be a part of 1")
    return int(share * config.size("hidden_size")) // config.size("num_attention_heads")


def _extra(config: Config) -> list[Planned]:
    rope = rope_parameters(config)
    if not rope.has("long_factor"):
        return []
    return [
        literal(f"rope_factors_{kind}.weight", _factors(rope, f"{kind}_factor", config)) for kind in ("long", "short")
    ]


def _factors(rope: Config, name: str, config: Config) -> list[float]:
    values = rope.values.get(name)
    wanted = _num_rotated(config) // 2
    if not isinstance(values, list) or len(values) != wanted:
        raise ModelInvalid(f"config.json: {name} is no list of {wanted} numbers")
    return [Config({name: value}).number(name) for value in values]


PHI3 = Family(
    architecture="phi3",
    tensor_name=lambda name: decoder_name(name, _PARTS),
    describe=_describe,
    extra=_extra,
)
