"""llama.cpp made ready: loads the CPU variant that fits this machine, and keeps what its log says.

Libraries are opened one by one from our own folder. `ggml_backend_load_all` is never called: it would execute whatever
libggml-*.so lies in the current directory.
"""

import ctypes as c
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shimmy.core.errors import ModelFailed
from shimmy.hardware import cpu
from shimmy.hardware.libraries import backend_file
from shimmy.worker.llama import abi
from shimmy.worker.llama.libllama import find, llama, load_backend, names

# ggml.h, ggml_log_level
_DEBUG_LEVEL, _INFO_LEVEL, _ERROR_LEVEL = 1, 2, 4
# llama-model.cpp, load_tensors: once for each layer, the output layer included. No function says the same.
_LAYER, _DEVICE, _REST = b"load_tensors: layer ", b" assigned to device ", b", is_swa"
# The same, once for each buffer: "load_tensors:   CPU_Mapped model buffer size =   12.34 MiB", and as well for caches,
# adapters and what is computed with.
_TENSORS, _BUFFER, _UNIT = b"load_tensors:", b" buffer size = ", b" MiB"

_recent_errors: deque[str] = deque(maxlen=20)
_layers: dict[str, int] = {}
_buffers: dict[str, int] = {}
# Of everything that was made, weights included.
_made: dict[str, int] = {}
_listeners: list[Callable[[str], None]] = []


def _on_log(level: int, text: bytes, _data: Any) -> None:
    """Keeps error lines, since a NULL from llama.cpp carries no reason of its own, and where layers go."""
    if level == _ERROR_LEVEL and text:
        _recent_errors.append(text.decode("utf-8", "replace").strip())
    elif level == _DEBUG_LEVEL and text and text.startswith(_LAYER) and _DEVICE in text:
        device = text.partition(_DEVICE)[2].partition(_REST)[0].decode("utf-8", "replace")
        _layers[device] = _layers.get(device, 0) + 1
    elif level == _INFO_LEVEL and text and _BUFFER in text and _UNIT in text:
        _note_buffer(text)
    for listener in _listeners:
        listener((text or b"").decode("utf-8", "replace"))


def _note_buffer(text: bytes) -> None:
    name, _, size = text.partition(_BUFFER)
    function, kind, *_ = (*name.split(), b"", b"")
    try:
        num_bytes = int(float(size.partition(_UNIT)[0]) * (1 << 20))
    except ValueError:
        # It says something else.
        return
    for buffers in (_made, _buffers) if function == _TENSORS else (_made,):
        place = kind.decode("utf-8", "replace")
        buffers[place] = buffers.get(place, 0) + num_bytes


_log_callback = abi.llama_log_callback(_on_log)


def last_error(default: str) -> str:
    """What llama.cpp logged last as an error, or `default`; clears the memory."""
    text = "; ".join(dict.fromkeys(_recent_errors)) or default
    _recent_errors.clear()
    return text


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """`listener` gets every piece of llama.cpp's log, which need not be a line, from whichever thread writes it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def placed() -> tuple[dict[str, int], dict[str, int]]:
    """Of the model loaded last, how many layers each device has, and how many bytes each kind of memory, to a hundredth
    of a MiB; clears the memory of it."""
    found = dict(_layers), dict(_buffers)
    _layers.clear()
    _buffers.clear()
    return found


def taken_of(devices: Iterable[str]) -> dict[str, int]:
    """Bytes of all that this process has made so far on each of the devices, by the names of its buffers: those of
    "CUDA1" are called "CUDA1", or "CUDA1_Split", or like "RPC0[host:port]"."""
    return {device: sum(size for kind, size in _made.items() if _is_of(kind, device)) for device in devices}


def _is_of(kind: str, device: str) -> bool:
    return kind.startswith(device) and not kind[len(device) :][:1].isdigit()


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
        if _score(path) > 0 and load_backend(path):
            return name
    raise ModelFailed(f"no CPU backend of ggml runs on this CPU; there are: {', '.join(sorted(names())) or 'none'}")


def _candidates() -> list[str]:
    """By CPU flags where they are known, which opens one library instead of fourteen; else every variant there is."""
    prefix, suffix = backend_file("cpu-*").split("*")
    carried = {name.removeprefix(prefix).removesuffix(suffix) for name in names() if name.startswith(prefix)}
    have = cpu.flags()
    # A CPU of which nothing is known would else be one that can nothing.
    by_flags = [name for name in cpu.variants(have) if name in carried] if have else []
    return by_flags or sorted(carried, key=lambda name: -_score(_variant(name)))


def _variant(name: str) -> Path:
    return find(backend_file(f"cpu-{name}"))


def _score(path: Path) -> int:
    """The variant's own verdict on this CPU, 0 when it cannot run here (ggml-backend-impl.h, ggml_backend_score_t)."""
    try:
        return int(c.PyDLL(str(path)).ggml_backend_score())
    except (OSError, AttributeError):
        return 0
