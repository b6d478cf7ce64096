"""The real program as a user runs it: `shimmy serve` with real models, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What to test: the executable that SHIMMY_EXE names, or this checkout.
COMMAND = [os.environ["SHIMMY_EXE"]] if "SHIMMY_EXE" in os.environ else [sys.executable, "-m", "shimmy"]
DEMO = Path(__file__).parents[1] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_ID = "smollm2-135m-instruct.q4-1"
LIMIT_SECONDS = 90


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
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return sorted(int(pid) for pid in listed.stdout.split())


@contextmanager
def program(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Program]:
    """Serves `folder`/models (or what `arguments` say) until the block ends; then it must end cleanly by SIGTERM."""
    ready = folder / "ready.json"
    command = [*COMMAND, "serve", "--bind", "127.0.0.1:0", "--ready-file", str(ready), *arguments]
    home = {"HOME": str(folder), "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[1])}
    with open(folder / "stderr.txt", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=home | (environment or {}), stderr=log, text=True)
    try:
        _wait_for(ready, process, folder / "stderr.txt")
        yield Program(process, json.loads(ready.read_text())["url"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0, (folder / "stderr.txt").read_text()
    finally:
        process.kill()
        process.wait()


def _wait_for(ready: Path, process: "subprocess.Popen[str]", log: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not ready.exists():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
