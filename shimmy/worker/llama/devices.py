"""What ggml can compute on: every device told for `gpu-info`, and the ones that a model's layers go to.

Only here optional backends are loaded, because somebody asked for them.
"""

import ctypes as c
from collections.abc import Callable, Iterator, Mapping

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ModelFailed
from shimmy.core.ipc import AbsentBackend, Device, Devices, LoadedBackend
from shimmy.hardware.backends import GPU_BACKENDS, folders
from shimmy.hardware.libraries import backend_file
from shimmy.worker.llama import backend, optional
from shimmy.worker.llama.libllama import ggml, llama
from shimmy.worker.llama.model import ON_THE_CPU, Offload

# ggml-backend.h, ggml_backend_dev_type
_KINDS = ["cpu", "gpu", "integrated gpu", "accelerator", "meta"]
_GPU_KINDS = ("gpu", "integrated gpu")


def listing(on_open: Callable[[str], None], unusable: Mapping[str, str], only: str | None = None) -> Devices:
    """Every device, the optional backends loaded (or `only` one), and why others are not. `on_open`, `unusable`: see
    `optional.load`.

    What a library does to this process it does before the next one is opened: its devices are asked for at once.
    """
    variant = backend.start()
    found, loaded, absent = [_described(handle) for handle in _handles()], [], []
    for name in optional.BACKENDS if only is None else (only,):
        known = set(_handles())
        try:
            loaded.append(LoadedBackend(name, optional.load(name, on_open, unusable)))
        except optional.Absent as reason:
            absent.append(AbsentBackend(name, str(reason)))
        found += [_described(handle, name) for handle in _handles() if handle not in known]
    return Devices(
        devices=found,
        absent=absent,
        llama_version=llama().llama_version().decode(),
        cpu_variant=variant,
        cpu_features=_features(),
        loaded=loaded,
        searched=[optional.as_text(folder) for folder in folders()],
    )


def offload(settings: EngineSettings, on_open: Callable[[str], None]) -> Offload:
    """Where layers go: to the devices that are named, or to those that llama.cpp prefers. Loads optional backends, if
    any layer goes anywhere. Raises `ModelFailed`."""
    if not settings.num_gpu_layers:
        return ON_THE_CPU
    gpus, reasons = _gpus(on_open, settings.gpu_backend)
    if not gpus:
        raise ModelFailed(f"layers cannot be put on a GPU: {'; '.join(reasons)}")
    unknown = [name for name in settings.device if name.lower() not in gpus]
    if unknown:
        there_are = ", ".join(_name(handle) for handle in gpus.values())
        raise ModelFailed("; ".join([f"there is no GPU {unknown[0]!r}, but {there_are}", *reasons]))
    devices = tuple(dict.fromkeys(gpus[name.lower()] for name in settings.device))
    # Those of the processor are used where there are no others.
    discrete = [handle for handle in gpus.values() if _kind(handle) == _GPU_KINDS[0]]
    return Offload(settings.num_gpu_layers, devices, devices or tuple(discrete or gpus.values()))


def _gpus(on_open: Callable[[str], None], only: str | None) -> tuple[dict[str, int], list[str]]:
    """The GPUs of all backends, or only of one, by their names in small letters, and why backends bring none."""
    reasons, missing = [], []
    for name in GPU_BACKENDS if only in (None, "auto") else (only,):
        known = set(_handles())
        try:
            path = optional.load(name, on_open, {})
        except optional.Missing:
            missing.append(backend_file(name))
        except optional.Absent as reason:
            reasons.append(str(reason))
        else:
            if not any(_kind(handle) in _GPU_KINDS for handle in _handles() if handle not in known):
                reasons.append(f"{path}: it finds no GPU")
    if missing:
        places = " or ".join(map(optional.as_text, folders()))
        reasons.append(f"there is no {', '.join(missing)} in {places}")
    return {_name(handle).lower(): handle for handle in _handles() if _kind(handle) in _GPU_KINDS}, reasons


def _handles() -> Iterator[int]:
    return (ggml().ggml_backend_dev_get(index) for index in range(ggml().ggml_backend_dev_count()))


def _name(handle: int) -> str:
    name: bytes = ggml().ggml_backend_dev_name(handle)
    return name.decode("utf-8", "replace")


def _kind(handle: int) -> str:
    kind: int = ggml().ggml_backend_dev_type(handle)
    return _KINDS[kind]


class _Properties(c.Structure):
    """ggml-backend.h, struct ggml_backend_dev_props."""

    _fields_ = [
        ("name", c.c_char_p),
        ("description", c.c_char_p),
        ("memory_free", c.c_size_t),
        ("memory_total", c.c_size_t),
        ("type", c.c_int),
        ("device_id", c.c_char_p),
        ("capabilities", c.c_bool * 5),
    ]


def _described(handle: int, provider: str = "") -> Device:
    free, total, properties = c.c_size_t(), c.c_size_t(), _Properties()
    ggml().ggml_backend_dev_get_props(handle, c.addressof(properties))
    ggml().ggml_backend_dev_memory(handle, c.addressof(free), c.addressof(total))
    return Device(
        name=_name(handle),
        description=ggml().ggml_backend_dev_description(handle).decode("utf-8", "replace").strip(),
        kind=_kind(handle),
        backend=ggml().ggml_backend_reg_name(ggml().ggml_backend_dev_backend_reg(handle)).decode(),
        free_bytes=free.value,
        total_bytes=total.value,
        provider=provider,
        gpu_id=(properties.device_id or b"").decode("utf-8", "replace"),
    )


class _Feature(c.Structure):
    """ggml-backend.h, struct ggml_backend_feature."""

    _fields_ = [("name", c.c_char_p), ("value", c.c_char_p)]


def _features() -> list[str]:
    """The instruction sets the loaded CPU backend uses, e.g. "AVX2"."""
    registry = ggml().ggml_backend_dev_backend_reg(ggml().ggml_backend_dev_get(0))
    address = ggml().ggml_backend_reg_get_proc_address(registry, b"ggml_backend_get_features")
    if not address:
        return []
    table = c.PYFUNCTYPE(c.POINTER(_Feature), c.c_void_p)(address)(registry)
    names = []
    for feature in table:
        if not feature.name:
            break
        names.append(feature.name.decode())
    return names
