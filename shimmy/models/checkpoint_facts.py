"""What the files of a checkpoint say about it, without its being converted, in the terms of a GGUF header."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from shimmy.core.capabilities import POOLINGS, capabilities, stated_pooling
from shimmy.core.defaults import own_sampling
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import CONFIG, PICKLED, Checkpoint, Config
from shimmy.models.facts import Facts, Inspection
from shimmy.models.safetensors import Tensor

# What of generation_config.json llama.cpp has a key for.
_SAMPLING = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
_SAMPLING |= {"repetition_penalty": "penalty_repeat"}
_WEIGHT_TYPES = ("F32", "F16", "BF16")


def inspect_checkpoint(paths: Sequence[str]) -> Inspection:
    """Never raises. A folder that no class of transformers is named in is no model of theirs."""
    checkpoint = Checkpoint(paths)
    try:
        if checkpoint.class_name is None:
            return Inspection("other", None, f"{CONFIG} names no architecture")
        if not checkpoint.shards:
            return Inspection("model", None, PICKLED)
        return Inspection("model", _facts_of(checkpoint), None)
    except ModelInvalid as error:
        return Inspection("model", None, error.message, not isinstance(error.__cause__, OSError))


def stated(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys that a GGUF header has for what the model is for, and for its own sampling. Raises `ModelInvalid`."""
    said = checkpoint.json("generation_config.json")
    keys: dict[str, Any] = {"general.architecture": checkpoint.architecture}
    for name, key in _SAMPLING.items():
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6:
            keys[f"general.sampling.{key}"] = int(value) if key == "top_k" else float(value)
    if (mode := checkpoint.pooling_mode) is not None:
        keys[f"{checkpoint.architecture}.pooling_type"] = POOLINGS.index(mode)
    return keys


def checkpoint_keys(paths: Sequence[str]) -> dict[str, Any]:
    """Those of the header of the file that it will be converted to, as far as that is simple. Raises `ModelInvalid`."""
    checkpoint = Checkpoint(paths)
    facts = _facts_of(checkpoint)
    numbers = {
        "context_length": facts.context_length,
        "block_count": facts.num_layers,
        "embedding_length": facts.embedding_length,
        "vocab_size": facts.vocabulary_size,
    }
    keys = stated(checkpoint) | {f"{facts.architecture}.{key}": value for key, value in numbers.items() if value}
    template = checkpoint.templates().get("default")
    return keys if template is None else keys | {"tokenizer.chat_template": template}


def check_weights(tensors: Sequence[tuple[str, Tensor]], checkpoint: Checkpoint) -> None:
    """Raises `ModelInvalid` for weights that are quantized, each library in its own way."""
    method = checkpoint.json(CONFIG).get("quantization_config")
    if isinstance(method, dict):
        how = method.get("quant_method")
        raise ModelInvalid(f"its weights are quantized ({how!s:.40}): only F32, F16 and BF16 can be converted")
    for _, tensor in tensors:
        if tensor.name.endswith((".weight", ".bias")) and tensor.type not in _WEIGHT_TYPES:
            raise ModelInvalid(f"tensor {tensor.name} is {tensor.type}: only F32, F16 and BF16 can be converted")


def _facts_of(checkpoint: Checkpoint) -> Facts:
    config = checkpoint.config
    keys = stated(checkpoint)
    tensors = checkpoint.tensors()
    check_weights(tensors, checkpoint)
    _check_tokenizer(checkpoint)
    weights = Counter[str]()
    for _, tensor in tensors:
        weights[tensor.type] += tensor.num_elements
    return Facts(
        architecture=checkpoint.architecture,
        name=None,
        quantization=weights.most_common(1)[0][0] if weights else None,
        num_parameters=weights.total(),
        context_length=config.size("max_position_embeddings") if config.has("max_position_embeddings") else None,
        num_layers=config.size("num_hidden_layers"),
        embedding_length=config.size("hidden_size"),
        vocabulary_size=config.size("vocab_size") if config.has("vocab_size") else None,
        has_chat_template="default" in checkpoint.templates(),
        tokenizer_model=None,
        pooling=stated_pooling(keys.get),
        capabilities=capabilities(keys.get),
        sampling=own_sampling(keys.get, lambda key, value: None),
        feed_forward_length=config.size("intermediate_size") if config.has("intermediate_size") else None,
        cache_row=_cache_row(config),
    )


def _cache_row(config: Config) -> tuple[int, int] | None:
    if not config.has("num_attention_heads"):
        return None
    num_heads = config.size("num_attention_heads")
    width = config.size("head_dim", max(1, config.size("hidden_size") // num_heads))
    row = config.size("num_hidden_layers") * config.size("num_key_value_heads", num_heads) * width
    return row, row


def _check_tokenizer(checkpoint: Checkpoint) -> None:
    if checkpoint.path("tokenizer.json") is None and checkpoint.path("tokenizer.model") is None:
        raise ModelInvalid("it has neither tokenizer.json nor tokenizer.model")
