"""A machine with optional backends, which are compiled here (tests/fakes/backend.c)."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests import program
from tests.program import DEMO_ID, LIMIT_SECONDS, Program

SOURCE = Path(__file__).parents[1] / "fakes" / "backend.c"
NAME = "libggml-vulkan.so"


class Machine:
    """A home and a current directory, both empty; `backends` is what the data folder has for them, `ledger` what
    processes have of a GPU."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.here = folder / "here"
        self.backends = self.home / ".local" / "share" / "shimmy" / "backends"
        self.ledger = folder / "ledger"
        self._marker = folder / "marker"
        for made in (self.here, self.backends):
            made.mkdir(parents=True)

    def backend(self, path: Path, *flags: str) -> Path:
        """A library that marks that it was opened."""
        path.parent.mkdir(parents=True, exist_ok=True)
        marking = f'-DMARKER="{self._marker}"'
        subprocess.run(["cc", "-shared", "-fPIC", marking, str(SOURCE), "-o", str(path), *flags], check=True)
        path.chmod(0o755)
        return path

    def gpu(self, num_bytes: int | None = None, *more: str) -> Path:
        """A backend that works, where it should be; with memory of its own if that is said."""
        flags = ['-DGPU="Fake0"', *more]
        if num_bytes is not None:
            self.ledger.mkdir(exist_ok=True)
            flags += [f"-DMEMORY={num_bytes}", f'-DLEDGER="{self.ledger}"']
        return self.backend(self.backends / NAME, *flags)

    @property
    def num_opened(self) -> int:
        return len(self._marker.read_text().splitlines()) if self._marker.exists() else 0

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = {"PATH": os.environ["PATH"], "HOME": str(self.home), **environment}
        return program.run(*arguments, cwd=self.here, env=given)

    def gpu_info(self, **environment: str) -> dict[str, Any]:
        """It never fails for what a backend does."""
        done = self.run("gpu-info", "--json", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        assert told["devices"][0]["name"] == "CPU"
        return dict(told)

    def reason(self, **environment: str) -> str:
        """Why the backend is absent."""
        told = {absent["name"]: absent["reason"] for absent in self.gpu_info(**environment)["absent"]}
        return str(told["vulkan"])


def ask(running: Program, model: str = DEMO_ID) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    request = urllib.request.Request(f"{running.url}/v1/chat/completions", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)
