"""Opens libllama and libggml from our own folder and makes their functions callable.

Two ways to call: long calls (decode, load, tokenize, states, quantize, DRY's search of the vocabulary) release the
interpreter lock; all others keep it (`PyDLL`), because a short call that gives the lock away can wait a whole switch
interval to get it back.
"""

import ctypes as c
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from shimmy.hardware.libraries import linked_file
from shimmy.worker.llama import abi

# Where a checkout has them (build/native.py). The frozen program carries them: payload.py.
FOLDER = Path(__file__).resolve().parents[2] / "native"

_LONG_CALLS = {
    "llama_model_load_from_file",
    "llama_model_load_from_splits",
    "llama_init_from_model",
    "llama_adapter_lora_init",
    "llama_decode",
    "llama_tokenize",
    "llama_state_seq_get_data",
    "llama_state_seq_set_data",
    "llama_model_quantize",
    "llama_sampler_init_dry",
}

# ggml-backend.h and ggml-backend-impl.h, which llama-cpp-python does not bind
_GGML_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_load": (c.c_void_p, (c.c_char_p,)),
    "ggml_backend_cpu_buffer_type": (c.c_void_p, ()),
    "ggml_backend_buft_name": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_dev_buffer_type": (c.c_void_p, (c.c_void_p,)),
    "ggml_backend_dev_count": (c.c_size_t, ()),
    "ggml_backend_dev_get": (c.c_void_p, (c.c_size_t,)),
    "ggml_backend_dev_name": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_dev_description": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_dev_type": (c.c_int, (c.c_void_p,)),
    "ggml_backend_dev_memory": (None, (c.c_void_p, c.c_void_p, c.c_void_p)),
    "ggml_backend_dev_get_props": (None, (c.c_void_p, c.c_void_p)),
    "ggml_backend_dev_backend_reg": (c.c_void_p, (c.c_void_p,)),
    "ggml_backend_reg_name": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_reg_get_proc_address": (c.c_void_p, (c.c_void_p, c.c_char_p)),
}
# llama.h, the same
_LLAMA_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_attach_threadpool": (None, (c.c_void_p, c.c_void_p, c.c_void_p)),
}


def names() -> list[str]:
    """The file names of all native libraries there are."""
    if getattr(sys, "frozen", False):
        from shimmy.worker.llama import payload

        return payload.carried().names()
    return [path.name for path in FOLDER.iterdir()] if FOLDER.exists() else []


@cache
def find(name: str) -> Path:
    """The file of one of `names()`, fit to be opened. Raises `OSError` when it is not there or cannot be put there."""
    if getattr(sys, "frozen", False):
        from shimmy.worker.llama import payload

        return payload.carried().find(name)
    return FOLDER / name


class Library:
    """One shared library whose prototypes are made on first use."""

    def __init__(self, path: Path, prototypes: dict[str, tuple[Any, tuple[Any, ...]]]) -> None:
        self._path = str(path)
        self._prototypes = prototypes
        self._short = c.PyDLL(self._path, mode=c.RTLD_GLOBAL)

    def __getattr__(self, name: str) -> Any:
        prototype = self._prototypes.get(name)
        if prototype is None:
            raise AttributeError(f"{name} is not bound")
        library = c.CDLL(self._path) if name in _LONG_CALLS else self._short
        function = getattr(library, name)
        function.restype, function.argtypes = prototype
        setattr(self, name, function)
        return function


@cache
def ggml() -> Library:
    """libggml, by the SONAME that libllama links: a second copy would have its own, empty, backend registry."""
    # It opens this one itself, from beside it.
    find(linked_file("ggml-base"))
    return Library(find(linked_file("ggml")), _GGML_PROTOTYPES)


def load_backend(path: str | os.PathLike[str]) -> bool:
    """Whether ggml has the backend in this file now."""
    # Windows' std::filesystem, which ggml leaves this to, expects the code page of the system and not UTF-8.
    encoded = os.fspath(path).encode("mbcs") if sys.platform == "win32" else os.fsencode(path)
    return bool(ggml().ggml_backend_load(encoded))


@cache
def llama() -> Library:
    """libllama; raises `OSError` when the native libraries were never built."""
    ggml()
    return Library(find(linked_file("llama")), abi.PROTOTYPES | _LLAMA_PROTOTYPES)
