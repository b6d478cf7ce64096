"""Hands the `[engine]` table on to llama.cpp: how a model's file is read, where its tensors go, what its context is.

Imported only where something of it is set. Names and numbers are those of llama.h and ggml.h.
"""

import ctypes as c
from collections.abc import Iterator, Sequence

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ModelFailed
from shimmy.worker.llama import abi
from shimmy.worker.llama.libllama import ggml, llama

_CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2}
_SPLIT_MODES = {"none": 0, "layer": 1}
# enum llama_load_mode
_NO_MODE, _MMAP, _MLOCK, _MMAP_AND_MLOCK, _DIRECT_IO = range(5)
# As llama.cpp has it for --cpu-moe (common/common.h, LLM_FFN_EXPS_REGEX).
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
# Named alike in both: context parameters that are numbers, and None for llama.cpp's own choice.
_NUMBERS = (
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_orig_ctx",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
)


class _Override(c.Structure):
    """llama.h, struct llama_model_tensor_buft_override."""

    _fields_ = [("pattern", c.c_char_p), ("buffer_type", c.c_void_p)]


def tune_model(parameters: abi.llama_model_params, settings: EngineSettings, gpus: Sequence[int]) -> list[object]:
    """Sets what is asked for, of a model with layers on `gpus`; returns what has to live until it is loaded. Raises
    `ModelFailed`."""
    parameters.load_mode = _load_mode(settings, parameters.load_mode)
    kept = _share_out(parameters, settings, gpus) if gpus else []
    if rules := list(_overrides(settings, gpus)):
        table = (_Override * (len(rules) + 1))(*rules)
        parameters.tensor_buft_overrides = c.addressof(table)
        kept.append(table)
    return kept


def _share_out(parameters: abi.llama_model_params, settings: EngineSettings, gpus: Sequence[int]) -> list[object]:
    """Among several GPUs. As `tune_model`."""
    if settings.split_mode is not None:
        parameters.split_mode = _SPLIT_MODES[settings.split_mode]
    if settings.main_gpu is not None:
        if settings.main_gpu >= len(gpus):
            raise ModelFailed(f"main-gpu is {settings.main_gpu}, counted from 0, but the number of GPUs is {len(gpus)}")
        parameters.split_mode, parameters.main_gpu = _SPLIT_MODES["none"], settings.main_gpu
    kept: list[object] = []
    if settings.tensor_split:
        if len(settings.tensor_split) > len(gpus):
            parts_given = len(settings.tensor_split)
            raise ModelFailed(f"tensor-split has {parts_given} parts, but the number of GPUs is {len(gpus)}")
        # llama.cpp copies so many, however many devices there are.
        parts = (c.c_float * llama().llama_max_devices())(*settings.tensor_split)
        parameters.tensor_split = c.addressof(parts)
        kept.append(parts)
    return kept


def _load_mode(settings: EngineSettings, default: int) -> int:
    if settings.direct_io:
        return _DIRECT_IO
    if settings.mlock:
        return _MLOCK if settings.mmap is False else _MMAP_AND_MLOCK
    return default if settings.mmap is None else _MMAP if settings.mmap else _NO_MODE


def _overrides(settings: EngineSettings, gpus: Sequence[int]) -> Iterator[_Override]:
    """The first rule that matches a tensor's name holds. Where nothing is computed nothing can be kept."""
    types = _buffer_types(gpus) if settings.override_tensor else {}
    for rule in settings.override_tensor:
        pattern, _, name = rule.rpartition("=")
        if name not in types:
            raise ModelFailed(f"override-tensor: there is no buffer type {name!r}, but {', '.join(types)}")
        yield _Override(pattern.encode(), types[name])
    cpu = ggml().ggml_backend_cpu_buffer_type()
    if settings.cpu_moe:
        yield _Override(_EXPERTS.encode(), cpu)
    elif settings.n_cpu_moe:
        # One expression: llama.cpp compiles each anew for each tensor.
        layers = "|".join(map(str, range(settings.n_cpu_moe)))
        yield _Override(rf"blk\.({layers}){_EXPERTS}".encode(), cpu)


def _buffer_types(gpus: Sequence[int]) -> dict[str, int]:
    library = ggml()
    addresses = [library.ggml_backend_cpu_buffer_type(), *map(library.ggml_backend_dev_buffer_type, gpus)]
    return {library.ggml_backend_buft_name(address).decode(): address for address in addresses}


def tune_context(parameters: abi.llama_context_params, settings: EngineSettings) -> None:
    """Sets what is asked for."""
    if settings.cache_type_k is not None:
        parameters.type_k = _CACHE_TYPES[settings.cache_type_k]
    if settings.cache_type_v is not None:
        parameters.type_v = _CACHE_TYPES[settings.cache_type_v]
    if settings.flash_attn is not None:
        parameters.flash_attn_type = _FLASH_ATTENTION[settings.flash_attn]
    if settings.rope_scaling is not None:
        parameters.rope_scaling_type = _ROPE_SCALING[settings.rope_scaling]
    if settings.ubatch_size is not None:
        parameters.n_ubatch = settings.ubatch_size
    parameters.offload_kqv = settings.kv_offload
    for name in _NUMBERS:
        if (value := getattr(settings, name)) is not None:
            setattr(parameters, name, value)


def reach(settings: EngineSettings, trained: int, wanted: int | None) -> int:
    """How many tokens a context may have for a model that was trained with `trained`, given what the settings make of
    its positions; with a base of one's own, as many as were `wanted`, since nothing says how far that reaches."""
    if settings.rope_freq_base is not None:
        return max(trained, wanted or 0)
    if settings.rope_scaling == "none" or settings.rope_freq_scale is None:
        return trained
    own = settings.yarn_orig_ctx or trained
    return max(trained, int(own / settings.rope_freq_scale))
