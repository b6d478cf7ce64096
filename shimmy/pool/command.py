"""How a worker is started: its command line and its environment, which holds no keys, no tokens and no proxies."""

import sys
from collections.abc import Mapping
from pathlib import Path

# The last two say where the frozen program unpacks what it carries.
_PASSED = frozenset({"PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "HOME", "XDG_CACHE_HOME"})
_PASSED_PREFIXES = ("LC_", "_PYI_", "_MEI")


def worker_argv() -> list[str]:
    if getattr(sys, "frozen", False):
        return [sys.executable, "_worker"]
    return [sys.executable, "-m", "shimmy", "_worker"]


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker may see of `environ`: no keys, no tokens, no proxies."""
    passed = {name: value for name, value in environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    passed["GGML_NO_BACKTRACE"] = "1"
    if not getattr(sys, "frozen", False):
        passed |= _import_environment(Path(__file__).parents[2])
    return passed


def _import_environment(root: Path) -> dict[str, str]:
    """The worker imports this very package, wherever it is started, and nothing from its current directory."""
    if root.name in ("site-packages", "dist-packages"):
        return {"PYTHONSAFEPATH": "1"}
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(root)}
