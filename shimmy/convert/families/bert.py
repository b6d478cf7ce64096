"""BERT, for vectors: what would guess masked words or classify is left out."""

from shimmy.convert.family import Family, num_blocks
from shimmy.convert.gguf import Value
from shimmy.models.checkpoint import Config

_OUTER = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_NOT_NEEDED = ("pooler.", "cls.", "embeddings.position_ids")
# What the first checkpoints called them.
_KINDS = {"gamma": "weight", "beta": "bias"}


def _name(name: str) -> str | None:
    name = name.removeprefix("bert.")
    if name.startswith(_NOT_NEEDED):
        return ""
    stem, _, kind = name.rpartition(".")
    kind = _KINDS.get(kind, kind)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    match stem.split(".", 3):
        case ["encoder", "layer", number, part] if part in _PARTS and number.isdecimal():
            return f"blk.{int(number)}.{_PARTS[part]}.{kind}"
    return None


def _describe(config: Config) -> dict[str, Value]:
    return {
        "block_count": num_blocks(config),
        "context_length": config.size("max_position_embeddings"),
        "embedding_length": config.size("hidden_size"),
        "feed_forward_length": config.size("intermediate_size"),
        "attention.head_count": config.size("num_attention_heads"),
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12),
        "attention.causal": False,
    }


BERT = Family(architecture="bert", tensor_name=_name, describe=_describe)
