"""A machine of its own for each test: an empty home, an empty current folder, no variables that Shimmy reads."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shimmy.cli.program import program

Invoke = Callable[..., Result]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; models go into `models` below it."""
    for name in os.environ:
        if name.startswith(("SHIMMY_", "HF_", "OLLAMA_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def invoke(machine: Path) -> Invoke:
    def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(program, arguments, input=stdin, prog_name="shimmy", catch_exceptions=False)

    return call
