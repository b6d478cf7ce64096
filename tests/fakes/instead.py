"""Fake workers for a program of which nothing but the environment can be chosen (see instead.c)."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

from tests.fakes.pool import START

ROOT = Path(__file__).parents[2]


def fake_workers() -> dict[str, str]:
    """What is to be added to the environment of a server, so that its workers are tests/fakes/worker.py."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {START}"
    return {"LD_PRELOAD": str(_library()), "FAKE_WORKER_PYTHON": sys.executable, "FAKE_WORKER_CODE": code}


@cache
def _library() -> Path:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a server's workers are exchanged on Linux, with a C compiler")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    library = Path(folder) / "instead.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-Wall", "-Werror", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library
