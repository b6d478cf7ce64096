"""What the files of native libraries are called on each system: those of llama.cpp, as CMake names them. Knows no
folder, and opens nothing. Every worker imports this before it loads a model, so that it imports nothing itself.
"""

import sys

# Linux and the others like it are the default.
_LINKED = {"darwin": "lib{}.0.dylib", "win32": "{}.dll"}
_BACKEND = {"win32": "ggml-{}.dll"}
_MARKS = {"darwin": (".so", ".dylib"), "win32": (".dll",)}


def linked_file(target: str) -> str:
    """The file of a library that others are linked to: of "llama" libllama.so.0. By any other name it would be loaded a
    second time."""
    return _LINKED.get(sys.platform, "lib{}.so.0").format(target)


def backend_file(backend: str) -> str:
    """The file of a backend of ggml, as ggml-backend-reg.cpp has it too: of "rpc" libggml-rpc.so, on macOS as well."""
    return _BACKEND.get(sys.platform, "libggml-{}.so").format(backend)


def is_library(file: str) -> bool:
    """Whether a file has a name that a library could be found by."""
    return any(mark in file for mark in _MARKS.get(sys.platform, (".so",)))
