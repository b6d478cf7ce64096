"""Gemma 2 and 3; of a Gemma 3 that sees, what reads text."""

from shimmy.convert.family import Family, described, rotated
from shimmy.convert.gguf import Value
from shimmy.convert.names import ATTENTION, FEED_FORWARD, decoder_name
from shimmy.models.checkpoint import Config

_PARTS = ATTENTION | FEED_FORWARD
_PARTS |= {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_PARTS |= {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm"}
_PARTS |= {"post_feedforward_layernorm": "post_ffw_norm"}
_SEES = ("vision_tower.", "multi_modal_projector.")


def _name(name: str) -> str | None:
    name = name.replace("language_model.", "")
    if name.removeprefix("model.").startswith(_SEES):
        return ""
    return decoder_name(name, _PARTS)


def _describe_2(config: Config) -> dict[str, Value]:
    return described(config) | {
        "attn_logit_softcapping": config.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": config.number("final_logit_softcapping", 30.0),
        "attention.sliding_window": config.size("sliding_window"),
    }


def _local_base(config: Config) -> float:
    """Of the layers that see a window."""
    said = config.values.get("rope_parameters")
    inner = said.get("sliding_attention") if isinstance(said, dict) else None
    if isinstance(inner, dict):
        return Config(inner).number("rope_theta", 10_000.0)
    return config.number("rope_local_base_freq", 10_000.0)


def _describe_3(config: Config) -> dict[str, Value]:
    keys = described(config) | rotated(config, 1_000_000.0)
    keys["attention.sliding_window"] = config.size("sliding_window")
    keys["rope.freq_base_swa"] = _local_base(config)
    if config.has("final_logit_softcapping"):
        keys["final_logit_softcapping"] = config.number("final_logit_softcapping")
    return keys


GEMMA2 = Family(
    architecture="gemma2",
    tensor_name=_name,
    describe=_describe_2,
    defaults={"head_dim": 256, "sliding_window": 4096, "max_position_embeddings": 8192},
    norm_plus=1.0,
    adds_space=False,
    has_tied_output=True,
)
GEMMA3 = Family(
    architecture="gemma3",
    tensor_name=_name,
    describe=_describe_3,
    # What transformers takes for what the published configurations leave out.
    defaults={
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "vocab_size": 262_208,
    },
    norm_plus=1.0,
    adds_space=False,
    has_tied_output=True,
)
