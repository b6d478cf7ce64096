"""Backends beside the CPU's: which of their libraries may be opened, and opening them.

A library is code, so one is only opened by its whole path, and only where nobody but this user and root could have put
it. Whether one is needed, and what its devices are for, this module does not know.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from shimmy.hardware.backends import GPU_BACKENDS, folders
from shimmy.hardware.libraries import backend_file, is_library
from shimmy.worker.llama import libllama
from shimmy.worker.llama.backend import last_error
from shimmy.worker.llama.libllama import load_backend
from shimmy.worker.llama.trust import exposure

# "rpc" brings no GPU by itself: it needs to be told of a server.
BACKENDS = (*GPU_BACKENDS, "rpc")
_opened: list[Path] = []


class Absent(Exception):
    """The backend is not loaded; the message says why."""


class Missing(Absent):
    """Its library is nowhere."""


def load(name: str, on_open: Callable[[str], None], unusable: Mapping[str, str]) -> str:
    """Opens the first library for a backend that works, and returns its path. Raises `Absent`.

    `on_open` is called with a path before that is opened, since a library can end the process; `unusable` has the paths
    not to try, with the reasons.
    """
    reasons = []
    for path, refusal in _found(name):
        text = as_text(path)
        reason = unusable.get(text) or refusal
        if reason is None:
            on_open(text)
            reason = _open(path)
        if reason is None:
            return text
        reasons.append(f"{text}: {reason}")
    if reasons:
        raise Absent("; ".join(reasons))
    raise Missing(f"there is no {backend_file(name)}")


def opened() -> list[Path]:
    """The libraries that are loaded now."""
    return list(_opened)


def as_text(path: Path) -> str:
    """A path may be any bytes; what is told of it is text."""
    return os.fsencode(path).decode("utf-8", "replace")


def _found(name: str) -> Iterator[tuple[Path, str | None]]:
    """What we carry ourselves, then what is in the folders; each with the reason not to open it, if there is one."""
    file = backend_file(name)
    if file in libllama.names():
        yield libllama.find(file), None
    for folder in folders():
        if os.path.lexists(folder / file):
            yield folder / file, _refusal(folder, file)


def _refusal(folder: Path, file: str) -> str | None:
    """Why a library must not be opened: somebody else could have made it, or one that it loads from beside it."""
    try:
        libraries = {file, *filter(is_library, os.listdir(folder))}
        places = [folder, *(folder / name for name in sorted(libraries))]
        real = [Path(os.path.realpath(place)) for place in places]
        return next((reason for place in real if place.exists() and (reason := exposure(place))), None)
    except OSError as error:
        return error.strerror or str(error)


def _open(path: Path) -> str | None:
    """Loads the library into ggml; returns what is wrong, or None."""
    real = Path(os.path.realpath(path))
    last_error("")
    if load_backend(real):
        _opened.append(real)
        return None
    reason = last_error("it does not support this machine")
    # ggml names the file, and so does the system's linker, which it quotes.
    return reason.removeprefix(f"load_backend: failed to load {as_text(real)}: ").removeprefix(f"{as_text(real)}: ")
