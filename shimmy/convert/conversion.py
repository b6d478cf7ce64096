"""One checkpoint as one GGUF file: what will be in it is planned whole, and checked, before anything is written."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

import msgspec

from shimmy.convert.data import Planned, Source, planned
from shimmy.convert.families import FAMILIES
from shimmy.convert.family import Family, num_blocks
from shimmy.convert.gguf import Metadata, Value, padded, write_header
from shimmy.convert.tokenizer import tokenizer_keys
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Checkpoint, Config
from shimmy.models.checkpoint_facts import check_weights, stated

# It names what was made: a change of the tensors or keys that are written has to change it.
VERSION = 1
_EMBEDDINGS = "token_embd.weight"
# llama.h, enum llama_ftype
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_QUANTIZATION_VERSION = 2  # ggml.h GGML_QNT_VERSION
# Added to others as they are; and what llama.cpp takes as 32-bit floats whatever it is.
_ALWAYS_F32 = ("position_embd.weight", "token_types.weight")


class Plan(msgspec.Struct, frozen=True):
    metadata: Metadata
    tensors: Sequence[Planned]

    @property
    def tensor_bytes(self) -> int:
        return sum(padded(tensor.entry.size_bytes) for tensor in self.tensors)


def plan(paths: Sequence[str], name: str) -> Plan:
    """`paths` as `files_of` gives them, `name` for people. Raises `ModelInvalid` for what cannot be converted."""
    checkpoint = Checkpoint(paths)
    family = FAMILIES[checkpoint.architecture]
    config = Config({**family.defaults, **_given(checkpoint.config)})
    tensors = _tensors(checkpoint, family, config)
    embeddings = next((each.entry.shape for each in tensors if each.entry.name == _EMBEDDINGS), ())
    if len(embeddings) != 2:
        raise ModelInvalid(f"it has no embeddings of tokens, or in the shape {embeddings}")
    keys: dict[str, Value] = {"general.type": "model", **stated(checkpoint), "general.name": name}
    keys |= {"general.file_type": _file_type(checkpoint), "general.quantization_version": _QUANTIZATION_VERSION}
    keys |= {f"{family.architecture}.{key}": value for key, value in family.describe(config).items()}
    keys |= tokenizer_keys(checkpoint, embeddings[0], family.adds_space)
    return Plan(keys, tensors)


def write(made: Plan, sink: BinaryIO, on_progress: Callable[[float], None]) -> None:
    """`on_progress` gets the fraction written. Raises `OSError`, and `ModelInvalid` where a shard has changed."""
    write_header(sink, made.metadata, [tensor.entry for tensor in made.tensors])
    total, done = max(1, made.tensor_bytes), 0
    for tensor in made.tensors:
        written = 0
        for piece in tensor.pieces():
            sink.write(piece)
            written += len(piece)
            on_progress((done + written) / total)
        sink.write(bytes(padded(written) - written))
        done += padded(written)


def _given(config: Config) -> dict[str, object]:
    return {name: value for name, value in config.values.items() if value is not None}


def _tensors(checkpoint: Checkpoint, family: Family, config: Config) -> list[Planned]:
    found = checkpoint.tensors()
    check_weights(found, checkpoint)
    tied = config.values.get("tie_word_embeddings", family.has_tied_output) is True
    made: dict[str, Planned] = {}
    for path, tensor in found:
        name = family.tensor_name(tensor.name)
        if name is None:
            raise ModelInvalid(f"tensor {tensor.name} is none of those that llama.cpp's {family.architecture} has")
        # One that is tied was saved for no purpose: what counts are the embeddings.
        if not name or (tied and name.startswith("output.")):
            continue
        if name in made:
            raise ModelInvalid(f"two tensors would be called {name}")
        made[name] = _planned(name, Source(path, tensor), family, config)
    _check_layers(made, num_blocks(config))
    return [*family.extra(config), *made.values()]


def _check_layers(names: Iterable[str], wanted: int) -> None:
    """llama.cpp would find out, when all has been written."""
    found = {name.split(".", 2)[1] for name in names if name.startswith("blk.")}
    if missing := [layer for layer in range(wanted) if str(layer) not in found]:
        raise ModelInvalid(f"config.json: num_hidden_layers is {wanted}, but layer {missing[0]} has no tensors")
    if len(found) > wanted:
        raise ModelInvalid(f"config.json: num_hidden_layers is {wanted}, but there are tensors of {len(found)} layers")


def _planned(name: str, source: Source, family: Family, config: Config) -> Planned:
    tensor = source.tensor
    if not tensor.shape or not tensor.num_elements or len(tensor.shape) > 2:
        raise ModelInvalid(f"tensor {tensor.name} has the shape {tensor.shape}")
    is_norm = name.endswith("_norm.weight")
    widen = is_norm or len(tensor.shape) == 1 or not name.endswith(".weight") or name in _ALWAYS_F32
    plus = family.norm_plus if is_norm else 0.0
    return planned(name, source, widen=widen, plus=plus, num_heads=family.num_heads(config, name))


def _file_type(checkpoint: Checkpoint) -> int:
    """The type that most of the weights have, whatever some of them become."""
    weights = Counter[str]()
    for _, tensor in checkpoint.tensors():
        weights[tensor.type] += tensor.num_elements
    return next((_FILE_TYPES[kind] for kind, _ in weights.most_common() if kind in _FILE_TYPES), _FILE_TYPES["F32"])
