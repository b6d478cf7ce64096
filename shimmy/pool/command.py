"""How a worker is started: its command line and its environment, which holds no keys, no tokens and no proxies."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

# The last three say where the frozen program unpacks what it carries, and where optional backends are.
_PASSED = frozenset({"PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"})
_PASSED_PREFIXES = ("LC_", "_PYI_", "_MEI")
# Windows' names for the same, and where the system itself is, without which nothing starts there.
_PASSED_ON_WINDOWS = frozenset({"SYSTEMROOT", "WINDIR", "TEMP", "TMP", "USERPROFILE", "LOCALAPPDATA", "APPDATA"})
# Which of the machine's GPUs are ours: a batch system sets them, and they are read by drivers and backends.
_GPU_CHOICE = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "ONEAPI_DEVICE_SELECTOR",
        "ZE_AFFINITY_MASK",
        "GGML_VK_VISIBLE_DEVICES",
    }
)


def program_argv() -> list[str]:
    """This very program, for a command to follow."""
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "shimmy"]


def program_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Everything, for a command that does what a user would have it do."""
    return {**environ, **_program_imports()}


def worker_argv() -> list[str]:
    return [*program_argv(), "_worker"]


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker may see of `environ`: no keys, no tokens, no proxies."""
    names = _PASSED | _GPU_CHOICE | (_PASSED_ON_WINDOWS if sys.platform == "win32" else frozenset())
    passed = {name: value for name, value in environ.items() if name in names or name.startswith(_PASSED_PREFIXES)}
    if "LD_LIBRARY_PATH" in passed:
        passed["LD_LIBRARY_PATH"] = _whole_paths(passed["LD_LIBRARY_PATH"])
    passed["GGML_NO_BACKTRACE"] = "1"
    return passed | _program_imports()


def _program_imports() -> dict[str, str]:
    return {} if getattr(sys, "frozen", False) else _import_environment(Path(__file__).parents[2])


def _whole_paths(folders: str) -> str:
    """Without what stands for the current directory, an empty part among it: libraries of GPU drivers are searched."""
    return ":".join(folder for folder in re.split("[:;]", folders) if os.path.isabs(folder))


def _import_environment(root: Path) -> dict[str, str]:
    """The worker imports this very package, wherever it is started, and nothing from its current directory."""
    if root.name in ("site-packages", "dist-packages"):
        return {"PYTHONSAFEPATH": "1"}
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(root)}
