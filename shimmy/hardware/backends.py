"""Where backends of llama.cpp for GPUs may be put, and whether there are any. Opens none of them: that is for workers,
which also say whether one may be trusted.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from shimmy.hardware.libraries import backend_file

# Those that bring a GPU by themselves, best first.
GPU_BACKENDS = ("cuda", "hip", "metal", "sycl", "vulkan", "opencl")
_FOLDER = "backends"


def folders() -> list[Path]:
    """Where a person may put backends: beside the program, then in the data folder. Never a path that depends on the
    current directory, whatever the environment says."""
    return [folder / _FOLDER for folder in (_program_folder(), *_data_folder()) if folder.is_absolute()]


def is_there() -> bool:
    """Whether a person put a backend into one of these folders. It may be one that does not work."""
    files = {backend_file(name) for name in GPU_BACKENDS}
    return any(not files.isdisjoint(_names(folder)) for folder in folders())


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _program_folder() -> Path:
    """Of the executable itself, not of what it unpacked; of a checkout, the folder with its native libraries in it."""
    if getattr(sys, "frozen", False) and os.path.isabs(sys.executable):
        return Path(os.path.realpath(sys.executable)).parent
    return Path(__file__).resolve().parents[1]


def _data_folder() -> Iterator[Path]:
    """The one that models are looked for in."""
    from platformdirs import user_data_dir

    try:
        yield Path(user_data_dir("shimmy", appauthor=False))
    except RuntimeError:
        # Nobody knows a home for this user.
        return
