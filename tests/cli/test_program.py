"""The program as a whole: how it starts, what it imports, how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shimmy import __version__
from shimmy.cli.program import COMMANDS
from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import model
from tests.program import run, unfrozen

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[2]
DESCRIPTIONS = {
    "serve": "Answer requests until told to stop.\n\n  Each flag with a value can also be given as SHIMMY_",
    "list": "List the models found on this machine, and the files that cannot be served.",
    "show": "Show what is known of the model NAME from its header.",
    "discover": "Search all known places anew; print what is where",
    "probe": "Load the model NAME once and say what came of it.",
    "generate": "Let the model NAME answer a prompt.",
    "quantize": "Write the model in the file IN as the file OUT, quantized to TYPE.",
    "ps": "List the models that a running server has loaded.",
    "stop": "Unload the model NAME from a running server, unless it is in use.",
    "fit": "Estimate what the model NAME takes of this machine's memory",
    "bench": "Measure how long the model NAME takes to load and to its first token",
    "convert": "Write the SafeTensors model in the folder IN as the GGUF file OUT.",
    "pull": "Bring a model into the store, where every command finds it.",
    "rm": "Remove models from the store. Files that were imported stay where they are.",
    "cp": "Give the model SOURCE the further name TARGET.",
    "import": "Take models into the store that stay where they are.",
    "gpu-info": "Show the devices that models can run on, and why others are absent.",
}


def imported(stderr: str) -> set[str]:
    """The modules in what PYTHONPROFILEIMPORTTIME makes Python write."""
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines()}


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"shimmy {__version__}\n", "")


@unfrozen("it has no Python to be asked for a module")
def test_it_is_a_module_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shimmy", "--version"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).stdout == f"shimmy {__version__}\n".encode()


def test_help_describes_the_program_and_names_every_command() -> None:
    said = run("--help").stdout
    assert "\n  Serve the GGUF models on this machine over the OpenAI API.\n" in said
    listed = dict(re.findall(r"^  (\w[a-z-]+)  +(\w+)", said, re.MULTILINE))
    assert listed == {name: text.split()[0] for name, text in DESCRIPTIONS.items()}
    assert list(listed) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_the_command(name: str) -> None:
    """As a process, because the executable has no docstrings."""
    said = run(name, "--help").stdout
    assert said.startswith(f"Usage: shimmy {name} ")
    assert f"\n  {DESCRIPTIONS[name]}" in said


@pytest.mark.parametrize("arguments", [["nonsense"], ["list", "--nonsense"], ["show"], []])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage: shimmy" in result.stderr


@unfrozen("it does not say what it imports")
@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_next_to_nothing(name: str) -> None:
    result = run(name, "--help", env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert result.returncode == 0
    heavy = {"msgspec", "asyncio", "logging", "platformdirs", "starlette", "hypercorn", "shimmy.server"}
    assert "shimmy.cli.program" in imported(result.stderr) and not imported(result.stderr) & heavy


def test_a_closed_pipe_is_quiet(machine: Path) -> None:
    for number in range(3):
        model().write(machine / "models" / f"{number}.gguf")
    reading, writing = os.pipe()
    os.close(reading)
    result = run("list", stdout=writing)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_worker_without_a_server_leaves() -> None:
    result = run("_worker")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@unfrozen("it does not say what it imports")
def test_the_worker_command_needs_no_click() -> None:
    modules = imported(run("_worker", env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}).stderr)
    assert "shimmy.worker.main" in modules and "click" not in modules


def test_the_worker_command_is_hidden() -> None:
    assert "_worker" not in run("--help").stdout
