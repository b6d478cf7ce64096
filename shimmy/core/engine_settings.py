"""The `[engine]` table: what is handed on to llama.cpp about a model's weights, its KV cache and its adapters.

One record from the command line and the settings file down to the worker, imported only where something of it is set.
A name here is the flag's, and the table's with `-` for `_`; docs/settings.md lists them (a test compares). It knows
nothing of llama.cpp's own structures.
"""

import os
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shimmy.core.ipc import Adapter

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
FlashAttention = Literal["auto", "on", "off"]
SplitMode = Literal["none", "layer"]
GpuBackend = Literal["auto", "cpu", "cuda", "hip", "metal", "sycl", "vulkan", "opencl"]
RopeScaling = Literal["none", "linear", "yarn"]
GpuLayers = Annotated[int, Meta(ge=0, le=9999)] | Literal["all", "auto"]
Layers = Annotated[int, Meta(ge=0, le=9999)]
Part = Annotated[float, Meta(ge=0, le=1e9)]
Factor = Annotated[float, Meta(ge=0, le=1e6)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]
Rows = Annotated[int, Meta(ge=1, le=512)]

_UNQUANTIZED = ("f32", "f16", "bf16")
MAX_ADAPTER_SCALE = 100.0


class EngineSettings(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="kebab"
):
    """None leaves a thing to llama.cpp and the model's file; docs/settings.md says what each does. `check` says what
    makes no sense together.

    `lora` has adapters as "FILE" or "FILE=SCALE", `override_tensor` rules as "REGEX=BUFFER TYPE", `tensor_split` a part
    for each GPU.
    """

    lora: tuple[str, ...] = ()
    gpu_layers: GpuLayers | None = None
    device: tuple[str, ...] = ()
    gpu_backend: GpuBackend | None = None
    split_mode: SplitMode | None = None
    tensor_split: Annotated[tuple[Part, ...], Meta(max_length=16)] = ()
    main_gpu: Annotated[int, Meta(ge=0, le=15)] | None = None
    cpu_moe: bool = False
    n_cpu_moe: Layers | None = None
    override_tensor: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    mmap: bool | None = None
    mlock: bool = False
    direct_io: bool = False
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    kv_offload: bool = True
    flash_attn: FlashAttention | None = None
    ubatch_size: Rows | None = None
    rope_scaling: RopeScaling | None = None
    rope_freq_base: Positive | None = None
    rope_freq_scale: Positive | None = None
    yarn_orig_ctx: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    yarn_ext_factor: Factor | None = None
    yarn_attn_factor: Factor | None = None
    yarn_beta_fast: Factor | None = None
    yarn_beta_slow: Factor | None = None

    @property
    def num_gpu_layers(self) -> int:
        """At most; -1 is all."""
        if isinstance(self.gpu_layers, int):
            return self.gpu_layers
        return -1 if self.gpu_layers is not None or self._asks_for_gpus else 0

    @property
    def fits_gpu_layers(self) -> bool:
        """Whether as many layers go to GPUs as there is memory for. To say which GPUs, or how many layers each one
        gets, is to want that."""
        return self.gpu_layers == "auto" or (self.gpu_layers is None and self._asks_for_gpus)

    @property
    def needs_a_gpu(self) -> bool:
        """Whether it is an error that there is none."""
        return self.num_gpu_layers != 0 and (self._names_gpus or self.gpu_layers != "auto")

    @property
    def is_silent_of_gpus(self) -> bool:
        """Whether it neither wants layers on GPUs nor refuses that."""
        return self.gpu_backend in (None, "auto") and not self.gpu_wishes

    @property
    def gpu_wishes(self) -> list[str]:
        """The settings that say how many layers go to GPUs, and to which."""
        values = (self.gpu_layers, self.device, self.main_gpu, self.split_mode, self.tensor_split)
        names = ("gpu-layers", "device", "main-gpu", "split-mode", "tensor-split")
        return [name for name, value in zip(names, values, strict=True) if value not in (None, ())]

    @property
    def _asks_for_gpus(self) -> bool:
        """In another way than by the number of layers."""
        return self._names_gpus or (self.gpu_backend != "cpu" and any(name != "gpu-layers" for name in self.gpu_wishes))

    @property
    def _names_gpus(self) -> bool:
        return bool(self.device) or self.gpu_backend not in (None, "auto", "cpu")

    @property
    def has_yarn(self) -> bool:
        return any(getattr(self, name) is not None for name in _YARN)

    def for_draft(self) -> "EngineSettings":
        """What of it holds for a draft model as well: neither the positions nor the tensors of the other model."""
        own = {name: None for name in ("rope_scaling", "rope_freq_base", "rope_freq_scale", "n_cpu_moe", *_YARN)}
        return msgspec.structs.replace(self, lora=(), override_tensor=(), **own)


