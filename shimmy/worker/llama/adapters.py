"""Loads LoRA adapters for a model that is loaded. Their headers are checked first, against the model's own: what
llama.cpp does not look at would abort the process when a batch is computed.
"""

import os
from collections.abc import Mapping, Sequence

from shimmy.core.errors import ModelInvalid
from shimmy.core.ipc import Adapter
from shimmy.models.gguf import Header, Tensor, read_header
from shimmy.worker.adapters import Adapters
from shimmy.worker.llama import backend
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.model import Model

_DOWN, _UP = ".lora_a", ".lora_b"
# What llama.cpp's converter writes; the CPU multiplies all of them, and takes rows out of them.
_TYPES = ("F32", "F16", "BF16", "Q8_0")
_EMBEDDING = "token_embd.weight"
_ALORA = "adapter.alora.invocation_tokens"


def load_adapters(adapters: Sequence[Adapter], paths: Sequence[str], model: Model, *, with_digests: bool) -> Adapters:
    """`paths` are the model's. Raises `ModelInvalid`, which names the adapter."""
    weights = {tensor.name: tensor for path in paths for tensor in read_header(path).tensors}
    architecture = model.metadata("general.architecture") or ""
    handles, digests = [], []
    for adapter in adapters:
        try:
            digest = _digest(adapter.path) if with_digests else ""
            _check(read_header(adapter.path), architecture, weights)
            handles.append(_load(adapter.path, model))
            if with_digests and _digest(adapter.path) != digest:
                raise ModelInvalid("it has changed while it was loaded")
        except ModelInvalid as error:
            raise ModelInvalid(f"the adapter {adapter.path} cannot be used: {error.message}") from error
        digests.append(digest)
    return Adapters(adapters, handles, digests if with_digests else ())


def _load(path: str, model: Model) -> int:
    backend.last_error("")
    handle = llama().llama_adapter_lora_init(model.handle, os.fsencode(path))
    if not handle:
        raise ModelInvalid(backend.last_error("llama.cpp could not load it"))
    return int(handle)


def _digest(path: str) -> str:
    from shimmy.worker.disk.identity import fingerprint, observe

    try:
        return fingerprint(path, observe([path])[path]).hex()
    except OSError as error:
        raise ModelInvalid(f"cannot be read: {error.strerror or error}") from error


def _check(header: Header, architecture: str, weights: Mapping[str, Tensor]) -> None:
    """Raises `ModelInvalid` unless llama.cpp can compute with it, for this model."""
    kinds = header.text("general.type"), header.text("adapter.type")
    if kinds != ("adapter", "lora"):
        raise ModelInvalid("it is no LoRA adapter")
    if header.architecture != architecture:
        raise ModelInvalid(f"it is for models of the architecture {header.architecture}, and this is {architecture}")
    if _ALORA in header.metadata:
        raise ModelInvalid("it is an activated LoRA, which is not supported")
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        name, suffix = tensor.name[: -len(_DOWN)], tensor.name[-len(_DOWN) :]
        if suffix in (_DOWN, _UP):
            pairs.setdefault(name, {})[suffix] = tensor
        elif not tensor.name.endswith("_norm.weight"):
            raise ModelInvalid(f"its tensor {tensor.name} is no part of a LoRA")
    if not pairs:
        raise ModelInvalid("it has no tensors")
    for name, pair in pairs.items():
        _check_pair(name, pair, weights)


def _check_pair(name: str, pair: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    if name not in weights:
        raise ModelInvalid(f"the model has no tensor {name}: it is for another model")
    if len(pair) < 2:
        raise ModelInvalid(f"one of the two tensors for {name} is missing")
    if other := next((each.type for each in pair.values() if each.type not in _TYPES), None):
        raise ModelInvalid(f"its tensors for {name} have the type {other}, not {', '.join(_TYPES)}")
    down, up, weight = (_whole(tensor.shape) for tensor in (pair[_DOWN], pair[_UP], weights[name]))
    # A row of an embedding is looked up, not multiplied (llama-graph.cpp, build_inp_embd).
    if name == _EMBEDDING:
        fits = (up[1], down[1], down[0]) == (weight[0], weight[1], up[0])
    else:
        fits = (down[0], up[1], down[1]) == (weight[0], weight[1], up[0])
    if not fits or not down[2:] == up[2:] == weight[2:]:
        shapes = f"{pair[_DOWN].shape} and {pair[_UP].shape}"
        raise ModelInvalid(f"its tensors for {name}, {shapes}, do not fit the model's {weights[name].shape}")


def _whole(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (4 - len(shape))
