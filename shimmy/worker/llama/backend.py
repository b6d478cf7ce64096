"""ggml's backends: loads the CPU variant that fits this machine, keeps llama.cpp's log, lists devices.

Libraries are opened one by one from our own folder. `ggml_backend_load_all` is never called: it would execute whatever
libggml-*.so lies in the current directory.
"""

import ctypes as c
import os
from collections import deque
from pathlib import Path
from typing import Any

from shimmy.core.errors import ModelFailed
from shimmy.core.ipc import AbsentBackend, Device, Devices
from shimmy.hardware import cpu
from shimmy.worker.llama import abi
from shimmy.worker.llama.library import find, ggml, llama, names

_DEVICE_KINDS = ["cpu", "gpu", "integrated gpu", "accelerator", "meta"]
_OPTIONAL_BACKENDS = ["cuda", "vulkan", "hip", "metal", "sycl", "opencl"]
_VARIANT_FILE = "libggml-cpu-*.so"
_ERROR_LEVEL = 4

_recent_errors: deque[str] = deque(maxlen=20)


def _on_log(level: int, text: bytes, _data: Any) -> None:
    """Keeps error lines: a NULL from llama.cpp carries no reason of its own (ggml.h, ggml_log_level)."""
    if level == _ERROR_LEVEL and text:
        _recent_errors.append(text.decode("utf-8", "replace").strip())


_log_callback = abi.llama_log_callback(_on_log)


def last_error(default: str) -> str:
    """What llama.cpp logged last as an error, or `default`; clears the memory."""
    text = "; ".join(dict.fromkeys(_recent_errors)) or default
    _recent_errors.clear()
    return text


def start() -> str:
    """Loads the best CPU backend and initialises llama.cpp; returns the variant's name. Raises `ModelFailed`."""
    # ggml's abort handler would fork a debugger and print for seconds.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    llama().llama_log_set(_log_callback, None)
    variant = _load_cpu_variant()
    llama().llama_backend_init()
    return variant


def _load_cpu_variant() -> str:
    for name in _candidates():
        path = _variant(name)
        if _score(path) > 0 and ggml().ggml_backend_load(os.fsencode(path)):
            return name
    raise ModelFailed(f"no CPU backend of ggml runs on this CPU; there are: {', '.join(sorted(names())) or 'none'}")


def _candidates() -> list[str]:
    """By CPU flags where they are known, which opens one library instead of fourteen; else every variant there is."""
    prefix, suffix = _VARIANT_FILE.split("*")
    carried = {name.removeprefix(prefix).removesuffix(suffix) for name in names() if name.startswith(prefix)}
    by_flags = [name for name in cpu.variants(cpu.flags()) if name in carried]
    return by_flags or sorted(carried, key=lambda name: -_score(_variant(name)))


def _variant(name: str) -> Path:
    return find(_VARIANT_FILE.replace("*", name))


def _score(path: Path) -> int:
    """The variant's own verdict on this CPU, 0 when it cannot run here (ggml-backend-impl.h, ggml_backend_score_t)."""
    try:
        return int(c.PyDLL(str(path)).ggml_backend_score())
    except (OSError, AttributeError):
        return 0


def devices() -> Devices:
    """Every device ggml enumerates, with the backends that are not there and why. Calls `start` itself."""
    variant = start()
    absent = [AbsentBackend(name, reason) for name in _OPTIONAL_BACKENDS if (reason := _load_optional(name))]
    return Devices(
        devices=[_device(ggml().ggml_backend_dev_get(index)) for index in range(ggml().ggml_backend_dev_count())],
        absent=absent,
        llama_version=llama().llama_version().decode(),
        cpu_variant=variant,
        cpu_features=_features(),
    )


def _device(handle: int) -> Device:
    free, total = c.c_size_t(), c.c_size_t()
    library = ggml()
    library.ggml_backend_dev_memory(handle, c.addressof(free), c.addressof(total))
    return Device(
        name=library.ggml_backend_dev_name(handle).decode(),
        description=library.ggml_backend_dev_description(handle).decode("utf-8", "replace").strip(),
        kind=_DEVICE_KINDS[library.ggml_backend_dev_type(handle)],
        backend=library.ggml_backend_reg_name(library.ggml_backend_dev_backend_reg(handle)).decode(),
        free_bytes=free.value,
        total_bytes=total.value,
    )


def _load_optional(name: str) -> str | None:
    """Loads a backend that is not the CPU's; returns why it cannot, or None when it is there."""
    library = f"libggml-{name}.so"
    if library not in names():
        return f"this build carries no {library}"
    path = find(library)
    try:
        c.PyDLL(str(path))
    except OSError as error:
        return str(error)
    if not ggml().ggml_backend_load(os.fsencode(path)):
        return last_error(f"{path.name} refused to start")
    return None


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