_YARN = tuple(name for name in EngineSettings.__struct_fields__ if name.startswith("yarn_"))


def parse_adapter(text: str) -> Adapter:
    """`FILE` or `FILE=SCALE`; the name is the file's without `.gguf`. Raises `ValueError`."""
    path, scale = text, 1.0
    head, mark, tail = text.rpartition("=")
    if mark and not os.path.exists(os.path.expanduser(text)):
        path = head
        try:
            scale = float(tail)
        except ValueError:
            raise ValueError(f"lora: {tail!r} is no scale") from None
        # A NaN fails this as well.
        if not abs(scale) <= MAX_ADAPTER_SCALE:
            raise ValueError(f"lora: the scale {tail} is not between -{MAX_ADAPTER_SCALE:g} and {MAX_ADAPTER_SCALE:g}")
    whole = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(whole):
        raise ValueError(f"lora: there is no file {path!r}")
    return Adapter(os.path.basename(whole).removesuffix(".gguf"), whole, scale)


def check(engine: EngineSettings) -> None:
    """Raises `ValueError`, which names the settings, for what no value alone can say."""
    if engine.cpu_moe and engine.n_cpu_moe is not None:
        raise ValueError("cpu-moe and n-cpu-moe exclude each other")
    _check_placement(engine)
    _check_reading(engine)
    _check_cache(engine)
    _check_positions(engine)
    for rule in engine.override_tensor:
        if not all(rule.rpartition("=")):
            raise ValueError(f"override-tensor: {rule!r} is not REGEX=BUFFER TYPE")
    names = [parse_adapter(text).name for text in engine.lora]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"lora: two adapters would be called {twice!r}")


def _check_placement(engine: EngineSettings) -> None:
    if engine.gpu_backend == "cpu" and engine.gpu_layers != 0 and engine.gpu_wishes:
        raise ValueError(f"gpu-backend cpu puts no layers on a GPU, but {engine.gpu_wishes[0]} asks for some")
    if engine.main_gpu is not None and engine.split_mode == "layer":
        raise ValueError("main-gpu is for split-mode none, not layer")
    if engine.tensor_split and (engine.main_gpu is not None or engine.split_mode == "none"):
        raise ValueError("tensor-split is for several GPUs, main-gpu and split-mode none for one")
    if engine.tensor_split and not any(engine.tensor_split):
        raise ValueError("tensor-split: one part at least must be more than 0")


def _check_reading(engine: EngineSettings) -> None:
    if engine.direct_io and (engine.mmap or engine.mlock):
        raise ValueError(f"direct-io and {'mmap' if engine.mmap else 'mlock'} exclude each other")


def _check_cache(engine: EngineSettings) -> None:
    if engine.flash_attn == "off" and engine.cache_type_v not in (None, *_UNQUANTIZED):
        raise ValueError(f"cache-type-v {engine.cache_type_v} needs flash attention, but flash-attn is off")


def _check_positions(engine: EngineSettings) -> None:
    scaling = engine.rope_scaling
    if scaling == "none" and engine.rope_freq_scale is not None:
        raise ValueError("rope-freq-scale has no effect with rope-scaling none")
    if scaling in ("none", "linear") and engine.has_yarn:
        raise ValueError(f"yarn-* settings have no effect with rope-scaling {scaling}")
