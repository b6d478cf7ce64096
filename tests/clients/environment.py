"""A client's own packages, in the versions that its lock file pins; knows nothing of what is done with them.

Made when first asked for, outside the checkout, in a folder that is named by the lock file's content.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from build import cache

LIMIT_SECONDS = 900


class Unreachable(Exception):
    """Nothing can be fetched here: the registry does not answer, or there is no program to fetch with."""


def python_of(folder: Path) -> Path:
    """The interpreter of an environment with what `folder`/requirements.txt pins."""
    made = _made(folder, "requirements.txt", _install_python)
    return made / "bin" / "python"


def modules_of(folder: Path) -> Path:
    """A node_modules with what `folder`/package-lock.json pins."""
    return _made(folder, "package-lock.json", _install_node) / "node_modules"


def _made(folder: Path, lock: str, install: Callable[[Path, Path], None]) -> Path:
    digest = hashlib.sha256((folder / lock).read_bytes()).hexdigest()[:12]
    name = f"client-{folder.name}-{digest}"
    place = cache.root() / "clients" / name
    with cache.locked(name):
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            install(folder, place)
            (place / "made").touch()
    return place


def _install_python(folder: Path, place: Path) -> None:
    venv.create(place, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(place / "bin" / "python")]
    wanted = ["--require-hashes", "--no-compile", "--quiet", "-r", str(folder / "requirements.txt")]
    _fetch([*pip, "install", *wanted], place, [*pip, "index", "versions", "pip"], "PyPI")


def _install_node(folder: Path, place: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(folder / name, place)
    # None of them needs a script of its own at installation, and so none gets to run one.
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    _fetch(install, place, ["npm", "view", "npm", "version"], "npm's registry")


def _fetch(install: list[str], place: Path, probe: list[str], registry: str) -> None:
    """Raises Unreachable where it is not the lock file's fault."""
    if shutil.which(install[0]) is None:
        raise Unreachable(f"there is no {install[0]}")
    done = _run(install, place)
    if done.returncode == 0:
        return
    if _run(probe, place).returncode != 0:
        raise Unreachable(f"{registry} is unreachable")
    raise RuntimeError(f"{' '.join(install)}\n{done.stderr[-2000:]}")


def _run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    options = {"cwd": folder, "text": True, "capture_output": True, "timeout": LIMIT_SECONDS}
    return subprocess.run(command, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload, no-any-return]
