"""Opens libllama and libggml from our own folder and makes their functions callable.

Two ways to call: long calls (decode, load, tokenize) release the interpreter lock; all others keep it (`PyDLL`),
because a short call that gives the lock away can wait a whole switch interval to get it back.
"""

import ctypes as c
import sys
from functools import cache
from pathlib import Path
from typing import Any

from shimmy.worker.llama import abi

# Where a checkout has them (build/native.py). The frozen program carries them: payload.py.
FOLDER = Path(__file__).resolve().parents[2] / "native"

_LONG_CALLS = {
    "llama_model_load_from_file",
    "llama_model_load_from_splits",
    "llama_init_from_model",
    "llama_decode",
    "llama_tokenize",
}

# ggml-backend.h and ggml-backend-impl.h, which llama-cpp-python does not bind
_GGML_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_load": (c.c_void_p, (c.c_char_p,)),
    "ggml_backend_dev_count": (c.c_size_t, ()),
    "ggml_backend_dev_get": (c.c_void_p, (c.c_size_t,)),
    "ggml_backend_dev_name": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_dev_description": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_dev_type": (c.c_int, (c.c_void_p,)),
    "ggml_backend_dev_memory": (None, (c.c_void_p, c.c_void_p, c.c_void_p)),
    "ggml_backend_dev_backend_reg": (c.c_void_p, (c.c_void_p,)),
    "ggml_backend_reg_name": (c.c_char_p, (c.c_void_p,)),
    "ggml_backend_reg_get_proc_address": (c.c_void_p, (c.c_void_p, c.c_char_p)),
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
    find("libggml-base.so.0")
    return Library(find("libggml.so.0"), _GGML_PROTOTYPES)


@cache
def llama() -> Library:
    """libllama; raises `OSError` when the native libraries were never built."""
    ggml()
    return Library(find("libllama.so.0"), abi.PROTOTYPES)
