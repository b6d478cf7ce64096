"""Qwen 2, 2.5 and 3 without experts."""

from shimmy.convert.family import Family, described, rotated
from shimmy.convert.gguf import Value
from shimmy.convert.names import ATTENTION, FEED_FORWARD, decoder_name
from shimmy.models.checkpoint import Config

_PARTS = ATTENTION | FEED_FORWARD | {"post_attention_layernorm": "ffn_norm"}
_PARTS_3 = _PARTS | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}


def _describe(config: Config) -> dict[str, Value]:
    return described(config) | rotated(config, 10_000.0)


QWEN2 = Family(architecture="qwen2", tensor_name=lambda name: decoder_name(name, _PARTS), describe=_describe)
QWEN3 = Family(
    architecture="qwen3",
    tensor_name=lambda name: decoder_name(name, _PARTS_3),
    describe=_describe,
    defaults={"head_dim": 128},
)
