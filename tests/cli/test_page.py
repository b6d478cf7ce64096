"""docs/cli.md, and what else is said in two places, is true."""

import re
from pathlib import Path

import click
import pytest

from shimmy.cli.program import COMMANDS, program
from shimmy.core import errors, exit_codes

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def parameters(name: str) -> list[click.Parameter]:
    context = click.Context(program)
    command = program.get_command(context, name)
    assert command is not None
    return [each for each in command.get_params(context) if "--help" not in each.opts]


def section(name: str) -> str:
    return PAGE.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]


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


def test_the_worker_command_is_nobodys_business() -> None:
    assert "_worker" not in PAGE
