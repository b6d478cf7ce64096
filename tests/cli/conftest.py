"""A machine of its own for each test: an empty home, an empty current folder, no variables that Shimmy reads.

`invoke` runs a command there: in this process, or, when SHIMMY_EXE names a program, as a user does.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from shimmy.cli import program as cli
from shimmy.core.settings import Settings
from tests.fakes.gguf_writer import model
from tests.fakes.instead import fake_workers
from tests.fakes.pool import START
from tests.program import IS_NAMED, require_mark, run


class Result(msgspec.Struct, frozen=True):
    exit_code: int
    stdout: str
    stderr: str


Invoke = Callable[..., Result]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; models go into `models` below it."""
    for name in os.environ:
        if name.startswith(("SHIMMY_", "HF_", "OLLAMA_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def fake(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake workers, a model that works, "echo", and one whose file is broken, "broken"."""
    model().write(machine / "models" / "echo.gguf")
    (machine / "models" / "broken.gguf").write_bytes(b"GGUF")
    if IS_NAMED:
        for name, value in fake_workers().items():
            monkeypatch.setenv(name, value)
    else:
        monkeypatch.setattr("shimmy.pool.process.worker_argv", lambda: [sys.executable, "-c", START])


@pytest.fixture
def invoke(machine: Path) -> Invoke:
    require_mark()
    return _as_process if IS_NAMED else _in_this_process


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that the server was started with; it ends at once with code 7."""
    taken: list[Settings] = []

    def serve(settings: Settings, on_progress: Any) -> int:
        taken.append(settings)
        return 7

    monkeypatch.setattr("shimmy.server.lifecycle.serve", serve)
    return taken


def _in_this_process(*arguments: str, stdin: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(cli.program, arguments, input=stdin, prog_name="shimmy", catch_exceptions=False)
    return Result(result.exit_code, result.stdout, result.stderr)


def _as_process(*arguments: str, stdin: str | bytes | None = None) -> Result:
    done = run(*arguments, input=stdin.encode() if isinstance(stdin, str) else stdin or b"")
    return Result(done.returncode, done.stdout, done.stderr)
