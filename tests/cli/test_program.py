"""The program as a whole: how it starts, what it imports, how it ends, and that its page in docs/ is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shimmy import __version__
from shimmy.cli import exit_codes
from shimmy.cli.program import COMMANDS, program
from shimmy.core import errors
from shimmy.server import lifecycle, listen
from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()


def run(*arguments: str, options: tuple[str, ...] = (), cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *options, "-m", "shimmy", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=100)


def parameters(name: str) -> list[click.Parameter]:
    context = click.Context(program)
    command = program.get_command(context, name)
    assert command is not None
    return [each for each in command.get_params(context) if "--help" not in each.opts]


def section(name: str) -> str:
    return PAGE.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"shimmy {__version__}\n", "")


def test_help_names_every_command(invoke: Invoke) -> None:
    listed = re.findall(r"^  (\w[a-z-]+)  ", invoke("--help").stdout, re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("arguments", [["nonsense"], ["list", "--nonsense"], ["show"], []])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: shimmy" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_next_to_nothing(name: str) -> None:
    result = run(name, "--help", options=("-X", "importtime"))
    assert result.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"msgspec", "asyncio", "logging", "platformdirs", "starlette", "hypercorn", "shimmy.server"}


def test_a_closed_pipe_is_quiet(machine: Path) -> None:
    for number in range(3):
        model().write(machine / "models" / f"{number}.gguf")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "shimmy", "list"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=machine, env=environ, stdout=writing, stderr=subprocess.PIPE, timeout=100)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, b"")


def test_the_worker_command_is_hidden_and_needs_no_click() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "shimmy", "_worker"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0
    assert "shimmy.worker.main" in result.stderr
    assert "click" not in result.stderr
    assert "_worker" not in PAGE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFound("x"), exit_codes.NOT_FOUND),
        (errors.ModelInvalid("x"), exit_codes.MODEL_FAILED),
        (errors.ModelFailed("x"), exit_codes.MODEL_FAILED),
        (errors.WorkerLost("x"), exit_codes.MODEL_FAILED),
        (errors.ContextOverflow("x"), exit_codes.FAILURE),
        (errors.ShimmyError("x"), exit_codes.FAILURE),
    ],
)
def test_which_code_an_error_has(error: errors.ShimmyError, code: int) -> None:
    assert exit_codes.of_error(error) == code


def test_the_server_uses_the_same_codes() -> None:
    assert (listen.EXIT_USAGE, listen.EXIT_CANNOT_BIND) == (exit_codes.USAGE, exit_codes.CANNOT_BIND)
    assert (lifecycle.EXIT_FAILURE, lifecycle.EXIT_INTERRUPTED) == (exit_codes.FAILURE, exit_codes.INTERRUPTED)


def test_the_page_has_every_exit_code() -> None:
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)]
    known = [value for name, value in vars(exit_codes).items() if name.isupper()]
    assert sorted(listed) == sorted(known)


def test_the_page_has_every_command_and_no_other() -> None:
    headings = re.findall(r"^## ([a-z].*)$", PAGE, re.MULTILINE)
    assert headings == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_flag_and_no_other(name: str) -> None:
    rows = re.findall(r"^\| (`--.*?) \|", section(name), re.MULTILINE)
    listed = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row)}
    flags = {option for each in parameters(name) if isinstance(each, click.Option) for option in each.opts}
    assert listed == flags


def test_the_page_has_every_variable() -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)[^|]*` \| `(SHIMMY_[A-Z_]+)` \|", section("serve"), re.MULTILINE)
    variables = {each.opts[0]: each.envvar for each in parameters("serve") if each.envvar}
    assert dict(rows) == {**variables, "--model-dirs": "SHIMMY_MODEL_PATHS"}
