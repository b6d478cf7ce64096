"""Tensors by the names that transformers gives them, and as llama.cpp calls them."""

from collections.abc import Mapping

# Of a layer of a decoder; each with .weight and .bias.
ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
FEED_FORWARD = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
# Of the whole model.
OUTER = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
# Buffers that older versions saved, and that follow from the configuration.
_COMPUTED = ("rotary_emb.inv_freq", "attention.masked_bias", "attention.bias")


def decoder_name(name: str, layer_parts: Mapping[str, str]) -> str | None:
    """llama.cpp's name of a decoder's tensor, empty for one that it does not need. None for one it does not know."""
    if name.endswith(_COMPUTED):
        return ""
    stem, _, kind = name.removeprefix("model.").rpartition(".")
    match stem.split(".", 2):
        case ["layers", number, part] if part in layer_parts and number.isdecimal():
            return f"blk.{int(number)}.{layer_parts[part]}.{kind}"
        case [part] if part in OUTER:
            return f"{OUTER[part]}.{kind}"
    return None
