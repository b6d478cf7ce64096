"""What a start imports, and what these imports do anew each time, done once: regular expressions compiled, the code
that dataclasses and namedtuple generate, and types that are named in strings.

The program is run as a user would run it, from this checkout, and what it does is noted (build/record.py). When the
executable starts, spec/start.py looks it up; what is not in a table is compiled as always, so that a table out of date
costs time and nothing else.
"""

import json
import marshal
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from shimmy.core import ipc

CHECKOUT = Path(__file__).parent.parent
_LIMIT_SECONDS = 60.0
_READ = ["/health", "/readyz", "/v1/models"]
_WRITTEN = ["/v1/chat/completions", "/v1/completions", "/infill", "/tokenize", "/v1/embeddings", "/v1/rerank"]

# By the name of the module that would compile: what, and what comes of it.
Tables = dict[str, dict[Any, Any]]
Made = tuple[Tables, list[str]]


def tables() -> Made:
    """The tables, and the names of all modules that a start imports."""
    merged: Tables = {}
    needed: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [serving(folder), command(folder, "list"), command(folder, "list", "--help"), worker(folder)]
        for made, imported in runs:
            needed.update(imported)
            for module, table in made.items():
                merged.setdefault(module, {}).update(table)
    return {module: dict(sorted(table.items(), key=repr)) for module, table in merged.items()}, sorted(needed)


def serving(folder: Path) -> Made:
    """Until each route has answered, so that nothing depends on how far something in the background has come."""
    ready = folder / "ready.json"
    arguments = ["serve", "--bind", "127.0.0.1:0", "--ready-file", str(ready), "--model-dirs", str(folder)]
    with started(folder, arguments) as process:
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if ready.exists():
            url = json.loads(ready.read_text())["url"]
            for path in _READ:
                request(f"{url}{path}", None)
            for path in _WRITTEN:
                request(f"{url}{path}", b"{}")
        return result(folder, process, b"")


def request(url: str, body: bytes | None) -> None:
    """A refusal is an answer, too."""
    try:
        urllib.request.urlopen(url, body, timeout=_LIMIT_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()


def command(folder: Path, *arguments: str) -> Made:
    with started(folder, arguments) as process:
        return result(folder, process, None)


def worker(folder: Path) -> Made:
    """Until it says that there is no such model: then everything is loaded but the model."""
    with started(folder, ["_worker"]) as process:
        return result(folder, process, ipc.encode(ipc.Load([str(folder / "missing.gguf")])))


def started(folder: Path, arguments: "list[str] | tuple[str, ...]") -> "subprocess.Popen[bytes]":
    """In a process of its own, which has no docstrings, as the executable has none."""
    line = [sys.executable, "-OO", "-m", "build.record", str(folder / "tables"), *arguments]
    environment = os.environ | {"HOME": str(folder), "PYTHONHASHSEED": "0"}
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=CHECKOUT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)


def result(folder: Path, process: "subprocess.Popen[bytes]", stdin: bytes | None) -> Made:
    """Ends the run. Exits with the program's words when it left nothing behind."""
    try:
        _, said = process.communicate(stdin, _LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
    made = folder / "tables"
    if not made.exists():
        sys.exit(f"{said.decode(errors='replace')}\nshimmy build: {process.args!r} failed (its output is above)")
    loaded: Made = marshal.loads(made.read_bytes())
    made.unlink()
    return loaded
