"""The program under test as a user runs it: what SHIMMY_EXE names, else the `shimmy` command of this environment.

Every test that starts the program does it here, whatever form the program has, and is marked `program`. What looks into
the program cannot run against an executable, and says so: `inside`, `unfrozen`.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[1] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_ID = "smollm2-135m-instruct.q4-1"
LIMIT_SECONDS = 90

_named = os.environ.get("SHIMMY_EXE")
IS_NAMED = bool(_named)
EXE = Path(_named or Path(sys.executable).with_name("shimmy")).absolute()


def _is_frozen() -> bool:
    with open(EXE, "rb") as file:
        return file.read(2) != b"#!"


IS_FROZEN = IS_NAMED and _is_frozen()


def inside(reason: str) -> pytest.MarkDecorator:
    """For a test whose program is in the test's own process, so that there is nothing to run for SHIMMY_EXE."""
    return pytest.mark.skipif(IS_NAMED, reason=f"cannot be said or seen from outside: {reason}")


def unfrozen(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(IS_FROZEN, reason=f"not for an executable: {reason}")


# Whether the test that runs is marked `program`; conftest.py says so.
is_marked = False


def require_mark() -> None:
    """Without the mark a test would never see the executable."""
    assert is_marked, "what starts the program belongs into a test marked `program`"


class Program:
    """A running server: `url`, and what a test may want to do to it."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=LIMIT_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def worker_pids(self) -> list[int]:
        """The worker processes, oldest first."""
        children = ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)]
        listed = subprocess.run(children, capture_output=True, text=True).stdout.splitlines()
        return sorted(int(line.split()[0]) for line in listed if line.endswith(" _worker"))


@contextmanager
def program(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Serves `folder`/models (or what `arguments` say) until the block ends; then it must end cleanly by SIGTERM."""
    ready = folder / "ready.json"
    flags = ["--bind", "127.0.0.1:0", "--ready-file", str(ready), *arguments]
    home = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    with open(folder / "stderr.txt", "w") as log:
        process = start("serve", *flags, cwd=folder, env=home | dict(environment or {}), stderr=log)
    try:
        _wait_for(ready, process, folder / "stderr.txt")
        yield Program(process, json.loads(ready.read_text())["url"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0, (folder / "stderr.txt").read_text()
    finally:
        process.kill()
        process.wait()


def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """One command to its end; `options` are those of `subprocess.run`, `input` in bytes."""
    require_mark()
    pipes: dict[str, Any] = {"input": b"", "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = environment_of(options.pop("env", os.environ))
    done = subprocess.run([EXE, *arguments], env=environment, timeout=LIMIT_SECONDS, **pipes | options)
    stdout, stderr = ((said or b"").decode() for said in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """A command that goes on; `options` are those of `subprocess.Popen`."""
    require_mark()
    options["env"] = environment_of(options.pop("env", os.environ))
    return subprocess.Popen([EXE, *arguments], encoding="utf-8", **options)


def environment_of(given: Mapping[str, str]) -> dict[str, str]:
    """With a cache for all tests of this process: an executable unpacks into it, which costs time and 50 MB."""
    return {"XDG_CACHE_HOME": _cache(), **given}


@cache
def _cache() -> str:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _wait_for(ready: Path, process: "subprocess.Popen[str]", log: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not ready.exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
