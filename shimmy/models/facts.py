"""What a model's headers say about it, read once per version of its files."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from shimmy.core.capabilities import capabilities, is_encoder, stated_pooling
from shimmy.core.defaults import own_sampling
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import CONFIG, PICKLED, PICKLES, WEIGHTS
from shimmy.models.gguf import Array, Header, Kind, check_servable, kind_of, num_tokens, read_header

# llama.h enum llama_ftype without the "MOSTLY"; the missing numbers were withdrawn.
FILE_TYPES = dict(enumerate("F32 F16 Q4_0 Q4_1".split()))
FILE_TYPES |= dict(enumerate("Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K".split(), 7))
FILE_TYPES |= dict(enumerate("IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S".split(), 19))
FILE_TYPES |= dict(enumerate("IQ2_M IQ4_XS IQ1_M BF16".split(), 29))
FILE_TYPES |= dict(enumerate("TQ1_0 TQ2_0 MXFP4_MOE NVFP4 Q1_0 Q2_0".split(), 36))

# What makes vectors of tokens, by how names begin.
INPUTS = ("token_embd.", "per_layer_token_embd.", "position_embd.", "token_types.")


class Weights(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a model's tensors by what they belong to: layers, of these the experts, what makes vectors of tokens,
    and what makes tokens of vectors, which may be the same."""

    layers: int
    experts: int
    input: int
    output: int


class Facts(msgspec.Struct, frozen=True):
    """What the header says; None where it is silent. Lengths in tokens; `quantization` as in "Q4_K_M"; `pooling` is how
    vectors are made of those of tokens; `capabilities` is what the model was made for; `sampling` has the fields of a
    request for which it has defaults of its own; `cache_row` is how many numbers the KV cache has of a token, of
    its keys and of its values, in all layers; `weights` is None where tensors are not named as llama.cpp does."""

    architecture: str | None
    name: str | None
    quantization: str | None
    num_parameters: int
    context_length: int | None
    num_layers: int | None
    embedding_length: int | None
    vocabulary_size: int | None
    has_chat_template: bool
    tokenizer_model: str | None
    pooling: str | None = None
    capabilities: tuple[str, ...] = ()
    sampling: dict[str, Any] = {}
    feed_forward_length: int | None = None
    cache_row: tuple[int, int] | None = None
    weights: Weights | None = None
    num_heads: int | None = None

    @property
    def is_encoder(self) -> bool:
        """Whether it generates no text."""
        return is_encoder({"general.architecture": self.architecture}.get)

    @property
    def template_source(self) -> Literal["gguf", "chatml"] | None:
        """Where the chat template comes from; None for what has no use for one."""
        if self.is_encoder:
            return None
        return "gguf" if self.has_chat_template else "chatml"


class Inspection(msgspec.Struct, frozen=True):
    """The outcome of reading headers. `lasting` is False when another try may end differently."""

    kind: Kind
    facts: Facts | None
    invalid: str | None
    lasting: bool = True


def inspect(paths: Sequence[str]) -> Inspection:
    """Never raises: what is wrong with the files is part of the outcome."""
    if paths[0].endswith((WEIGHTS, CONFIG)):
        from shimmy.models.checkpoint_facts import inspect_checkpoint

        return inspect_checkpoint(paths)
    if paths[0].endswith(PICKLES):
        return Inspection("model", None, PICKLED)
    headers: list[Header] = []
    try:
        for path in paths:
            headers.append(read_header(path))
    except ModelInvalid as error:
        which = f"shard {len(headers) + 1}: " if len(paths) > 1 else ""
        return Inspection("model", None, which + error.message, not isinstance(error.__cause__, OSError))
    try:
        check_servable(headers)
    except ModelInvalid as error:
        return Inspection(kind_of(headers), _facts_of(headers), error.message)
    return Inspection("model", _facts_of(headers), None)


def header_keys(paths: Sequence[str]) -> dict[str, Any]:
    """The keys and values of a model's header; None stands for an array. Of a checkpoint, what is known before it is
    converted. Raises `ModelInvalid`."""
    if paths[0].endswith(WEIGHTS):
        from shimmy.models.checkpoint_facts import checkpoint_keys

        return checkpoint_keys(paths)
    metadata = read_header(paths[0]).metadata
    return {key: None if isinstance(value, Array) else value for key, value in metadata.items()}


def _facts_of(headers: Sequence[Header]) -> Facts:
    first = headers[0]
    architecture = first.architecture
    return Facts(
        architecture=architecture,
        name=first.text("general.name"),
        quantization=_quantization(headers),
        num_parameters=sum(header.num_parameters for header in headers),
        context_length=first.integer(f"{architecture}.context_length"),
        num_layers=first.integer(f"{architecture}.block_count"),
        embedding_length=first.integer(f"{architecture}.embedding_length"),
        vocabulary_size=num_tokens(first.metadata),
        has_chat_template="tokenizer.chat_template" in first.metadata,
        tokenizer_model=first.text("tokenizer.ggml.model"),
        pooling=stated_pooling(first.metadata.get),
        capabilities=capabilities(first.metadata.get),
        sampling=own_sampling(first.metadata.get, lambda key, value: None),
        feed_forward_length=first.integer(f"{architecture}.feed_forward_length"),
        cache_row=_cache_row(first),
        weights=_weights(headers),
        num_heads=first.integer(f"{architecture}.attention.head_count"),
    )


def _weights(headers: Sequence[Header]) -> Weights | None:
    """By the names of llama-arch.cpp."""
    sizes = dict.fromkeys(Weights.__struct_fields__, 0)
    for header in headers:
        for tensor in header.tensors:
            name = tensor.name
            if name.startswith("blk."):
                sizes["layers"] += tensor.size_bytes
                if "exps." in name:
                    sizes["experts"] += tensor.size_bytes
            elif name.startswith(INPUTS):
                sizes["input"] += tensor.size_bytes
            elif name.startswith("output."):
                sizes["output"] += tensor.size_bytes
    return Weights(**sizes) if sizes["layers"] else None


def _cache_row(header: Header) -> tuple[int, int] | None:
    """Where heads differ from layer to layer, which is an array, as many as a layer can have."""

    def of(key: str) -> int | None:
        return header.integer(f"{header.architecture}.{key}")

    num_layers, width = of("block_count"), of("embedding_length")
    num_heads = of("attention.head_count")
    if not num_layers or not width or not num_heads:
        return None
    num_kv_heads = of("attention.head_count_kv") or num_heads
    keys, values = (of(f"attention.{kind}_length") or width // num_heads for kind in ("key", "value"))
    return num_layers * num_kv_heads * keys, num_layers * num_kv_heads * values


def _quantization(headers: Sequence[Header]) -> str | None:
    """What the file calls itself, else the type that most of its parameters have."""
    file_type = headers[0].integer("general.file_type")
    if file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    weights: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            weights[tensor.type] += tensor.num_elements
    return weights.most_common(1)[0][0] if weights else None
